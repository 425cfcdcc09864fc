"""Actors and learner together: how much of the cores' time is search, emulator and update, and what
the rest is.
"""

import dataclasses
import os
import time
from typing import NamedTuple

import jax

from configs.presets import PRESETS
from configs.schema import Config
from learner.loop import Counters
from learner.update import make_put
from muzero.types import PublishedParams
from scripts.benchmarks import bare, settings
from scripts.benchmarks.actors import running_pool
from scripts.benchmarks.measure import alternate, report, summary
from scripts.benchmarks.pinned import PinnedProcess, run_together
from scripts.program.assemble import (
    build_feed,
    build_learner,
    build_loop,
    build_passes,
    env_spec,
    split_cpu,
)
from scripts.training.core_shares import share_cores

_SETTLED_SECONDS = 0.02


class Round(NamedTuple):
    """What the system did in one round."""

    num_steps: int
    num_updates: int
    seconds: float
    timings: dict[str, float]  # fractions of the round: see `learner/records/metrics.py`


def run(rounds: int, seconds: float, tiny: bool, preset: str | None = None) -> dict:
    """Returns the report: bare core-seconds of the work done over core-seconds spent; `rates` are
    such fractions.

    Args:
      rounds, seconds, tiny: as in the other benchmarks.
      preset: the Atari preset whose work is measured; None: the reference network, learner and
        actors in turn.
    """
    config = settings.TINY if tiny else PRESETS[preset] if preset else settings.REFERENCE_SYSTEM
    cores = os.sched_getaffinity(0)
    if len(cores) < 2:
        return {"benchmark": "system", "failure": "needs two cores, one for each of the bare loops"}
    share = share_cores(config, len(cores))
    config = dataclasses.replace(
        config, actors=dataclasses.replace(config.actors, num_workers=share.num_workers)
    )
    num_devices = None if preset else len(cores)  # the learner's turn is on all cores
    on_all_devices = dataclasses.replace(
        config, learner=dataclasses.replace(config.learner, num_devices=num_devices)
    )
    split_cpu(on_all_devices)
    with (
        running_pool(config, cores_per_worker=share.cores_per_worker) as pool,
        System(on_all_devices, pool) as system,
        PinnedProcess(
            {max(cores)}, bare.make_actor, config, config.actors.environments_per_worker
        ) as actor,
        PinnedProcess({min(cores)}, bare.make_learner, config) as learner,
    ):
        meter = Meter(system, actor, learner)
        loops = {"bare": meter.bare, "system": meter.efficiency}
        rates = alternate(loops, "system", "bare", rounds=rounds, seconds=seconds, turns=1)
    measured = meter.rounds[1:]  # the first one compiled
    return report(
        "system", rates, "system", "bare", unit="bare core-seconds a core-second",
        steps_per_second=summary([row.num_steps / row.seconds for row in measured]),
        updates_per_second=summary([row.num_updates / row.seconds for row in measured]),
        bare_steps_per_core_second=summary(meter.steps[1:]),
        bare_updates_per_core_second=summary(meter.updates[1:]), **explained(measured),
        preset=preset, devices=jax.device_count(), share=share._asdict(),
    )  # fmt: skip


class Meter:
    """Prices the system's work at what the bare loops ask for it, each measured anew in every
    round.
    """

    def __init__(self, system: "System", actor: PinnedProcess, learner: PinnedProcess):
        self._system, self._actor, self._learner = system, actor, learner
        self._num_cores = len(os.sched_getaffinity(0))
        self.rounds: list[Round] = []
        self.steps: list[float] = []  # a core-second
        self.updates: list[float] = []

    def bare(self, seconds: float) -> float:
        """Measures both prices at the same time, as the system's cores work; returns 1, the work of
        a core-second.
        """
        steps, updates = run_together([self._actor, self._learner], seconds)
        self.steps.append(steps)
        self.updates.append(updates)
        return 1.0

    def efficiency(self, seconds: float) -> float:
        """Returns the bare core-seconds of one round's work, over the core-seconds that it took."""
        done = self._system.run(seconds)
        self.rounds.append(done)
        work = done.num_steps / self.steps[-1] + done.num_updates / self.updates[-1]
        return work / (done.seconds * self._num_cores)


def explained(done: list[Round]) -> dict:
    """Returns the fraction of time that the learner waited, and for what the feed spent its own
    meanwhile.
    """
    total = sum(row.seconds for row in done)
    mean = {
        name: sum(row.timings[name] * row.seconds for row in done) / total
        for name in done[0].timings
    }
    causes = {
        "the actors are slower": mean["perf/feed_wait_fraction"],
        "stacking and transfer": mean["perf/feed_copy_fraction"],
    }
    return {"timings": mean, "learner_waits_because": max(causes, key=causes.get)}


class System:
    """Feed and learner loop on top of a running pool, at rest between rounds; a context manager."""

    def __init__(self, config: Config, pool):
        state, update, mesh = build_learner(config, env_spec(config.env))
        self._pool = pool

        def publish(version, params):
            return pool.publish(PublishedParams(version, params))

        self._loop = build_loop(config, state, Counters(), update, publish)
        passes = build_passes(config, env_spec(config.env), make_put(mesh), Counters(), process=0)
        self._feed = build_feed(config, pool.next_rollout, passes, Counters())

    def __enter__(self) -> "System":
        return self

    def __exit__(self, *exception) -> None:
        self._feed.close()

    def run(self, seconds: float) -> Round:
        """Trains for `seconds` and until everything rests: a round begins and ends with the same
        amount of data.
        """
        self._settle()
        before, started = self._loop.counters, time.perf_counter()
        while time.perf_counter() - started < seconds or self._loop.counters == before:
            self._loop.run_batch(self._feed)
        self._settle()
        elapsed, after = time.perf_counter() - started, self._loop.counters
        scalars = self._loop.report().scalars | self._feed.pop_metrics()
        timings = {
            name: value
            for name, value in scalars.items()
            if name.startswith("perf/") and "fraction" in name
        }
        return Round(
            after.num_steps - before.num_steps,
            after.num_updates - before.num_updates,
            elapsed,
            timings,
        )

    def _settle(self) -> None:
        jax.block_until_ready(self._loop.state)
        while not (self._feed.is_idle and self._pool.num_in_flight == self._pool.num_waiting):
            time.sleep(_SETTLED_SECONDS)
