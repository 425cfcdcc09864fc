"""What faults cost in the end: whole CartPole runs that meet them, against the scores of runs that
met none.
"""

import csv
import json
import os
import signal
import subprocess
from pathlib import Path

import psutil

from scripts.faults import runs
from scripts.faults.registry import Outcome, fault
from scripts.program.exit_codes import ExitCode

_SEEDS = (200, 201, 202)  # of no other run
_UNFAULTED = runs.ROOT / "results" / "cartpole-scores.csv"
_FRAMES_OF_A_FAULT = 100_000


@fault(
    injected="three CartPole runs; in each an actor killed after 100,000 frames, the learner after "
    "200,000, SIGTERM "
    "after 300,000",
    promised="every score lies inside the range of the five runs without faults "
    "(results/cartpole-scores.csv)",
    is_quick=False,
)
def cartpole_scores(folder: Path) -> Outcome:
    """The `cartpole` preset to its end, 20 greedy games each."""
    scores, whole = [], []
    for seed in _SEEDS:
        run = folder / str(seed)
        _train_with_faults(folder, run, seed)
        rows = [row["num_updates"] for row in runs.rows(run)]
        whole.append(rows == sorted(set(rows)))
        scores.append(_score(folder, run))
    low, high = _unfaulted_range()
    held = all(low <= score <= high for score in scores) and all(whole)
    return Outcome(
        held,
        f"{', '.join(f'{score:g}' for score in scores)}; without faults {low:g} to {high:g}",
        None,
        None,
    )


def _train_with_faults(folder: Path, run: Path, seed: int) -> None:
    """Trains a run to its end, which is met by an actor's death, a learner's death and a SIGTERM on
    the way.
    """
    arguments = ("cartpole", "--seed", seed, "--run-dir", run, "--max-restarts", 1)
    with runs.start(folder, "train", *arguments) as process:
        _wait_for_frames(run, process, _FRAMES_OF_A_FAULT)
        _actor(process).kill()
        _wait_for_frames(run, process, 2 * _FRAMES_OF_A_FAULT)
        runs.learner_of(process).kill()
        _wait_for_frames(run, process, 3 * _FRAMES_OF_A_FAULT)
        os.killpg(process.pid, signal.SIGTERM)
        process.communicate(timeout=runs.SECONDS)
    if process.returncode != ExitCode.SIGTERM:
        raise RuntimeError(f"a SIGTERM ended the run with {process.returncode}")
    runs.run(folder, "resume", run)


def _wait_for_frames(run: Path, process: subprocess.Popen, num_frames: int) -> None:
    runs.wait_for(
        lambda: any(row["num_frames"] >= num_frames for row in runs.rows(run)[-1:]), process
    )


def _actor(process: subprocess.Popen) -> psutil.Process:
    """Returns the process of the run's only actor: it is in the learner's session."""
    session = runs.learner_of(process).pid
    (actor,) = [
        p
        for p in psutil.process_iter()
        if os.getsid(p.pid) == session and " ".join(p.cmdline()).startswith("ray::RolloutWorker")
    ]
    return actor


def _score(folder: Path, run: Path) -> float:
    out = folder / f"{run.name}.json"
    runs.run(folder, "evaluate", run, "--checkpoint", "latest", "--episodes", 20, "--out", out)
    return json.loads(out.read_text())["mean"]


def _unfaulted_range() -> tuple[float, float]:
    with _UNFAULTED.open() as file:
        scores = [float(row["mean"]) for row in csv.DictReader(file) if row["protocol"] == "greedy"]
    return min(scores), max(scores)
