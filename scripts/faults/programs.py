"""Faults of whole runs, with the real programs: killed, told to end, restarted, and compared bit for bit.

The runs are the smallest that have everything; they share their compiled functions.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil

from scripts.digests import run_digests
from scripts.exit_codes import ExitCode
from scripts.faults.registry import Outcome, fault

_ROOT = Path(__file__).resolve().parents[2]
_SECONDS = 1800
_IN_ROUNDS = (
    "--deterministic", "--learner.no-collect-ahead", "--actors.num-workers", "2", "--learner.batch-size", "4",
    "--learner.num-passes", "2", "--learner.num-minibatches", "2", "--learner.publish-interval", "4",
    "--optimiser.schedule-num-updates", "64", "--log.checkpoint-interval-minutes", "0.0001",
)  # fmt: skip
_SAME = "SHA-256 of parameters, averages, optimiser, value buffer, counters and environments as in an uninterrupted run"


def _environment(folder: Path) -> dict[str, str]:
    return os.environ | {
        "JAX_PLATFORMS": "cpu",
        "JAX_COMPILATION_CACHE_DIR": str(folder / "compiled"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
    }


def _start(folder: Path, program: str, *arguments: object) -> subprocess.Popen:
    command = [sys.executable, f"scripts/{program}.py", *map(str, arguments)]
    pipes = dict(stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    return subprocess.Popen(command, cwd=_ROOT, env=_environment(folder), start_new_session=True, **pipes)


def _run(folder: Path, program: str, *arguments: object) -> str:
    """Returns the output of a program. Raises RuntimeError if it fails."""
    with _start(folder, program, *arguments) as process:
        output = process.communicate(timeout=_SECONDS)[0]
    if process.returncode:
        raise RuntimeError(f"{program} ended with {process.returncode}: {output[-300:]}")
    return output


def _wait_for(condition: Callable[[], bool], process: subprocess.Popen) -> None:
    deadline = time.monotonic() + _SECONDS
    while not condition():
        if process.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError(f"ended too early, or never got there: {process.returncode}")
        time.sleep(0.02)


def _steps(run: Path) -> list[int]:
    return sorted(int(path.parent.name) for path in run.glob("checkpoints/[0-9]*/manifest.json"))


def _rows(run: Path) -> list[dict]:
    path = run / "metrics.jsonl"
    lines = path.read_text().split("\n")[:-1] if path.exists() else []
    return [json.loads(line) for line in lines]


def _left_behind(process: subprocess.Popen) -> list[int]:
    """Returns the processes of the program's session that have not ended within half a minute."""
    for _ in range(300):
        alive = [p.pid for p in psutil.process_iter() if _session(p.pid) == process.pid]
        if not alive:
            break
        time.sleep(0.1)
    return alive


def _session(pid: int) -> int | None:
    try:
        return None if psutil.Process(pid).status() == psutil.STATUS_ZOMBIE else os.getsid(pid)
    except (OSError, psutil.Error):
        return None


def _compare(folder: Path, environment: str, *, kill: bool) -> Outcome:
    """Returns whether a run of 16 updates equals one that is stopped after 8, or killed, and resumed."""
    settings = ("smoke", "--env.name", environment, *_IN_ROUNDS)
    _run(folder, "train", *settings, "--run-dir", folder / "whole", "--stop.num-updates", 16)
    before = _kill_midway(folder, settings) if kill else _stop_half_way(folder, settings)
    _run(folder, "resume", folder / "parts", "--stop.num-updates", 16)
    whole, parts = run_digests(folder / "whole"), run_digests(folder / "parts")
    equal = [name for name in whole if whole[name] == parts[name]]
    told = f"{len(equal)} of {len(whole)} digests equal ({whole['params'][:8]}, {whole['environments'][:8]}); {before}"
    return Outcome(len(equal) == len(whole) == 8, told, 0, 0)


def _stop_half_way(folder: Path, settings: tuple) -> str:
    _run(folder, "train", *settings, "--run-dir", folder / "parts", "--stop.num-updates", 8)
    return "stopped after 8"


