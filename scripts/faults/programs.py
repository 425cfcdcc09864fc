"""Faults of whole runs, with the real programs: killed, told to end, restarted, and compared bit
for bit.

The runs are the smallest that have everything; they share their compiled functions.
"""

import json
import os
import signal
import time
from pathlib import Path

import psutil

from scripts.faults import runs
from scripts.faults.registry import Outcome, fault
from scripts.inspection.digests import run_digests
from scripts.program.exit_codes import ExitCode

_IN_ROUNDS = (
    "--deterministic", "--learner.no-collect-ahead", "--actors.num-workers", "2",
    "--learner.batch-size", "4", "--actors.sequence-overlap", "4", "--learner.num-passes", "2",
    "--learner.num-minibatches", "2", "--learner.publish-interval", "4",
    "--optimiser.schedule-num-updates", "64", "--log.checkpoint-interval-minutes", "0.0001",
)  # fmt: skip
_SAME = (
    "SHA-256 of parameters, averages, optimiser, value buffer, counters and environments as in an "
    "uninterrupted run"
)


def _compare(folder: Path, environment: str, *, kill: bool) -> Outcome:
    """Returns whether a run of 16 updates equals one that is stopped after 8, or killed, and
    resumed.
    """
    settings = ("smoke", "--env.name", environment, *_IN_ROUNDS)
    runs.run(folder, "train", *settings, "--run-dir", folder / "whole", "--stop.num-updates", 16)
    before = _kill_midway(folder, settings) if kill else _stop_half_way(folder, settings)
    runs.run(folder, "resume", folder / "parts", "--stop.num-updates", 16)
    whole, parts = run_digests(folder / "whole"), run_digests(folder / "parts")
    equal = [name for name in whole if whole[name] == parts[name]]
    told = (
        f"{len(equal)} of {len(whole)} digests equal ({whole['params'][:8]}, "
        f"{whole['environments'][:8]}); {before}"
    )
    is_same = len(equal) == len(whole) == 8
    return Outcome(is_same, told, *((0, 0) if is_same else ()))  # what was lost has been repeated


def _stop_half_way(folder: Path, settings: tuple) -> str:
    runs.run(folder, "train", *settings, "--run-dir", folder / "parts", "--stop.num-updates", 8)
    return "stopped after 8"


def _kill_midway(folder: Path, settings: tuple) -> str:
    with runs.start(
        folder, "train", *settings, "--run-dir", folder / "parts", "--stop.num-updates", 10**6
    ) as process:
        runs.wait_for(lambda: len(runs.steps(folder / "parts")) > 1, process)
        os.killpg(process.pid, signal.SIGKILL)
    for slot in [
        step for step in runs.steps(folder / "parts") if step > 12
    ]:  # it may have been quicker than we
        (folder / "parts" / "checkpoints" / str(slot) / "manifest.json").unlink()
    return f"killed, resumed from {runs.steps(folder / 'parts')[-1]}"


def _deterministic(environment: str, *, kill: bool) -> None:
    """Enters the comparison for one environment."""
    name = environment.removesuffix("-v1").lower()

    def inject(folder: Path) -> Outcome:
        return _compare(folder, environment, kill=kill)

    inject.__name__ = f"deterministic_{name}_{'killed' if kill else 'resumed'}"
    what = "SIGKILL, then resumed" if kill else "stopped after N updates, resumed to 2N"
    fault(injected=f"{environment}, deterministic mode: {what}", promised=_SAME, is_quick=False)(
        inject
    )


for _name in ("breakout", "pong", "CartPole-v1"):
    for _kill in (False, True):
        _deterministic(_name, kill=_kill)


@fault(
    injected="SIGTERM to a run and its Ray, as a preempting cluster sends it",
    promised=f"checkpoint within the grace period, exit code {ExitCode.SIGTERM}, the run goes on "
    f"where it was",
    is_quick=False,
)
def sigterm(folder: Path) -> Outcome:
    """In the middle of training; then resumed for four more updates."""
    run = folder / "run"
    arguments = (
        "smoke",
        "--run-dir",
        run,
        "--log.interval-seconds",
        "1e-6",
        "--stop.num-updates",
        10**6,
    )
    with runs.start(folder, "train", *arguments) as process:
        runs.wait_for(lambda: len(runs.rows(run)) > 3, process)
        started = time.monotonic()
        os.killpg(process.pid, signal.SIGTERM)
        process.communicate(timeout=runs.SECONDS)
    seconds, updates = time.monotonic() - started, runs.rows(run)[-1]["num_updates"]
    lost = updates - runs.steps(run)[-1]
    left = runs.left_behind(process.pid)
    runs.run(folder, "resume", run, "--stop.num-updates", updates + 4)
    goes_on = [row["num_updates"] for row in runs.rows(run)] == list(range(1, updates + 5))
    held = process.returncode == ExitCode.SIGTERM and lost == 0 and goes_on and not left
    told = [
        f"exit code {process.returncode} after {seconds:.0f} s",
        f"{len(left)} processes left",
        *left,
    ]
    return Outcome(held, ", ".join(told), None if lost else 0, lost)


@fault(
    injected="SIGKILL of the learner, under --max-restarts 1",
    promised="restarted from its last checkpoint; counters go on without gap or overlap; after 90 "
    "s no process "
    "and no orphan file is left",
    is_quick=False,
)
def learner_killed_and_restarted(folder: Path) -> Outcome:
    """The learner alone is killed: Ray and the supervisor notice."""
    run = folder / "run"
    often = ("--log.interval-seconds", "1e-6", "--log.checkpoint-interval-minutes", "0.01")
    limits = ("--stop.num-updates", 60, "--max-restarts", 1)
    with runs.start(folder, "train", "smoke", "--run-dir", run, *often, *limits) as process:
        runs.wait_for(lambda: len(runs.rows(run)) > 3, process)
        learner = runs.learner_of(process)
        learner.kill()
        reached = runs.rows(run)[-1]["num_updates"]

        def others():
            return [p for p in psutil.Process(process.pid).children() if p.pid != learner.pid]

        runs.wait_for(lambda: bool(others()), process)
        sessions = process.pid, learner.pid, others()[0].pid
        output = process.communicate(timeout=runs.SECONDS)[0]
    resumed = json.loads((run / "provenance.json").read_text())[-1]["event"] == "resume"
    updates = [row["num_updates"] for row in runs.rows(run)]
    frames = [row["num_frames"] for row in runs.rows(run)]
    whole = updates == list(range(1, 61)) and frames == sorted(set(frames))
    left, told = runs.left_behind(*sessions), "killed by SIGKILL; restart 1 of 1" in output
    rows = "60 rows without a gap" if whole else f"{len(updates)} rows WITH a gap"
    orphans = runs.orphans(run)
    happened = (
        f"killed after {reached} updates, exit code {process.returncode}, {rows}, {len(left)} "
        f"processes"
    )
    held = process.returncode == 0 and resumed and whole and told and not left and not orphans
    return Outcome(
        held, ", ".join([f"{happened} and {len(orphans)} orphan files left", *left, *orphans])
    )
