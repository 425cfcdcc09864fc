"""Two learner processes of the real program: one is killed, both start again, and the run ends as
it should.
"""

import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest
import ray

from actors import identity
from configs.schema import Config, LearnerConfig
from learner.loop import Counters, NonFiniteError
from learner.records.checkpoint import restore_params
from learner.records.run_directory import RunDirectory
from scripts.training import cluster, group
from scripts.training.beginning import Start

pytestmark = pytest.mark.timeout(900)

ROOT = Path(__file__).resolve().parents[3]
NUM_UPDATES = 12
SEQUENCE_STEPS = 8 - 3  # new decisions of a sequence of the smoke preset


def learners(program):
    """Returns the learner processes of a running program."""
    found = []
    for process in psutil.Process(program.pid).children(recursive=True):
        try:
            command = process.cmdline()
        except psutil.NoSuchProcess:
            continue
        found += [process] if command and command[0].startswith("ray::LearnerProcess") else []
    return found


def wait_for(condition, program, pause=0.1):
    while not condition():
        assert program.poll() is None, program.communicate()[0]
        time.sleep(pause)


def test_two_processes_of_two_devices_train_as_one_and_survive_the_death_of_one(tmp_path):
    run = tmp_path / "run"
    command = [
        sys.executable, "scripts/train.py", "smoke", "--run-dir", run, "--learner.num-processes",
        "2", "--learner.num-devices", "2", "--learner.batch-size", "4", "--stop.num-updates",
        NUM_UPDATES, "--log.interval-seconds", "1e-6",
    ]  # fmt: skip
    quick = {"JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}  # to compile
    environment = os.environ | {"JAX_PLATFORMS": "cpu"} | quick
    pipes = dict(stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    program = subprocess.Popen([*map(str, command)], cwd=ROOT, env=environment, **pipes)
    metrics = run / "metrics.jsonl"
    # Known beforehand: the updates go on until the kill
    wait_for(lambda: len(learners(program)) == 2, program)
    last = max(learners(program), key=lambda process: process.pid)
    wait_for(lambda: metrics.exists() and metrics.read_text().count("\n") >= 2, program, pause=0.01)
    last.kill()
    output, _ = program.communicate(timeout=800)
    assert program.returncode == 0, output
    assert "all 2 start again" in output and f"saved after {NUM_UPDATES} updates" in output
    counters = restore_params(run / "checkpoints", "latest", fields=["num_updates"]).metadata[
        "counters"
    ]
    assert counters["num_updates"] == counters["num_batches"] == NUM_UPDATES
    # Two sequences a batch, the first of a session longer
    one_alone = NUM_UPDATES * 2 * SEQUENCE_STEPS + 2 * 2 * 2
    assert one_alone < counters["num_steps"] <= 2 * one_alone
    devices = json.loads((run / "provenance.json").read_text())[-1]["jax_devices"]
    assert len(devices) == 4 and all(name.startswith("cpu:") for name in devices)
    rows = [json.loads(line) for line in metrics.read_text().splitlines()]
    assert [row["num_updates"] for row in rows] == sorted({row["num_updates"] for row in rows})
    assert {path.name for path in (run / "logs").glob("learner-*")} == {
        "learner-0.log",
        "learner-1.log",
    }
    assert (run / "logs" / "worker-000.log").exists() and (
        run / "logs" / "1" / "worker-000.log"
    ).exists()


@pytest.fixture(scope="module")
def local_ray():
    cluster.start_ray(None, num_cpus=4)
    yield
    cluster.stop_ray()


@pytest.fixture
def run_stand_ins(local_ray, monkeypatch, tmp_path):
    """Returns `run(train)`: a group of two processes whose training is `train(index, run directory,
    is_first_start)`.

    A process notes in `starts-<index>` of its run whether it was to resume.
    """

    def run(train):
        class StandIn:
            def address(self):
                return "nowhere"

            def train(self, index, coordinator, code, config, run_dir, start):
                starts = run_dir / f"starts-{index}"
                before = starts.read_text() if starts.exists() else ""
                starts.write_text(f"{before}{start.resume}\n")
                return train(index, run_dir, not before)

        monkeypatch.setattr(group, "LearnerProcess", StandIn)
        directory = RunDirectory.create(tmp_path / "run", {}, ["test"], {})
        config = Config(learner=LearnerConfig(num_processes=2))
        return group.run_group(config, directory, Start()), directory.path

    return run


def test_numbers_that_are_not_finite_end_the_group_and_the_first_process_writes_down_why(
    run_stand_ins, tmp_path
):
    def train(index, run_dir, is_first_start):
        if index == 0:
            time.sleep(2.0)  # longer than the other one
            (run_dir / "nonfinite").touch()
        raise NonFiniteError("3 batches in a row", threading.Lock())  # which cannot be pickled

    with pytest.raises(NonFiniteError, match="3 batches in a row") as caught:
        run_stand_ins(train)
    assert not isinstance(caught.value, ray.exceptions.RayError)  # one line, not Ray's traceback
    assert (tmp_path / "run" / "nonfinite").exists()
    assert (tmp_path / "run" / "starts-0").read_text() == "False\n"


@pytest.mark.parametrize("has_checkpoint", [False, True])
def test_a_group_that_failed_goes_on_from_a_checkpoint_if_there_is_one(
    run_stand_ins, has_checkpoint
):
    def train(index, run_dir, is_first_start):
        if index == 0 and is_first_start:
            if has_checkpoint:
                (run_dir / "checkpoints" / "7").mkdir(parents=True)
                (run_dir / "checkpoints" / "7" / "manifest.json").write_text("{}")
            raise OSError("the coordinator's port was taken")
        return Counters(num_updates=5)

    outcome, path = run_stand_ins(train)
    assert outcome == (Counters(num_updates=5), None, 0)
    assert (path / "starts-0").read_text() == f"False\n{has_checkpoint}\n"


def test_a_process_of_other_code_trains_nothing():
    other = identity.code_identity() | {"learner": "other"}
    with pytest.raises(identity.CodeMismatch, match="learner: other in the driver"):
        group.LearnerProcess().train(0, "nowhere", other, Config(), Path(), Start())


def test_processes_that_find_no_place_are_refused(tmp_path):
    command = [
        sys.executable, "scripts/train.py", "smoke", "--run-dir", tmp_path / "run",
        "--learner.num-processes", "2", "--learner.batch-size", "4", "--learner.process-device",
        "tpu", "--learner.num-devices", "2",
    ]  # fmt: skip
    done = subprocess.run(
        [*map(str, command)], cwd=ROOT, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 2, done.stderr
    assert (
        "learner.num_processes = 2: each needs {'CPU': 1, 'TPU': 2}, and Ray has {'CPU': "
        in done.stderr
    )
    assert "'TPU': 0.0} in all; see learner.process_device" in done.stderr


def test_what_ray_is_asked_for_follows_the_learners_device():
    def bundle(**fields):
        return group.bundle_of(Config(learner=LearnerConfig(**fields)))

    assert bundle() == {"CPU": 1}
    assert bundle(process_device="gpu", num_devices=4) == {"CPU": 1, "GPU": 4}
    assert bundle(process_device="tpu", num_devices=8) == {"CPU": 1, "TPU": 8}
