"""One trial of a suite: its run directory, its programs, its rows of the results.

    <out>/suite.json             what is compared, fixed for the life of the directory
          results.csv            the rows of all finished trials, written anew when one finishes
          trials/<trial>/        a run directory like any other
          logs/<trial>.log       what its programs printed

A trial is finished when the last file of its run is there: the random policy's score, and the
audit's table where the suite asks for one.  All of its results are read from the run directory
whenever they are needed, so none can be lost that the run has written.
"""

import fcntl
import functools
import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import NamedTuple

import numpy as np

from actors.scores import standard_error
from configs.suite import Suite, Trial
from learner.records.episodes import finished_episodes
from learner.records.run_directory import RunDirectory
from muzero.types import Episode
from scripts.experiments import results
from scripts.experiments.results import (
    CONSTANT,
    CURVE,
    GREEDY,
    LAST_FRAMES,
    PAPER,
    RANDOM,
    SAMPLED,
    Row,
)
from scripts.inspection import audit_table
from scripts.program import process

_NUM_CURVE_POINTS = 20
_LAST_FRACTION = 0.1
# Kind -> file
_SCORES = {
    GREEDY: "final",
    SAMPLED: "sampled",
    RANDOM: "random",
    CONSTANT: "constant",
}
_NUM_PAPER_GAMES = 200  # the paper's score: the mean of the last ones
_TAIL_BYTES = 1 << 16  # of metrics.jsonl, to find its last row
# What Ray tells its workers about themselves; a program started by one is none.
_RAY_OWN = (
    "RAY_JOB_ID",
    "RAY_RAYLET_PID",
    "RAY_CLIENT_MODE",
    "RAY_JOB_CONFIG_JSON_ENV_VAR",
    "OMP_NUM_THREADS",
)


class Progress(NamedTuple):
    """How far a trial is; None is not known yet."""

    num_frames: int
    wall_seconds: float | None
    episode_return: float | None  # of the games finished lately, as played


def trial_name(trial: Trial) -> str:
    """Returns a file name for a trial."""
    return re.sub(r"[^\w.+-]+", "_", f"{trial.game}-{trial.arm}-{trial.seed}")


def run_path(out: Path, trial: Trial) -> Path:
    """Returns the run directory of a trial."""
    return out / "trials" / trial_name(trial)


def train_arguments(suite: Suite, trial: Trial, path: Path) -> list[str]:
    """Returns the arguments of `train.py` that start a trial."""
    arguments = [suite.preset, "--run-dir", str(path)]
    for field, value in suite.changes(trial).items():
        section, dot, name = field.replace("_", "-").rpartition(".")
        flag = f"--{section}{dot}"
        is_switch = isinstance(value, bool)
        arguments += (
            [f"{flag}{'' if value else 'no-'}{name}"]
            if is_switch
            else [f"{flag}{name}", str(value)]
        )
    return arguments


def is_finished(suite: Suite, path: Path) -> bool:
    """Returns whether the run in `path` has reached its end, and all of its results are there."""
    return _is_scored(path) and (suite.audit is None or _audit_table(path).exists())


def _is_scored(path: Path) -> bool:
    return (path / "evaluations" / "random.json").exists()


def _audit_table(path: Path) -> Path:
    return path / "audit" / "audit.csv"


def commits(path: Path) -> list[str]:
    """Returns the commits, as far as they are known, at which the run in `path` was started and
    resumed.
    """
    records = json.loads(RunDirectory(path).provenance_file.read_text(encoding="utf-8"))
    return [record["git"]["commit"] for record in records if record["git"]["commit"] is not None]


def progress(path: Path) -> Progress:
    """Returns how far the run in `path` is, read from the end of its metrics; zero before the first
    row.
    """
    file = path / "metrics.jsonl"
    if not file.exists():
        return Progress(0, None, None)
    with file.open("rb") as stream:
        stream.seek(max(0, file.stat().st_size - _TAIL_BYTES))
        lines = stream.read().split(b"\n")[:-1]  # what follows the last newline is half a row
    rows = [json.loads(line) for line in lines if line.startswith(b"{")]
    if not rows:
        return Progress(0, None, None)
    returns = [row["episode/return"] for row in rows if row.get("episode/return") is not None]
    return Progress(
        rows[-1]["num_frames"], rows[-1]["wall_seconds"], returns[-1] if returns else None
    )


def run(suite: Suite, trial: Trial, out: Path, ray_address: str | None, programs: str) -> int:
    """Trains a trial to its end in a program of its own, from its last checkpoint if it has one,
    and audits it.

    Called by Ray, on any node. Returns the exit code of the last program.

    Args:
      suite: of the trial.
      trial: to run.
      out: of the suite, a path that every node sees.
      ray_address: of the cluster, for actors that run anywhere on it.
      programs: package of `train`, `resume` and `look`.
    """
    path = run_path(out, trial)
    log = out / "logs" / f"{trial_name(trial)}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    program = functools.partial(_program, log, programs, _device_env_vars(suite.resources.gpus))
    _wait_until_free(path)
    code = 0 if _is_scored(path) else program(_training(suite, trial, path, ray_address))
    if code != 0 or is_finished(suite, path):
        return code
    sizes = [f"--num-states={suite.audit.num_states}", f"--num-rollouts={suite.audit.num_rollouts}"]
    return program(["look", "audit", str(path), "--out", str(_audit_table(path).parent), *sizes])


