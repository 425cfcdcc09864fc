"""The real programs as a fault meets them: started, waited for, read from their files."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import psutil

from learner.records.run_directory import read_rows
from scripts.program.process import run_as_module

ROOT = Path(__file__).resolve().parents[2]
SECONDS = 1800


def _environment(folder: Path) -> dict[str, str]:
    return os.environ | {
        "JAX_PLATFORMS": "cpu",
        "JAX_COMPILATION_CACHE_DIR": str(folder / "compiled"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
    }


def start(
    folder: Path, program: str, *arguments: object, through: Sequence[str] = ()
) -> subprocess.Popen:
    """Starts a program of `scripts/` in a session of its own, as the last arguments of the command
    `through`.

    All programs of a folder share their compiled functions.
    """
    command = [*through, sys.executable, *run_as_module(program, *map(str, arguments))]
    pipes = dict(stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    return subprocess.Popen(
        command, cwd=ROOT, env=_environment(folder), start_new_session=True, **pipes
    )


def run(folder: Path, program: str, *arguments: object) -> str:
    """Returns the output of a program. Raises RuntimeError if it fails."""
    with start(folder, program, *arguments) as process:
        output = process.communicate(timeout=SECONDS)[0]
    if process.returncode:
        raise RuntimeError(f"{program} ended with {process.returncode}: {output[-300:]}")
    return output


def wait_for(condition: Callable[[], bool], process: subprocess.Popen) -> None:
    """Returns once the condition holds.

    Raises RuntimeError if the process ends before, or after `SECONDS`.
    """
    deadline = time.monotonic() + SECONDS
    while not condition():
        if process.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError(f"ended too early, or never got there: {process.returncode}")
        time.sleep(0.02)


def steps(run: Path) -> list[int]:
    """Returns the updates behind the checkpoints of a run."""
    return sorted(int(path.parent.name) for path in run.glob("checkpoints/[0-9]*/manifest.json"))


def rows(run: Path) -> list[dict]:
    """Returns the rows of a run's metrics that are whole."""
    return read_rows(run / "metrics.jsonl")


def orphans(run: Path) -> list[str]:
    """Returns what a run that has ended should not leave behind: temporary files and checkpoints
    without a manifest.
    """
    halves = [path for path in run.glob("checkpoints/*") if path.is_dir() and path.name != "best"]
    halves = [path for path in halves if not (path / "manifest.json").exists()]
    return [str(path.relative_to(run)) for path in [*run.rglob(".*"), *halves]]


def learner_of(process: subprocess.Popen) -> psutil.Process:
    """Returns the learner that a program with --max-restarts supervises; it leads a session of its
    own, Ray in it.
    """
    (learner,) = psutil.Process(process.pid).children()
    return learner


def left_behind(*sessions: int) -> list[str]:
    """Returns the processes of these sessions (a program's is its pid) that have not ended within a
    minute and a half.

    Two of Ray's agents notice only after a minute that the node they served is gone.
    """
    for _ in range(900):
        alive = [process for process in psutil.process_iter() if _session(process.pid) in sessions]
        if not alive:
            break
        time.sleep(0.1)
    return [str(process) for process in alive]


def _session(pid: int) -> int | None:
    try:
        return None if psutil.Process(pid).status() == psutil.STATUS_ZOMBIE else os.getsid(pid)
    except (OSError, psutil.Error):
        return None
