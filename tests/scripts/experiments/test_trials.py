"""One trial of a suite: its programs, and its rows of the results."""

import dataclasses
import fcntl
import json
import subprocess
import sys
import types

import numpy as np
import pytest

from configs import suite as suites
from configs.suite import Trial
from scripts.experiments import results, trials
from scripts.experiments.results import CURVE, GREEDY, LAST_FRAMES, PAPER, RANDOM
from scripts.experiments.trials import Progress
from tests.scripts.experiments.stand_ins import ROOT, history, is_alive, wait_for


@pytest.mark.parametrize(
    "gpus, node, seen",
    [
        (0, {}, ["cpu", None]),
        (0.5, {}, ["cuda,cpu", "0.45"]),
        (0.5, {"JAX_PLATFORMS": "tpu"}, ["tpu", "0.45"]),  # what the node says stands
    ],
)
def test_a_trial_keeps_to_the_share_of_a_gpu_that_was_reserved(
    programs, tmp_path, monkeypatch, gpus, node, seen
):
    names = ["JAX_PLATFORMS", "XLA_PYTHON_CLIENT_MEM_FRACTION"]
    for name in names:
        monkeypatch.delenv(name, raising=False)
    for name, value in node.items():
        monkeypatch.setenv(name, value)
    program = tmp_path / programs / "train.py"
    program.write_text(f"import json, os; print(json.dumps([os.environ.get(n) for n in {names}]))")
    assert (
        trials._program(tmp_path / "log", programs, trials._device_env_vars(gpus), ["train"]) == 0
    )
    assert json.loads((tmp_path / "log").read_text().splitlines()[-1]) == seen


def test_a_trial_is_trained_once_and_then_left_alone(found, programs, tmp_path):
    trial, out = found.trials()[0], tmp_path / "out"
    assert not trials.is_finished(found, trials.run_path(out, trial))
    assert [trials.run(found, trial, out, None, programs) for _ in range(2)] == [0, 0]
    assert trials.is_finished(found, trials.run_path(out, trial))
    assert [line[1] for line in history(out)] == ["train", "end"]
    log = (out / "logs" / "CartPole-v1-muzero-1.log").read_text()
    assert log.startswith("$ train cartpole --run-dir ")


