"""The driver of a suite and its table: nothing is repeated and nothing is lost."""

import contextlib
import io
import json
import signal
import subprocess
import sys

import pytest

from scripts.experiments import driver, results, suite_directory, trials
from scripts.experiments.results import LAST_FRAMES
from scripts.experiments.suite_table import SuiteTable
from scripts.experiments.trials import Progress
from scripts.program.exit_codes import ExitCode
from tests.scripts.experiments.stand_ins import (
    ROOT,
    SECONDS,
    Ray,
    history,
    is_alive,
    make_programs,
    wait_for,
)

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
found, out = suites.load(sys.argv[1]), Path(sys.argv[2])
programs, address = sys.argv[3:5]
suite_directory.open_out(found, out)
cluster.start_ray(address, num_cpus=1)
run = driver.Driver(found, out, jobs=4, ray_address=address, programs=programs).run
sys.exit(0 if run() else 1)
"""


@pytest.fixture
def nodes(importable):
    """Yields (address, `remove()`) of a cluster of a head without work and two nodes of one CPU."""
    pipes = dict(
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
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

    def start():
        return subprocess.Popen(
            command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )

    def path(trial):
        return trials.run_path(out, trial)

    def frames():
        return [trials.progress(path(trial)).num_frames for trial in found.trials()]

    for total in (600, 2300):  # in the middle of the first two trials, then of the next
        driver = start()
        wait_for(
            lambda total=total, driver=driver: sum(frames()) >= total or driver.poll() is not None
        )
        assert driver.poll() is None, driver.communicate()[0]
        started = [int(line[3]) for line in history(out) if line[1] != "end"]
        driver.send_signal(signal.SIGKILL)
        driver.wait()
        # Its trials did not go on unseen
        wait_for(lambda pids=started: not any(map(is_alive, pids)))
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


def test_a_trial_that_never_gets_on_is_given_up_and_the_others_are_not(
    found, programs, tmp_path, monkeypatch, capsys
):
    out, attempts = tmp_path / "out", []

    def run(suite, trial, *others):
        attempts.append(trial)
        return 1 if trial.arm == "muzero" and trial.seed == 1 else trials.run(suite, trial, *others)

    Ray(monkeypatch, run)
    suite_directory.open_out(found, out)
    assert driver.Driver(found, out, jobs=1, ray_address=None, programs=programs).run() is False
    bad = found.trials()[0]
    assert attempts.count(bad) == 3 and len(attempts) == 3 + 3
    assert (
        "CartPole-v1-muzero-1: exit code 1, given up at attempt 3; see " in capsys.readouterr().out
    )
    assert {row.seed for row in results.read(out / "results.csv").rows if row.arm == "muzero"} == {
        2
    }


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
        (path / "metrics.jsonl").write_text(
            json.dumps({"num_frames": frames[trial], "wall_seconds": 1.0}) + "\n"
        )
        calls[trial] = calls.get(trial, 0) + 1
        return 1

    calls = {}
    Ray(monkeypatch, run)
    suite_directory.open_out(found, out)
    assert driver.Driver(found, out, jobs=2, ray_address=None).run() is False
    # Five with progress; the fifth is the first of three at 500 frames
    assert set(calls.values()) == {5 + 2}


def test_ray_reserves_what_the_suite_asks_for(found, tmp_path, monkeypatch):
    ray = Ray(monkeypatch, None)
    driver.Driver(found, tmp_path, jobs=1, ray_address=None)
    assert (ray.resources["num_cpus"], ray.resources["num_gpus"], ray.resources["max_retries"]) == (
        1.0,
        0.0,
        0,
    )


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_the_table_shows_what_runs_and_counts_the_rest(found):
    stream = Terminal()
    with SuiteTable(found, 4, stream=stream) as table:
        table.show({found.trials()[0]: Progress(250, 5.0, 21.5)}, num_finished=1, num_failed=1)
    for text in (
        "1 of 4 finished, 1 waiting, 1 failed",
        "CartPole-v1-muzero-1",
        "250",
        "25%",
        "50",
        "21.50",
    ):
        assert text in stream.getvalue()


def test_without_a_terminal_there_are_lines(found):
    stream = io.StringIO()
    with SuiteTable(found, 4, stream=stream) as table:
        table.event("a: finished")
        table.show({found.trials()[0]: Progress(0, None, None)}, num_finished=1, num_failed=0)
    assert stream.getvalue() == "a: finished\n"
