"""A training run around its session: weights to start from, Ray, one learner or a group of them,
the final score.
"""

import dataclasses
import json
import shlex
from collections.abc import Callable
from pathlib import Path

import jax

from actors.environments import EnvironmentSpec
from actors.identity import CodeMismatch
from configs.checks import check
from configs.schema import Config, ConfigError, StopConfig
from configs.serialise import differences, to_dict
from learner.records.checkpoint_files import arrays_bytes, complete_slots
from learner.records.run_directory import RunDirectory
from muzero.types import Params
from scripts.playing import evaluation
from scripts.program import assemble, process
from scripts.program.commands import (
    channels_note,
    check_environment,
    check_machine,
    checkpoint_name,
    open_run,
)
from scripts.program.exit_codes import ExitCode
from scripts.program.memory import check_replay
from scripts.training import cluster, core_shares, ending, group, supervision
from scripts.training.beginning import Start
from scripts.training.interrupts import Interrupts
from scripts.training.session import Outcome, run_session


def start(
    config: Config,
    path: Path,
    argv: list[str],
    *,
    ray_address: str | None,
    init_from: str | None,
    max_restarts: int,
    dry_run: bool,
) -> int:
    """Checks everything, then trains a new run, under a supervisor if it may be restarted; returns
    the exit code.

    Args:
      config: of the run, as the user gave it.
      path: of the run.
      argv: arguments of `train.py`, for the record and for a supervised child.
      ray_address: of a running Ray cluster, None for an embedded one.
      init_from: `RUN_DIR` or `RUN_DIR@N` whose weights the run starts from.
      max_restarts: of a learner that died.
      dry_run: only print the settings.
    """
    config = core_shares.resolve(config, ray_address)
    check(config)
    supervision.check(max_restarts)
    spec = check_environment(config)
    check_machine(config)
    memory = check_replay(config, spec)
    load_params = initial_params(config, spec, init_from)
    if dry_run:
        print(json.dumps(to_dict(config), indent=2))
        return ExitCode.DONE
    if max_restarts:
        first = [
            "train",
            *supervision.without(supervision.without(argv, supervision.OPTION), "--run-dir"),
        ]
        address = ["--ray-address", ray_address] if ray_address else []
        return supervision.supervise([*first, "--run-dir", str(path)], path, address, max_restarts)
    _tell(memory)
    _tell(channels_note(spec))
    return train_new(
        config, path, ["scripts/train.py", *argv], load_params=load_params, ray_address=ray_address
    )


def initial_params(
    config: Config, spec: EnvironmentSpec, init_from: str | None
) -> Callable[[], Params] | None:
    """Returns what loads the weights of `RUN_DIR` or `RUN_DIR@N`, once Ray runs.

    Raises `ConfigError` if they are of another kind of agent, `CheckpointError` if there is no such
    checkpoint.
    """
    if init_from is None:
        return None
    path, at, number = init_from.rpartition("@")
    if not at or Path(init_from).is_dir():  # a path may have an @ of its own
        path, number = init_from, ""
    directory, stored = open_run(path)
    other = check_environment(stored)
    if other != spec:
        raise ConfigError(
            f"--init-from {init_from}: its environment {stored.env.name} has {other}, "
            f"{config.env.name} has {spec}; weights fit only the same shapes and actions"
        )

    def agent(c):
        return {name: to_dict(c)[name] for name in ("network", "support")}

    changed = differences(agent(stored), agent(config))
    if changed:
        raise ConfigError(f"--init-from {init_from}: another network: {'; '.join(changed)}")
    which = checkpoint_name(number or "latest")
    evaluation.require_checkpoint(directory, which)
    return lambda: evaluation.load_params(directory, which)[0]