def _kill_midway(folder: Path, settings: tuple) -> str:
    with _start(folder, "train", *settings, "--run-dir", folder / "parts", "--stop.num-updates", 10**6) as process:
        _wait_for(lambda: len(_steps(folder / "parts")) > 1, process)
        os.killpg(process.pid, signal.SIGKILL)
    for slot in [step for step in _steps(folder / "parts") if step > 12]:  # it may have been quicker than we
        (folder / "parts" / "checkpoints" / str(slot) / "manifest.json").unlink()
    return f"killed, resumed from {_steps(folder / 'parts')[-1]}"


def _deterministic(environment: str, *, kill: bool) -> None:
    """Enters the comparison for one environment."""
    name = environment.removesuffix("-v1").lower()

    def inject(folder: Path) -> Outcome:
        return _compare(folder, environment, kill=kill)

    inject.__name__ = f"deterministic_{name}_{'killed' if kill else 'resumed'}"
    what = "SIGKILL, then resumed" if kill else "stopped after N updates, resumed to 2N"
    fault(injected=f"{environment}, deterministic mode: {what}", promised=_SAME, is_quick=False)(inject)


for _name in ("breakout", "pong", "CartPole-v1"):
    for _kill in (False, True):
        _deterministic(_name, kill=_kill)


@fault(
    injected="SIGTERM to a run and its Ray, as a preempting cluster sends it",
    promised=f"checkpoint within the grace period, exit code {ExitCode.SIGTERM}, the run goes on where it was",
    is_quick=False,
)
def sigterm(folder: Path) -> Outcome:
    """In the middle of training; then resumed for four more updates."""
    run = folder / "run"
    arguments = ("smoke", "--run-dir", run, "--log.interval-seconds", "1e-6", "--stop.num-updates", 10**6)
    with _start(folder, "train", *arguments) as process:
        _wait_for(lambda: len(_rows(run)) > 3, process)
        started = time.monotonic()
        os.killpg(process.pid, signal.SIGTERM)
        process.communicate(timeout=_SECONDS)
    seconds, updates = time.monotonic() - started, _rows(run)[-1]["num_updates"]
    lost = updates - _steps(run)[-1]
    left = _left_behind(process)
    _run(folder, "resume", run, "--stop.num-updates", updates + 4)
    goes_on = [row["num_updates"] for row in _rows(run)] == list(range(1, updates + 5))
    held = process.returncode == ExitCode.SIGTERM and lost == 0 and goes_on and not left
    return Outcome(held, f"exit code {process.returncode} after {seconds:.0f} s, {len(left)} processes left", 0, lost)


@fault(
    injected="SIGKILL of the learner, under --max-restarts 1",
    promised="restarted from its last checkpoint; counters go on without gap or overlap; no process is left",
    is_quick=False,
)
def learner_killed_and_restarted(folder: Path) -> Outcome:
    """The learner alone is killed: Ray and the supervisor notice."""
    run = folder / "run"
    often = ("--log.interval-seconds", "1e-6", "--log.checkpoint-interval-minutes", "0.01")
    limits = ("--stop.num-updates", 60, "--max-restarts", 1)
    with _start(folder, "train", "smoke", "--run-dir", run, *often, *limits) as process:
        _wait_for(lambda: len(_rows(run)) > 3, process)
        (learner,) = psutil.Process(process.pid).children()
        learner.kill()
        reached = _rows(run)[-1]["num_updates"]
        output = process.communicate(timeout=_SECONDS)[0]
    resumed = json.loads((run / "provenance.json").read_text())[-1]["event"] == "resume"
    updates = [row["num_updates"] for row in _rows(run)]
    frames = [row["num_frames"] for row in _rows(run)]
    whole = updates == list(range(1, 61)) and frames == sorted(set(frames))
    held = process.returncode == 0 and resumed and whole and not _left_behind(process)
    told = "killed by SIGKILL; restart 1 of 1" in output
    return Outcome(held and told, f"killed after {reached} updates, restarted, 60 rows without a gap", None, None)