def test_a_trial_goes_on_from_its_checkpoint(found, programs, tmp_path):
    trial, out = found.trials()[0], tmp_path / "out"
    path = trials.run_path(out, trial)
    (path / "checkpoints" / "3").mkdir(parents=True)
    (path / "checkpoints" / "3" / "manifest.json").write_text("{}")
    rows = [{"num_frames": 100 * n, "wall_seconds": 1.0} for n in (1, 2, 3)]
    (path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert trials.run(found, trial, out, None, programs) == 0
    assert [line[1:3] for line in history(out)][0] == ["resume", "3"]


def test_a_trial_that_died_before_its_first_checkpoint_starts_again(found, programs, tmp_path):
    trial, out = found.trials()[0], tmp_path / "out"
    (trials.run_path(out, trial) / "checkpoints" / "0.orbax-checkpoint-tmp").mkdir(parents=True)
    assert trials.run(found, trial, out, None, programs) == 0
    assert [line[1] for line in history(out)] == ["train", "end"]


def test_a_trial_waits_for_a_program_that_still_saves(found, programs, tmp_path, monkeypatch):
    trial, out = found.trials()[0], tmp_path / "out"
    path, waited = trials.run_path(out, trial), []
    path.mkdir(parents=True)

    def flock(file, operation):
        """Lets the holder go once the trial asks for the lock, before anything was started."""
        assert is_locked(path / "lock") and history(out) == []
        fcntl.flock(holder, fcntl.LOCK_UN)
        fcntl.flock(file, operation)
        waited.append((file.name, operation))

    monkeypatch.setattr(trials, "fcntl", types.SimpleNamespace(flock=flock, LOCK_EX=fcntl.LOCK_EX))
    with (path / "lock").open("a") as holder:
        fcntl.flock(holder, fcntl.LOCK_EX)
        assert trials.run(found, trial, out, None, programs) == 0
    assert waited == [(str(path / "lock"), fcntl.LOCK_EX)]  # without LOCK_NB: until it is free
    assert [line[1] for line in history(out)] == ["train", "end"]


# As `look.py` does, but at once: three heads, of which one has no values that differ, K = 1.
AUDITOR = """
import pathlib, sys
folder = pathlib.Path(sys.argv[sys.argv.index("--out") + 1])
name = pathlib.Path(sys.argv[2]).name
(folder.parents[1].parent / "history").open("a").write(f"{name} audit {sys.argv[5:]}\\n")
folder.mkdir()
rows = ["0,0.1,0.3,1", "1,0.2,0.3,1", "0,1.5,2.1,3", "1,1.8,2.1,3"]
rows += ["0,0.2,0.2,-0.5", "1,0.3,0.2,-0.5"]
text = "k,squared_error,vtrace_squared_error,variance,noise,num_states\\n"
(folder / "audit.csv").write_text(text + "".join(f"{row},0.1,8\\n" for row in rows))
"""


def test_a_trained_trial_is_audited_once_where_the_suite_asks_for_it(found, programs, tmp_path):
    trial, out = found.trials()[0], tmp_path / "out"
    # Trained, and finished for a suite without audits
    assert trials.run(found, trial, out, None, programs) == 0
    audited = dataclasses.replace(found, audit=suites.AuditSize(num_states=8, num_rollouts=2))
    path = trials.run_path(out, trial)
    (tmp_path / programs / "look.py").write_text("raise SystemExit(3)")
    assert trials.run(audited, trial, out, None, programs) == 3 and not trials.is_finished(
        audited, path
    )
    (tmp_path / programs / "look.py").write_text(AUDITOR)
    assert [trials.run(audited, trial, out, None, programs) for _ in range(2)] == [0, 0]
    assert trials.is_finished(audited, path)
    assert [line[1] for line in history(out)] == ["train", "end", "audit"]
    assert " ".join(history(out)[-1][2:]) == "['--num-states=8', '--num-rollouts=2']"
    errors = {row.kind: (row.score, row.episodes) for row in trials.rows(audited, trial, path)}
    # All heads together: squared errors 0.1 + 1.5 + 0.2 over variances 1 + 3 - 0.5, and so on.
    assert errors[results.HEAD_ERROR] == (pytest.approx(1.8 / 3.5), 8)
    assert errors[results.MODEL_ERROR] == (pytest.approx(2.3 / 3.5), 8)
    assert errors[results.TARGET_ERROR] == (pytest.approx(2.6 / 3.5), 8)
    kinds = (results.HEAD_SQUARED, results.MODEL_SQUARED, results.TARGET_SQUARED, results.VARIANCE)
    assert [errors[kind][0] for kind in kinds] == pytest.approx(
        [1.8 / 3, 2.3 / 3, 2.6 / 3, 3.5 / 3]
    )
    assert not [row.kind for row in trials.rows(found, trial, path) if row.kind.startswith("audit")]


def is_locked(path):
    with path.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def test_a_program_ends_with_the_one_that_started_it(tmp_path):
    """Here the parent is killed, and cannot say so."""
    child = "import os, time; print(os.getpid(), flush=True); time.sleep(600)"
    (tmp_path / "child.py").write_text(child)
    code = "import subprocess, sys; from scripts.program.process import tied_command as tied; "
    code += "subprocess.run(tied(sys.argv[1]))"
    command = [sys.executable, "-c", code, tmp_path / "child.py"]
    parent = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    pid = int(parent.stdout.readline())
    parent.kill()
    parent.wait()
    wait_for(lambda: not is_alive(pid))


def test_the_results_of_a_trial_are_read_from_its_run(found, programs, tmp_path):
    trial, out = Trial("CartPole-v1", "muzero+past", 2), tmp_path / "out"
    trials.run(found, trial, out, None, programs)
    rows = trials.rows(found, trial, trials.run_path(out, trial))
    assert {(row.suite, row.game, row.arm, row.seed) for row in rows} == {("tiny", *trial)}
    by_kind = {
        kind: [row[4:] for row in rows if row.kind == kind]
        for kind in (CURVE, LAST_FRAMES, GREEDY, RANDOM)
    }
    # A game was taken in every 100 frames and scored a tenth of their number: the last 10 % hold
    # that of frame 1,000.
    assert by_kind[LAST_FRAMES] == [(1000, LAST_FRAMES, 100.0, None, 1, 20.0)]
    assert by_kind[GREEDY] == [(1000, GREEDY, 7.0, 0.5, 2, 20.0)] and by_kind[RANDOM][0][2] == 7.0
    curve = [(row[0], row[2]) for row in by_kind[CURVE]]
    assert curve == [(50 * n, None if n % 2 else 5.0 * n) for n in range(1, 21)]
    paper = [row[4:8] for row in rows if row.kind == PAPER]
    assert paper == [
        (1000, PAPER, 55.0, pytest.approx(np.std(np.arange(10, 101, 10), ddof=1) / np.sqrt(10)))
    ]
    assert len(rows) == 24


def test_games_that_outlast_the_last_frames_leave_those_that_ended_last(found, programs, tmp_path):
    trial, out = found.trials()[0], tmp_path / "out"
    trials.run(found, trial, out, None, programs)
    path = trials.run_path(out, trial)
    games = [(300, 3.0), (600, 4.0), (600, 6.0)]  # of 1,000 frames
    lines = [
        json.dumps({"num_frames": frames, "episode": [score, 1, 1]}) + "\n"
        for frames, score in games
    ]
    (path / "episodes.jsonl").write_text("".join(lines))
    (last,) = (row for row in trials.rows(found, trial, path) if row.kind == LAST_FRAMES)
    assert (last.score, last.episodes) == (5.0, 2)
    (path / "episodes.jsonl").write_text("")
    (last,) = (row for row in trials.rows(found, trial, path) if row.kind == LAST_FRAMES)
    assert (last.score, last.episodes) == (None, 0)


def test_progress_reads_whole_rows_only(tmp_path):
    assert trials.progress(tmp_path) == Progress(0, None, None)
    rows = [
        {"num_frames": 10, "wall_seconds": 1.0, "episode/return": 2.0},
        {"num_frames": 20, "wall_seconds": 2.0},
    ]
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (tmp_path / "metrics.jsonl").write_text(text + '{"num_frames": 99, "wall')
    assert trials.progress(tmp_path) == Progress(20, 2.0, 2.0)
    (tmp_path / "metrics.jsonl").write_text(" " * trials._TAIL_BYTES + "\n" + text)
    assert trials.progress(tmp_path) == Progress(20, 2.0, 2.0)
