"""Two learner processes of the real program: one is killed, both start again, and the run ends as it should."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from configs.schema import Config, LearnerConfig
from learner.checkpoint import restore_params
from scripts import group
from scripts.interrupts import Interrupted

pytestmark = pytest.mark.timeout(900)

ROOT = Path(__file__).resolve().parents[1]
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


def wait_for(condition, program):
    while not condition():
        assert program.poll() is None, program.communicate()[0]
        time.sleep(0.1)


def test_two_processes_of_two_devices_train_as_one_and_survive_the_death_of_one(tmp_path):
    run = tmp_path / "run"
    command = [
        sys.executable, "scripts/train.py", "smoke", "--run-dir", run,
        "--learner.num-processes", "2", "--learner.num-devices", "2",
        "--learner.batch-size", "4", "--stop.num-updates", NUM_UPDATES, "--log.interval-seconds", "1e-6",
    ]  # fmt: skip
    quick = {  # to compile: the second start finds what the first has left
        "JAX_COMPILATION_CACHE_DIR": str(tmp_path / "compiled"), "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
    }  # fmt: skip
    environment = os.environ | {"JAX_PLATFORMS": "cpu"} | quick
    pipes = dict(stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    program = subprocess.Popen([*map(str, command)], cwd=ROOT, env=environment, **pipes)
    metrics = run / "metrics.jsonl"
    wait_for(lambda: metrics.exists() and metrics.read_text().count("\n") >= 2, program)
    first = {process.pid for process in learners(program)}
    assert len(first) == 2
    os.kill(max(first), signal.SIGKILL)
    output, _ = program.communicate(timeout=800)
    assert program.returncode == 0, output
    assert "all 2 start again" in output and f"saved after {NUM_UPDATES} updates" in output
    counters = restore_params(run / "checkpoints", "latest", fields=["num_updates"]).metadata["counters"]
    assert counters["num_updates"] == counters["num_batches"] == NUM_UPDATES
    one_alone = NUM_UPDATES * 2 * SEQUENCE_STEPS + 2 * 2 * 2  # two sequences a batch, the first of a session longer
    assert one_alone < counters["num_steps"] <= 2 * one_alone
    devices = json.loads((run / "provenance.json").read_text())[-1]["jax_devices"]
    assert len(devices) == 4 and all(name.startswith("cpu:") for name in devices)
    rows = [json.loads(line) for line in metrics.read_text().splitlines()]
    assert [row["num_updates"] for row in rows] == sorted({row["num_updates"] for row in rows})
    assert {path.name for path in (run / "logs").glob("learner-*")} == {"learner-0.log", "learner-1.log"}
    assert (run / "logs" / "worker-000.log").exists() and (run / "logs" / "1" / "worker-000.log").exists()


def test_a_request_to_stop_is_a_file_that_every_machine_sees(tmp_path):
    ours, theirs = group.StopRequest(tmp_path), group.StopRequest(tmp_path)
    with theirs:
        assert theirs.name is None
        theirs.check()
        ours.ask("SIGTERM")
        assert theirs.name == "SIGTERM"
        with pytest.raises(Interrupted):
            theirs.check()
    ours.clear()
    ours.clear()
    assert theirs.name is None


def test_processes_that_find_no_place_are_refused(tmp_path):
    command = [
        sys.executable, "scripts/train.py", "smoke", "--run-dir", tmp_path / "run", "--learner.num-processes", "2",
        "--learner.batch-size", "4", "--learner.process-device", "tpu", "--learner.num-devices", "2",
    ]  # fmt: skip
    done = subprocess.run([*map(str, command)], cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 2, done.stderr
    assert "learner.num_processes = 2: each needs {'CPU': 1, 'TPU': 2}, and Ray has {'CPU': " in done.stderr
    assert "'TPU': 0.0} in all; see learner.process_device" in done.stderr


def test_what_ray_is_asked_for_follows_the_learners_device():
    bundle = lambda **fields: group.bundle_of(Config(learner=LearnerConfig(**fields)))
    assert bundle() == {"CPU": 1}
    assert bundle(process_device="gpu", num_devices=4) == {"CPU": 1, "GPU": 4}
    assert bundle(process_device="tpu", num_devices=8) == {"CPU": 1, "TPU": 8}
