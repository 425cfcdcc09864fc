"""What the past-policy loss adds to an update of the paper's network: predicted from FLOPs,
measured, and its memory.

plain       MuZero's loss alone
latents     + the target network's representation of all T + 1 states, and one past head
heads       + the other 127 heads of the buffer
"""

import dataclasses
import time

import jax
import numpy as np

from configs.presets import PRESETS
from configs.schema import Config, EnvConfig
from learner.update import Minibatch, UpdateFns, make_put
from scripts.benchmarks import settings
from scripts.benchmarks.measure import Loop, alternate, ratios, report, summary
from scripts.program.assemble import build_learner, env_spec, num_starts


def run(rounds: int, seconds: float, tiny: bool) -> dict:
    """Returns the report: updates per second of the three losses on one sequence; the "bare loop"
    is the plain one.

    One update of the paper's network takes a core a quarter of a minute: a measurement is one
    update at least, whatever `seconds` says.
    """
    variants = three_losses(config_of(tiny))
    compiled = {name: compile_update(config) for name, config in variants.items()}
    loops = {name: make_loop(*parts) for name, parts in compiled.items()}
    rates = alternate(loops, "heads", "latents", rounds=rounds, seconds=seconds, turns=1)
    programs = {name: parts[0] for name, parts in compiled.items()}
    flops = {name: count_flops(config) for name, config in variants.items()}

    def slower(name, than):
        return summary([1 / ratio for ratio in ratios(rates, name, than)])

    return report(
        "value-buffer", rates, "heads", "plain", unit="updates/s",
        measured={"latents / "
                  "plain": slower("latents", "plain"), "heads / "
                                                       "latents": slower("heads", "latents")},
        predicted_from_flops={
            "latents / plain": flops["latents"] / flops["plain"],
            "heads / latents": flops["heads"] / flops["latents"],
        },
        flops_per_update=flops,
        memory_bytes={name: memory(variants[name], program) for name, program in programs.items()},
        states_per_sequence=variants["heads"].actors.sequence_length,
    )  # fmt: skip


def config_of(tiny: bool) -> Config:
    """Returns the paper's configuration with one sequence a batch, or the smallest one."""
    config = (
        settings.TINY
        if tiny
        else dataclasses.replace(PRESETS["atari-paper"], env=EnvConfig(name="breakout"))
    )
    return dataclasses.replace(
        config, learner=dataclasses.replace(config.learner, batch_size=1, num_devices=1)
    )


def three_losses(config: Config) -> dict[str, Config]:
    """Returns the configurations of the three updates by name."""

    def change(section, **fields):
        return dataclasses.replace(
            config, **{section: dataclasses.replace(getattr(config, section), **fields)}
        )

    return {
        "plain": change("loss", past_weight=0.0),
        "latents": change("value_buffer", size=1),
        "heads": config,
    }


def compile_update(config: Config) -> tuple:
    """Returns the compiled programs, the state before an update, a batch of one sequence and its
    start states.
    """
    lowered, state, batch, starts = lower_update(config)
    return UpdateFns(*(program.compile() for program in lowered)), state, batch, starts


def lower_update(config: Config) -> tuple:
    """Returns the programs as they go to the compiler, and the arguments of `compile_update`'s."""
    spec = env_spec(config.env)
    state, fns, mesh = build_learner(config, spec)
    put = make_put(mesh)
    batch = put(settings.synthetic_rollout(config, spec, 1).trajectory)
    starts = put(np.arange(num_starts(config), dtype=np.int32)[None])
    prepared = jax.eval_shape(fns.prepare, state, batch)
    lowered = UpdateFns(
        fns.prepare.lower(state, batch), fns.update.lower(state, Minibatch(batch, prepared, starts))
    )
    return lowered, state, batch, starts


def count_flops(config: Config) -> float:
    """Returns the operations of an update, targets included, by XLA's count.

    All heads in one chunk: a loop's body is counted once, however often it runs.
    """
    buffer = dataclasses.replace(config.value_buffer, chunk_size=config.value_buffer.size)
    lowered, *_ = lower_update(dataclasses.replace(config, value_buffer=buffer))
    return sum(program.cost_analysis()["flops"] for program in lowered)


def make_loop(programs: UpdateFns, state, batch, starts) -> Loop:
    """Returns what makes at least one update and returns updates per second."""

    def loop(seconds: float) -> float:
        nonlocal state
        count, started = 0, time.perf_counter()
        while count == 0 or time.perf_counter() - started < seconds:
            minibatch = Minibatch(batch, programs.prepare(state, batch), starts)
            state, count = jax.block_until_ready(programs.update(state, minibatch)[0]), count + 1
        return count / (time.perf_counter() - started)

    return loop


def memory(config: Config, programs: UpdateFns) -> dict[str, int]:
    """Returns what an update needs, and what the logits of the past heads would take if they
    existed at once.
    """
    analysis = programs.update.memory_analysis()
    size = config.value_buffer.size if config.loss.past_weight > 0 else 0
    logits_of_a_head = (
        4 * num_starts(config) * (config.loss.num_unroll_steps + 1) * config.support.num_bins
    )
    return {
        "state_and_batch": analysis.argument_size_in_bytes,
        "temporary": max(program.memory_analysis().temp_size_in_bytes for program in programs),
        "value_logits_of_one_chunk": min(size, config.value_buffer.chunk_size) * logits_of_a_head,
        "value_logits_of_all_heads": size * logits_of_a_head,
    }
