"""Suites that run: what is collected of a trial, and a driver that is killed on a cluster that loses a node.

The trials' programs are stand-ins that keep run directories as the real ones do, but learn nothing; that the real ones
understand what they are told is tested in tests/configs/test_suite.py, and that their run directories can be read in
tests/scripts/test_train.py.
"""

import contextlib
import dataclasses
import fcntl
import io
import json
import os
import re
import signal
import subprocess
import sys
import time
import types
from pathlib import Path

import numpy as np
import pytest

from configs import suite as suites
from configs.presets import PRESETS
from configs.schema import ConfigError
from configs.suite import Trial
from scripts import suite
from scripts.experiments import driver, results, suite_directory, trials
from scripts.experiments.results import CURVE, GREEDY, LAST_FRAMES, PAPER, RANDOM
from scripts.experiments.suite_table import SuiteTable
from scripts.experiments.trials import Progress
from scripts.program.exit_codes import ExitCode

ROOT = Path(__file__).resolve().parents[3]
SECONDS = 500  # on a busy machine; some 30 on an idle one
SUITE = """
preset = "cartpole"
games = ["CartPole-v1"]
seeds = [1, 2]
frames = 1000
[arms.muzero]
loss.past_weight = 0.0
[arms."muzero+past"]
"""
# Ten checkpoints of 100 frames; every start and every end leaves a line in `history`, beside the run directory.
PROGRAM = """
import json, os, pathlib, sys, time
is_new = sys.argv[0].endswith("train.py")
path = pathlib.Path(sys.argv[sys.argv.index("--run-dir") + 1] if is_new else sys.argv[1])
history = path.parent.parent / "history"
def note(text):
    with history.open("a") as file:
        file.write(f"{path.name} {text}\\n")
def done():
    return max([0, *(int(slot.parent.name) for slot in path.glob("checkpoints/*/manifest.json"))])
if is_new and path.exists():
    sys.exit("exists")
(path / "evaluations").mkdir(parents=True, exist_ok=True)
(path / "provenance.json").write_text(json.dumps([{"git": {"commit": "of the trial"}}]))
note(f"{'train' if is_new else 'resume'} {done()} {os.getpid()}")
rows = [json.loads(row) for row in (path / "metrics.jsonl").read_text().splitlines()][:done()] if not is_new else []
while len(rows) < 10:
    time.sleep(PAUSE)
    rows.append({"num_frames": 100 * len(rows) + 100, "wall_seconds": 2.0 * len(rows) + 2, "episode/return": 5.0})
    (path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\\n" for row in rows))
    slot = path / "checkpoints" / str(len(rows))
    slot.mkdir(parents=True)
    (slot / "manifest.json").write_text("{}")
episodes = [{"num_frames": row["num_frames"], "episode": [row["num_frames"] / 10, 1, 1]} for row in rows]
(path / "episodes.jsonl").write_text("".join(json.dumps(row) + "\\n" for row in episodes))
note("end")
for name in ("final", "random"):
    file = path / "evaluations" / f"{name}.json"
    file.write_text(json.dumps({"mean": 7.0, "standard_error": 0.5, "returns": [6.5, 7.5]}))
"""
CLUSTER = """
import json, os, sys
os.environ["RAY_worker_niceness"] = "0"
from ray.cluster_utils import Cluster
cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
nodes = [cluster.add_node(num_cpus=1) for _ in range(2)]
print(json.dumps([cluster.address, [node.node_id for node in nodes]]), flush=True)
sys.stdin.readline()
cluster.remove_node(nodes[1], allow_graceful=False)
print("removed", flush=True)
sys.stdin.readline()
cluster.shutdown()
"""
DRIVER = """
import sys
from pathlib import Path
from configs import suite as suites
from scripts.experiments import driver, suite_directory
from scripts.training import cluster
found, out, programs, address = suites.load(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], sys.argv[4]
suite_directory.open_out(found, out)
cluster.start_ray(address, num_cpus=1)
sys.exit(0 if driver.Driver(found, out, jobs=4, ray_address=address, programs=programs).run() else 1)
"""


