"""The real programs of the tests, started and called, and what they have left in a run
directory.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import jax
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from configs.serialise import from_dict
from learner.records.checkpoint import Checkpointer
from learner.records.run_directory import RunDirectory
from scripts.training.beginning import begin

ROOT = Path(__file__).resolve().parents[2]
EVERY_ROW = ("--log.interval-seconds", "1e-6")
# none falls due however slow the machine is: those at the beginning and at the end are written
NO_CHECKPOINT_BETWEEN = ("--log.checkpoint-interval-minutes", "60")
SECONDS = 420  # on a busy machine; some 20 on an idle one


class Programs:
    """Starts the real programs. They share their compiled functions (tests/conftest.py), which XLA
    makes quickly: most of what a short run costs.
    """

    def __init__(self):
        self.environment = os.environ | {
            "JAX_PLATFORMS": "cpu",
            "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
        }

    def run(self, name, *arguments):
        """Returns the completed process of scripts/<name>.py."""
        command = [sys.executable, f"scripts/{name}.py", *map(str, arguments)]
        return subprocess.run(
            command,
            cwd=ROOT,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=SECONDS,
            check=False,
        )

    def start(self, name, *arguments):
        """Returns the running process, leader of a process group of its own."""
        command = [sys.executable, f"scripts/{name}.py", *map(str, arguments)]
        pipes = dict(stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        return subprocess.Popen(
            command, cwd=ROOT, env=self.environment, start_new_session=True, **pipes
        )


def rows(path):
    return [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]


def column(path, name):
    return [row[name] for row in rows(path)]


def complete_steps(path):
    return sorted(
        int(manifest.parent.name)
        for manifest in (path / "checkpoints").glob("[0-9]*/manifest.json")
    )


def stored(path, step=None):
    """Returns a checkpoint of a run as plain dictionaries."""
    checkpointer = Checkpointer(path / "checkpoints", max_to_keep=3, abstract_state=None)
    try:
        return checkpointer.restore(step)
    finally:
        checkpointer.close()


def begun(path, start):
    """Returns how a session of the run at `path` begins: its state, on the host, and its counters.

    Trains nothing.
    """
    directory = RunDirectory.open(path)
    beginning = begin(from_dict(directory.read_config()), directory, start)
    beginning.saver.close()
    return jax.device_get(beginning.state), beginning.counters


def board(path):
    events = EventAccumulator(str(path / "tensorboard"), size_guidance={"scalars": 0})
    events.Reload()
    return events


def strictly_increasing(numbers):
    return all(a < b for a, b in zip(numbers, numbers[1:], strict=False))


def rows_of_a_torn_file(path):
    return [json.loads(line) for line in (path / "metrics.jsonl").read_text().split("\n")[:-1]]


def leaves(state):
    return jax.tree_util.tree_leaves_with_path(state)