def train_new(
    config: Config,
    path: Path,
    command: list[str],
    *,
    load_params: Callable[[], Params] | None,
    ray_address: str | None,
) -> int:
    """Trains a new run in `path`; returns the exit code."""
    cluster.check_address(ray_address)
    try:
        directory = RunDirectory.create(path, to_dict(config), command, {"seed": config.seed})
    except OSError as error:
        raise ConfigError(f"--run-dir {path}: {error}") from error
    with directory.lock():
        try:
            again = [
                "scripts/resume.py",
                str(path),
                *([] if ray_address is None else ["--ray-address", ray_address]),
            ]
            return _train(
                config, directory, Start(load_params=load_params, ray_address=ray_address), again
            )
        except (
            ConfigError,
            CodeMismatch,
        ):  # what only a running Ray can tell; nothing has been learned
            directory.withdraw()
            raise


def resume(path: Path, stop: StopConfig, command: list[str], *, ray_address: str | None) -> int:
    """Goes on with the run in `path` until a limit of `stop`; returns the exit code.

    A run that died before its first checkpoint has learned nothing and starts.
    """
    directory, config = open_run(path)
    config = dataclasses.replace(config, stop=stop)
    check(config)
    spec = check_environment(config)
    check_machine(config)
    _tell(check_replay(config, spec))
    cluster.check_address(ray_address)
    with directory.lock():
        has_begun = bool(complete_slots(directory.checkpoints)) or not directory.is_empty()
        if not has_begun and directory.was_given("--init-from"):
            raise ConfigError(
                f"{directory.path}: died before its first checkpoint, and was to start from other "
                f"weights: "
                "delete it and start it again with scripts/train.py"
            )
        directory.record_resume(command, {"seed": config.seed})
        return _train(config, directory, Start(resume=has_begun, ray_address=ray_address), command)


def _tell(line: str | None) -> None:
    if line is not None:
        print(line, flush=True)


def _train(config: Config, directory: RunDirectory, start: Start, again: list[str]) -> int:
    """Trains; returns the exit code. `again` is what goes on with the run."""
    ray_address = start.ray_address
    print(f"run directory: {directory.path}", flush=True)
    actors = config.actors
    # Before JAX or anything else has threads in this process: Ray forks, and a fork beside a lock
    # that a thread holds hangs for ever (seen here).
    num_processes = config.learner.num_processes
    num_cpus = num_processes * actors.num_workers * actors.cpus_per_worker + num_processes * (
        num_processes > 1
    )
    print("starting Ray" if ray_address is None else f"joining Ray at {ray_address}", flush=True)
    cluster.start_ray(ray_address, num_cpus=num_cpus)
    try:
        cluster.check_shared("--run-dir", directory.path, ray_address)
        if ray_address is not None:
            cluster.tell_room(num_cpus)
        else:
            cluster.require_devices(
                actors.device, num_processes * actors.num_workers, actors.device_fraction
            )
        counters, interrupted, num_lost = _run_learner(config, directory, start)
    finally:
        cluster.stop_ray()
    if (saved := max(complete_slots(directory.checkpoints), default=0)) == counters.num_updates:
        print(f"saved after {counters.num_updates:,} updates, {counters.num_frames:,} frames")
        if size := arrays_bytes(directory.checkpoints / str(saved)):
            print(f"the actors' and the replay's part of the checkpoint takes {size / 1e6:.1f} MB")
    else:
        print(
            f"{counters.num_updates:,} updates were made; the last checkpoint is of {saved:,}, the "
            f"others come again"
        )
    if num_lost and not config.deterministic:
        print(f"{num_lost} sequences were in flight and are lost; a resumed session plays others")
    if interrupted is not None:
        print(f"interrupted; go on with: {process.spelling('resume')} {shlex.join(again[1:])}")
        return ExitCode[interrupted]
    ending.finish(config, directory)
    return ExitCode.DONE


def _run_learner(config: Config, directory: RunDirectory, start: Start) -> Outcome:
    """Trains in this process, or in several others, whose lost sequences nobody counts."""
    if config.learner.num_processes > 1:
        return group.run_group(config, directory, start)
    assemble.split_cpu(config)
    directory.record_devices([f"{d.platform}:{d.id} {d.device_kind}" for d in jax.devices()])
    return run_session(config, directory, start, Interrupts())