@pytest.fixture
def found(tmp_path):
    (tmp_path / "tiny.toml").write_text(SUITE)
    return suites.load(str(tmp_path / "tiny.toml"))


@pytest.fixture
def importable(tmp_path, monkeypatch):
    """Has every process that is started from here find the stand-ins in `tmp_path`."""
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    return tmp_path


@pytest.fixture
def programs(importable):
    """Returns the package of stand-ins that are over at once."""
    return make_programs(importable / "programs", 0.0)


def make_programs(folder, pause):
    folder.mkdir()
    for name in ("train.py", "resume.py"):
        (folder / name).write_text(PROGRAM.replace("PAUSE", str(pause)))
    return folder.name


@pytest.mark.parametrize(
    "gpus, node, seen",
    [
        (0, {}, ["cpu", None]),
        (0.5, {}, ["cuda,cpu", "0.45"]),
        (0.5, {"JAX_PLATFORMS": "tpu"}, ["tpu", "0.45"]),  # what the node says stands
    ],
)
def test_a_trial_keeps_to_the_share_of_a_gpu_that_was_reserved(programs, tmp_path, monkeypatch, gpus, node, seen):
    names = ["JAX_PLATFORMS", "XLA_PYTHON_CLIENT_MEM_FRACTION"]
    for name in names:
        monkeypatch.delenv(name, raising=False)
    for name, value in node.items():
        monkeypatch.setenv(name, value)
    program = tmp_path / programs / "train.py"
    program.write_text(f"import json, os; print(json.dumps([os.environ.get(n) for n in {names}]))")
    assert trials._program(tmp_path / "log", programs, trials._device_env_vars(gpus), ["train"]) == 0
    assert json.loads((tmp_path / "log").read_text().splitlines()[-1]) == seen


def history(out):
    path = out / "history"
    return [line.split() for line in path.read_text().splitlines()] if path.exists() else []