def _training(suite: Suite, trial: Trial, path: Path, ray_address: str | None) -> list[str]:
    """Returns the program, with its arguments, that brings a trial to its end; clears what holds no
    checkpoint.
    """
    if _has_checkpoint(path):
        arguments = ["resume", str(path)]
    else:
        # It died before its first checkpoint: nothing was learned
        shutil.rmtree(path, ignore_errors=True)
        arguments = ["train", *train_arguments(suite, trial, path)]
    if suite.resources.actors == "cluster":
        arguments += ["--ray-address", ray_address or "auto"]
    return arguments


def _device_env_vars(gpus: float) -> dict[str, str]:
    """Returns what keeps a program on its share of a GPU, or off those of the node that were not
    reserved for it.
    """
    from actors.worker import device_options  # pulls in JAX

    return device_options("gpu" if gpus > 0 else "cpu", gpus)[1]


def _program(log: Path, programs: str, env_vars: dict[str, str], arguments: list[str]) -> int:
    """Runs a program to its end, appending to `log` what it prints; returns its exit code.

    Of `env_vars` those count that the node does not set itself.
    """
    environment = env_vars | {
        name: value for name, value in os.environ.items() if name not in _RAY_OWN
    }
    with log.open("a", encoding="utf-8") as file:
        print("$", *arguments, file=file, flush=True)
        command = process.tied_command(*process.run_as_module(*arguments, package=programs))
        return subprocess.run(
            command, env=environment, stdout=file, stderr=file, check=False
        ).returncode


def _wait_until_free(path: Path) -> None:
    """Waits for a program that still trains here: its parent died and it is saving."""
    lock = RunDirectory(path).lock_file
    if lock.exists():
        with lock.open("a") as file:
            fcntl.flock(file, fcntl.LOCK_EX)


def _has_checkpoint(path: Path) -> bool:
    if not path.exists():
        return False
    from learner.records.checkpoint_files import complete_slots  # pulls in JAX

    return bool(complete_slots(path / "checkpoints"))


def rows(suite: Suite, trial: Trial, path: Path) -> list[Row]:
    """Returns the results of a finished trial: curve, scores as played, of whole games,
    the audit.
    """
    frames, seconds, _ = progress(path)

    def row(*values):
        return Row(suite.name, trial.game, trial.arm, trial.seed, *values)

    scored = {kind: _evaluation(path, name) for kind, name in _SCORES.items()}
    audited = {} if suite.audit is None else _audited(path)
    return [
        *(
            row(*values)
            for values in as_played(suite.frames, frames, seconds, finished_episodes(path))
        ),
        *(
            row(*whole_games(kind, frames, seconds, result))
            for kind, result in scored.items()
            if result is not None
        ),
        *(
            row(frames, kind, error, None, suite.audit.num_states, seconds)
            for kind, error in audited.items()
        ),
    ]


def whole_games(kind: str, frames: int, seconds: float | None, result: dict) -> tuple:
    """Returns what follows the seed in a row: the score of games played after training."""
    return frames, kind, result["mean"], result["standard_error"], len(result["returns"]), seconds


def as_played(
    budget: int, frames: int, seconds: float | None, episodes: list[tuple[int, Episode]]
) -> list[tuple]:
    """Returns what follows the seed in the rows of learning curve and of scores as played.

    Args:
      budget: emulator frames that were planned.
      frames: those that were consumed.
      seconds: of training.
      episodes: every finished game, with the frames consumed when it was taken in.
    """
    taken_in = np.array([num_frames for num_frames, _ in episodes], dtype=float)
    returns = np.array([episode.episode_return for _, episode in episodes], dtype=float)
    edges = budget * np.arange(_NUM_CURVE_POINTS + 1) / _NUM_CURVE_POINTS
    edges[-1] = np.inf  # the last batch passes the budget
    bins = [
        returns[(taken_in > low) & (taken_in <= high)]
        for low, high in zip(edges, edges[1:], strict=False)
    ]
    points = [
        (round(budget * (n + 1) / _NUM_CURVE_POINTS), CURVE, *_mean(found), None)
        for n, found in enumerate(bins)
    ]
    # Games that outlast the last 10 %: those that ended last.
    last = returns[taken_in > min((1 - _LAST_FRACTION) * budget, np.max(taken_in, initial=0.0) - 1)]
    return [
        *points,
        (frames, LAST_FRAMES, *_mean(last), seconds),
        (frames, PAPER, *_mean(returns[-_NUM_PAPER_GAMES:]), seconds),
    ]


def _audited(path: Path) -> dict[str, float | None]:
    """Returns what all stored heads together say, by kind: at k = 0, at k = K, and of their V-trace
    targets.
    """
    table = audit_table.read(_audit_table(path))
    head = audit_table.all_heads(table, 0)
    model = audit_table.all_heads(table, max(row["k"] for row in table))
    found = {
        results.HEAD_ERROR: head["error"],
        results.MODEL_ERROR: model["error"],
        results.TARGET_ERROR: head["vtrace_gap"],
        results.HEAD_SQUARED: head["squared_error"],
        results.MODEL_SQUARED: model["squared_error"],
        results.TARGET_SQUARED: head["vtrace_squared_error"],
        results.VARIANCE: head["variance"],
    }
    return {kind: None if np.isnan(value) else value for kind, value in found.items()}


def _evaluation(path: Path, name: str) -> dict | None:
    """Returns a score of a finished trial; None where it is older than scores of that name."""
    file = path / "evaluations" / f"{name}.json"
    return json.loads(file.read_text(encoding="utf-8")) if file.exists() else None


def _mean(returns: np.ndarray) -> tuple[float | None, float | None, int]:
    """Returns mean, standard error and number of games."""
    count = len(returns)
    return (float(np.mean(returns)) if count else None), standard_error(returns), count
