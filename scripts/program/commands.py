"""What the programs share: one line and an exit code for every foreseen failure, checks before
anything starts.
"""

import os
import subprocess
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

import gymnasium

from actors.environments import EnvironmentSpec, environment_spec, make_environment
from actors.identity import CodeMismatch
from actors.observations import channels_first
from actors.pool import ActorPoolError
from actors.states import why_not_saved
from configs.checks import check_devices
from configs.schema import Config, ConfigError
from configs.serialise import from_dict
from learner.loop import NonFiniteError
from learner.records import run_directory
from learner.records.checkpoint import CheckpointError, CheckpointWriteError
from learner.records.run_directory import NotWritten, RunDirectory, RunDirectoryError
from scripts.program import process
from scripts.program.exit_codes import ExitCode
from scripts.program.streams import ClosedPipeSurvivor

_FAILURES = (  # the first that fits; anything else is a traceback and ExitCode.CRASH
    (ConfigError, ExitCode.BAD_INPUT),
    (CodeMismatch, ExitCode.BAD_INPUT),
    (RunDirectoryError, ExitCode.BAD_INPUT),
    (CheckpointWriteError, ExitCode.NOT_SAVED),
    (NotWritten, ExitCode.NOT_SAVED),
    (CheckpointError, ExitCode.BAD_INPUT),
    (ActorPoolError, ExitCode.ACTORS_LOST),
    (NonFiniteError, ExitCode.NOT_FINITE),
)


def run(main: Callable[[list[str]], int]) -> int:
    """Returns the exit code of `main(sys.argv[1:])`, after one clear line for every failure that
    was foreseen.
    """
    process.follow_parent()
    sys.stdout, sys.stderr = ClosedPipeSurvivor(sys.stdout), ClosedPipeSurvivor(sys.stderr)
    try:
        return main(sys.argv[1:])
    except tuple(kind for kind, _ in _FAILURES) as error:
        print(f"error: {error}", file=sys.stderr)
        return next(code for kind, code in _FAILURES if isinstance(error, kind))
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return ExitCode.SIGINT


def check_environment(config: Config) -> EnvironmentSpec:
    """Returns the environment's spec, after a first reset and decision.

    Raises `ConfigError` for an unknown or unsupported one, and for one that fails or does not keep
    to its spaces.
    """
    name = config.env.name
    try:
        env = make_environment(config.env, training=True)
    except (ValueError, ImportError, gymnasium.error.Error) as error:
        raise ConfigError(f"env.name = {name}: {error}") from error
    except Exception as error:  # the code of a user can raise anything
        raise ConfigError(f"env.name = {name}: it cannot be made: {_told(error)}") from error
    spec, reason = environment_spec(env), why_not_saved(env)
    try:
        env.reset(seed=0)
        env.step(0)
    except Exception as error:
        raise ConfigError(
            f"env.name = {name}: its first reset and decision fail: {_told(error)}"
        ) from error
    env.close()
    if config.deterministic and reason is not None:
        raise ConfigError(f"env.name = {config.env.name}: not with deterministic = True: {reason}")
    return spec


def _told(error: Exception) -> str:
    """Returns a line of an error in a user's code: kind, message and where it was raised."""
    place = traceback.extract_tb(error.__traceback__)[-1]
    message = " ".join(str(error).split())
    return f"{type(error).__name__}: {message} ({place.filename}, line {place.lineno})"


def channels_note(spec: EnvironmentSpec) -> str | None:
    """Returns a line for images whose channels seem to come first, None for others."""
    if not channels_first(spec.observation_shape):
        return None
    height, width, channels = spec.observation_shape
    return (
        f"observations {spec.observation_shape} are taken for {channels} channels of "
        f"{height}×{width}; if the channels come first, wrap the environment: "
        "gymnasium.wrappers.TransformObservation(env, lambda x: np.moveaxis(x, 0, -1), space)"
    )


def check_machine(config: Config) -> None:
    """Raises `ConfigError` if the devices of this process do not fit the batch."""
    learner = config.learner
    is_elsewhere = learner.num_processes > 1  # where nobody can look from here
    is_known = is_elsewhere or learner.num_devices == 1
    check_devices(
        config, learner.num_devices or 1 if is_known else _count_devices(learner.num_devices or 1)
    )


def _count_devices(cpu_devices: int) -> int:
    """Returns the local devices as a child process sees them: Ray has to be started before JAX has
    threads here.

    Raises `ConfigError` with JAX's own words if it finds none.
    """
    command = [sys.executable, "-P", "-c", "import jax; print(jax.local_device_count())"]
    environment = os.environ | {"JAX_NUM_CPU_DEVICES": str(cpu_devices)}
    probe = subprocess.run(command, check=False, capture_output=True, text=True, env=environment)
    if probe.returncode != 0:
        reason = (probe.stderr.strip().splitlines() or [f"exit code {probe.returncode}"])[-1]
        raise ConfigError(f"learner.num_devices: JAX finds no device here: {reason}")
    return int(probe.stdout)


def default_path(preset: str, config: Config) -> Path:
    """Returns the run directory of a run that was given none."""
    return run_directory.default_path(preset, config.env.name, config.seed)


def checkpoint_name(text: str) -> int | str:
    """Returns `latest`, `best` or a number of updates. Raises `ConfigError` for anything else."""
    if text in ("latest", "best"):
        return text
    if not text.isdecimal():
        raise ConfigError(f"checkpoint = {text}: must be latest, best or a number of updates")
    return int(text)


def positive(name: str, value: int) -> int:
    """Returns `value`. Raises `ConfigError` unless it is above 0."""
    if value <= 0:
        raise ConfigError(f"{name} = {value}: must be above 0")
    return value


def make_folder(name: str, path: Path) -> None:
    """Makes a directory for output. Raises `ConfigError` if option `name` cannot be one."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"{name} {path}: {error}") from error


def make_folder_of(name: str, file: Path) -> None:
    """Makes the folder of a file for output.

    Raises `ConfigError` if option `name` cannot be one.
    """
    make_folder(name, file.parent)
    if file.is_dir():
        raise ConfigError(f"{name} {file}: is a directory, must be a file")


def open_run(path: str | Path) -> tuple[RunDirectory, Config]:
    """Returns an existing run and its configuration."""
    directory = RunDirectory.open(path)
    return directory, from_dict(directory.read_config())