# --- one trial -------------------------------------------------------------------------------------------------------


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
(folder.parents[1].parent / "history").open("a").write(f"{pathlib.Path(sys.argv[2]).name} audit {sys.argv[5:]}\\n")
folder.mkdir()
rows = ["0,0.1,0.3,1", "1,0.2,0.3,1", "0,1.5,2.1,3", "1,1.8,2.1,3", "0,0.2,0.2,-0.5", "1,0.3,0.2,-0.5"]
text = "k,squared_error,vtrace_squared_error,variance,noise,num_states\\n"
(folder / "audit.csv").write_text(text + "".join(f"{row},0.1,8\\n" for row in rows))
"""


def test_a_trained_trial_is_audited_once_where_the_suite_asks_for_it(found, programs, tmp_path):
    trial, out = found.trials()[0], tmp_path / "out"
    assert trials.run(found, trial, out, None, programs) == 0  # trained, and finished for a suite without audits
    audited = dataclasses.replace(found, audit=suites.AuditSize(num_states=8, num_rollouts=2))
    path = trials.run_path(out, trial)
    (tmp_path / programs / "look.py").write_text("raise SystemExit(3)")
    assert trials.run(audited, trial, out, None, programs) == 3 and not trials.is_finished(audited, path)
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
    assert [errors[kind][0] for kind in kinds] == pytest.approx([1.8 / 3, 2.3 / 3, 2.6 / 3, 3.5 / 3])
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


def is_alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def wait_for(condition, seconds=SECONDS):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "nothing happened"
        time.sleep(0.05)


def test_the_results_of_a_trial_are_read_from_its_run(found, programs, tmp_path):
    trial, out = Trial("CartPole-v1", "muzero+past", 2), tmp_path / "out"
    trials.run(found, trial, out, None, programs)
    rows = trials.rows(found, trial, trials.run_path(out, trial))
    assert {(row.suite, row.game, row.arm, row.seed) for row in rows} == {("tiny", *trial)}
    by_kind = {kind: [row[4:] for row in rows if row.kind == kind] for kind in (CURVE, LAST_FRAMES, GREEDY, RANDOM)}
    # A game was taken in every 100 frames and scored a tenth of their number: the last 10 % hold that of frame 1,000.
    assert by_kind[LAST_FRAMES] == [(1000, LAST_FRAMES, 100.0, None, 1, 20.0)]
    assert by_kind[GREEDY] == [(1000, GREEDY, 7.0, 0.5, 2, 20.0)] and by_kind[RANDOM][0][2] == 7.0
    curve = [(row[0], row[2]) for row in by_kind[CURVE]]
    assert curve == [(50 * n, None if n % 2 else 5.0 * n) for n in range(1, 21)]
    paper = [row[4:8] for row in rows if row.kind == PAPER]
    assert paper == [(1000, PAPER, 55.0, pytest.approx(np.std(np.arange(10, 101, 10), ddof=1) / np.sqrt(10)))]
    assert len(rows) == 24


def test_games_that_outlast_the_last_frames_leave_those_that_ended_last(found, programs, tmp_path):
    trial, out = found.trials()[0], tmp_path / "out"
    trials.run(found, trial, out, None, programs)
    path = trials.run_path(out, trial)
    games = [(300, 3.0), (600, 4.0), (600, 6.0)]  # of 1,000 frames
    lines = [json.dumps({"num_frames": frames, "episode": [score, 1, 1]}) + "\n" for frames, score in games]
    (path / "episodes.jsonl").write_text("".join(lines))
    (last,) = (row for row in trials.rows(found, trial, path) if row.kind == LAST_FRAMES)
    assert (last.score, last.episodes) == (5.0, 2)
    (path / "episodes.jsonl").write_text("")
    (last,) = (row for row in trials.rows(found, trial, path) if row.kind == LAST_FRAMES)
    assert (last.score, last.episodes) == (None, 0)


def test_progress_reads_whole_rows_only(tmp_path):
    assert trials.progress(tmp_path) == Progress(0, None, None)
    rows = [{"num_frames": 10, "wall_seconds": 1.0, "episode/return": 2.0}, {"num_frames": 20, "wall_seconds": 2.0}]
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (tmp_path / "metrics.jsonl").write_text(text + '{"num_frames": 99, "wall')
    assert trials.progress(tmp_path) == Progress(20, 2.0, 2.0)
    (tmp_path / "metrics.jsonl").write_text(" " * trials._TAIL_BYTES + "\n" + text)
    assert trials.progress(tmp_path) == Progress(20, 2.0, 2.0)


# --- the driver ------------------------------------------------------------------------------------------------------


@pytest.fixture
def nodes(importable):
    """Yields (address, `remove()`) of a cluster of a head without work and two nodes of one CPU."""
    pipes = dict(stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    process = subprocess.Popen([sys.executable, "-c", CLUSTER], cwd=ROOT, **pipes)

    def remove():
        process.stdin.write("\n")
        process.stdin.flush()
        assert process.stdout.readline() == "removed\n"

    try:
        yield json.loads(process.stdout.readline())[0], remove
    finally:
        with contextlib.suppress(BrokenPipeError):
            process.communicate("\n\n", timeout=SECONDS)


@pytest.mark.timeout(900)
def test_a_killed_driver_and_a_lost_node_repeat_nothing_and_lose_nothing(found, nodes, tmp_path):
    address, remove = nodes
    out, package = tmp_path / "out", make_programs(tmp_path / "programs", 0.3)
    command = [sys.executable, "-c", DRIVER, tmp_path / "tiny.toml", out, package, address]
    start = lambda: subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    path = lambda trial: trials.run_path(out, trial)
    frames = lambda: [trials.progress(path(trial)).num_frames for trial in found.trials()]

    for total in (600, 2300):  # in the middle of the first two trials, then of the next
        driver = start()
        wait_for(lambda total=total, driver=driver: sum(frames()) >= total or driver.poll() is not None)
        assert driver.poll() is None, driver.communicate()[0]
        started = [int(line[3]) for line in history(out) if line[1] != "end"]
        driver.send_signal(signal.SIGKILL)
        driver.wait()
        wait_for(lambda pids=started: not any(map(is_alive, pids)))  # its trials did not go on unseen
    before = frames()
    finished = {trial for trial in found.trials() if trials.is_finished(found, path(trial))}
    assert 0 < len(finished) < 4 and sum(before) < 4000

    driver = start()
    wait_for(lambda: sum(frames()) > sum(before) or driver.poll() is not None)
    remove()
    output, _ = driver.communicate(timeout=SECONDS)
    assert driver.returncode == 0, output
    assert f"{len(finished)} of 4 trials are finished already" in output

    lines = history(out)
    for trial in found.trials():
        mine = [line[1:3] for line in lines if line[0] == trials.trial_name(trial)]
        assert [line[0] for line in mine].count("end") == 1 and mine[-1][0] == "end"
        assert [line[0] for line in mine][:1] == ["train"]
        resumed = [int(line[1]) for line in mine if line[0] == "resume"]
        assert resumed == sorted(resumed) and all(number > 0 for number in resumed)
    assert sum(line[1] == "resume" for line in lines) >= 2
    rows = results.read(out / "results.csv").rows
    scores = {(row.game, row.arm, row.seed): row.score for row in rows if row.kind == LAST_FRAMES}
    assert scores == {tuple(trial): 100.0 for trial in found.trials()} and len(rows) == 4 * 24


class Ray:
    """Stands for Ray: runs a trial at once, and says what became of it."""

    def __init__(self, monkeypatch, run):
        self.run, self.refused = run, 0
        monkeypatch.setattr(driver.ray, "remote", lambda function: self)
        monkeypatch.setattr(driver.ray, "wait", lambda references, timeout: (references[:1], references[1:]))
        monkeypatch.setattr(driver.ray, "get", lambda reference: reference())

    def options(self, **resources):
        self.resources = resources
        return self

    def remote(self, *arguments):
        return lambda: self.run(*arguments)


def test_a_trial_that_never_gets_on_is_given_up_and_the_others_are_not(found, programs, tmp_path, monkeypatch, capsys):
    out, attempts = tmp_path / "out", []

    def run(suite, trial, *others):
        attempts.append(trial)
        return 1 if trial.arm == "muzero" and trial.seed == 1 else trials.run(suite, trial, *others)

    Ray(monkeypatch, run)
    suite_directory.open_out(found, out)
    assert driver.Driver(found, out, jobs=1, ray_address=None, programs=programs).run() is False
    bad = found.trials()[0]
    assert attempts.count(bad) == 3 and len(attempts) == 3 + 3
    assert "CartPole-v1-muzero-1: exit code 1, given up at attempt 3; see " in capsys.readouterr().out
    assert {row.seed for row in results.read(out / "results.csv").rows if row.arm == "muzero"} == {2}


def test_a_trial_that_was_refused_is_given_up_at_once(found, tmp_path, monkeypatch, capsys):
    attempts = []
    Ray(monkeypatch, lambda suite, trial, *others: attempts.append(trial) or ExitCode.BAD_INPUT)
    suite_directory.open_out(found, tmp_path / "out")
    assert driver.Driver(found, tmp_path / "out", jobs=1, ray_address=None).run() is False
    assert attempts == found.trials()
    assert "exit code 2, given up at attempt 1; see " in capsys.readouterr().out


def test_progress_is_worth_another_attempt(found, tmp_path, monkeypatch):
    out, frames = tmp_path / "out", {}

    def run(suite, trial, out, *others):
        frames[trial] = frames.get(trial, 0) + (100 if frames.get(trial, 0) < 500 else 0)
        path = trials.run_path(out, trial)
        path.mkdir(parents=True, exist_ok=True)
        (path / "metrics.jsonl").write_text(json.dumps({"num_frames": frames[trial], "wall_seconds": 1.0}) + "\n")
        calls[trial] = calls.get(trial, 0) + 1
        return 1

    calls = {}
    Ray(monkeypatch, run)
    suite_directory.open_out(found, out)
    assert driver.Driver(found, out, jobs=2, ray_address=None).run() is False
    assert set(calls.values()) == {5 + 2}  # five with progress; the fifth is the first of three at 500 frames


def test_ray_reserves_what_the_suite_asks_for(found, tmp_path, monkeypatch):
    ray = Ray(monkeypatch, None)
    driver.Driver(found, tmp_path, jobs=1, ray_address=None)
    assert (ray.resources["num_cpus"], ray.resources["num_gpus"], ray.resources["max_retries"]) == (1.0, 0.0, 0)


def test_a_directory_belongs_to_one_suite(found, tmp_path):
    suite_directory.open_out(found, tmp_path / "out")
    suite_directory.open_out(found, tmp_path / "out")
    other = suites.overridden(found, None, (1, 3), None)
    message = "suite.json: of another suite (seeds: [1, 2] -> [1, 3]); choose another"
    with pytest.raises(ConfigError, match=re.escape(message)):
        suite_directory.open_out(other, tmp_path / "out")


def test_a_directory_grows_by_games_and_seeds_alone(found, tmp_path):
    stated = lambda: json.loads((tmp_path / "suite.json").read_text())
    suite_directory.open_out(found, tmp_path)
    suite_directory.open_out(suites.overridden(found, ("Acrobot-v1", *found.games), (1, 2, 3), None), tmp_path)
    assert (stated()["games"], stated()["seeds"]) == (["Acrobot-v1", "CartPole-v1"], [1, 2, 3])
    with pytest.raises(ConfigError, match=re.escape("seeds: [1, 2, 3] -> [1, 2]")):  # its results would be lost
        suite_directory.open_out(found, tmp_path)
    assert stated()["seeds"] == [1, 2, 3]


def test_a_preset_that_has_changed_is_another_suite(found, tmp_path, monkeypatch):
    suite_directory.open_out(found, tmp_path)
    preset = PRESETS["cartpole"]
    changed = dataclasses.replace(preset, loss=dataclasses.replace(preset.loss, td_lambda=0.123))
    monkeypatch.setitem(PRESETS, "cartpole", changed)
    with pytest.raises(ConfigError, match="of another suite .preset_sha256: "):
        suite_directory.open_out(found, tmp_path)


def run_all(found, out, programs, monkeypatch):
    """Runs a suite with a stand-in of Ray; returns the trials that were run."""
    ran = []
    Ray(monkeypatch, lambda suite, trial, *others: ran.append(trial) or trials.run(suite, trial, *others))
    suite_directory.open_out(found, out)
    assert driver.Driver(found, out, jobs=1, ray_address=None, programs=programs).run()
    return ran


def test_the_results_alone_carry_a_suite_to_another_machine(found, programs, tmp_path, monkeypatch, capsys):
    """Two trials are finished on one machine; the other one gets results.csv and nothing else."""
    here, there, file = tmp_path / "here", tmp_path / "there", "results.csv"
    assert run_all(found, here, programs, monkeypatch) == found.trials()
    whole = results.read(here / file)
    half = tuple(row for row in whole.rows if row.seed == 1)
    elsewhere = (*(text for text in whole.comments if text.startswith("suite: ")), "commit: of the first machine")
    there.mkdir()
    results.write(there / file, results.Results(elsewhere, half))

    assert run_all(found, there, programs, monkeypatch) == [trial for trial in found.trials() if trial.seed == 2]
    assert "2 of 4 trials are finished already" in capsys.readouterr().out
    merged = results.read(there / file)
    assert merged.rows == whole.rows
    assert whole.comments[1:] == ("commit: of the trial",) and merged.comments == (*elsewhere, "commit: of the trial")
    assert run_all(found, there, programs, monkeypatch) == []


def test_results_of_another_suite_are_not_carried_over(found, programs, tmp_path, monkeypatch):
    out, other = tmp_path / "out", suites.overridden(found, None, None, 2000)
    run_all(found, out, programs, monkeypatch)
    (out / "suite.json").unlink()
    with pytest.raises(ConfigError, match=re.escape("results.csv: of another suite (frames: 1000 -> 2000); choose")):
        suite_directory.open_out(other, out)
    assert not (out / "suite.json").exists()
    results.write(out / "results.csv", results.Results((), results.read(out / "results.csv").rows))
    with pytest.raises(ConfigError, match="results.csv: does not say which suite it is of; choose another directory"):
        suite_directory.open_out(found, out)


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_the_table_shows_what_runs_and_counts_the_rest(found):
    stream = Terminal()
    with SuiteTable(found, 4, stream=stream) as table:
        table.show({found.trials()[0]: Progress(250, 5.0, 21.5)}, num_finished=1, num_failed=1)
    for text in ("1 of 4 finished, 1 waiting, 1 failed", "CartPole-v1-muzero-1", "250", "25%", "50", "21.50"):
        assert text in stream.getvalue()


def test_without_a_terminal_there_are_lines(found):
    stream = io.StringIO()
    with SuiteTable(found, 4, stream=stream) as table:
        table.event("a: finished")
        table.show({found.trials()[0]: Progress(0, None, None)}, num_finished=1, num_failed=0)
    assert stream.getvalue() == "a: finished\n"


# --- the command line ------------------------------------------------------------------------------------------------


def test_a_dry_run_prints_the_commands_and_starts_nothing(tmp_path, capsys):
    arguments = ["run", "minatar", "--out", str(tmp_path / "out"), "--seeds", "7", "--frames", "99", "--dry-run"]
    assert suite.main(arguments) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 10 and all(line.startswith("python scripts/train.py minatar --run-dir ") for line in lines)
    assert all("--seed 7 --stop.num-frames 99" in line for line in lines)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["nothing"], "suite = nothing: must be one of"),
        (["minatar", "--games", "MinAtar/Pong-v1"], "env.name = MinAtar/Pong-v1: unknown environment"),
        (["minatar", "--seeds", "4", "4"], "seeds = [4, 4]: has duplicates"),
        (["minatar", "--jobs", "0"], "--jobs = 0: must be above 0"),
        (["atari57", "--games", "pong"], "suite atari57: its actors need a cluster; give --ray-address"),
        (["minatar", "--ray-address", "127.0.0.1:1"], "--ray-address 127.0.0.1:1: no Ray cluster answers there"),
    ],
)
def test_bad_arguments_are_refused_before_anything_is_made(tmp_path, arguments, message):
    with pytest.raises(ConfigError, match=re.escape(message)):
        suite.main(["run", *arguments, "--out", str(tmp_path / "out")])
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    "name, address, num_cpus, room",
    [
        ("minatar", None, 2, 2),
        ("minatar", "auto", 2, 50),  # Ray keeps the others waiting
        ("atari57", "auto", 294, 3),  # 2 CPUs and 96 actors each
        ("atari57", "auto", 293, 2),
        ("atari57", "auto", 16, 1),
    ],
)
def test_no_more_trials_start_than_there_are_cpus_for_their_actors(name, address, num_cpus, room, monkeypatch):
    monkeypatch.setattr(driver.ray, "cluster_resources", lambda: {"CPU": float(num_cpus)})
    assert driver._room(suites.load(name), address) == room
