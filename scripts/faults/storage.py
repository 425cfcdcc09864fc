"""Faults of the disk itself, in a child whose file system is its own: full, read-only; and deaths
while saving.
"""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from learner.records.checkpoint import Checkpointer
from scripts.faults.registry import Outcome, fault

_ROOT = Path(__file__).resolve().parents[2]
_NUM_KILLS = 50
_TOLD = "told in the same step, exit code 5; the older checkpoint loads"

_SAVE_UNTIL_KILLED = """
import sys, numpy as np
from learner.records.checkpoint import Checkpointer
checkpointer = Checkpointer(sys.argv[1], max_to_keep=2, abstract_state=None)
step = checkpointer.restore().step if checkpointer.steps() else 0
while True:
    step += 1
    checkpointer.save(step, {"a": np.full((200, 200), float(step))}, {"step": step}, wait=True)
    print(step, flush=True)
"""
_SAVE_TWICE = """
import os, subprocess, sys, numpy as np
from learner.records.checkpoint import Checkpointer, CheckpointWriteError
checkpointer = Checkpointer(sys.argv[1], max_to_keep=2, abstract_state=None)
checkpointer.save(1, {"a": np.zeros(9)}, {}, wait=True)
if sys.argv[2] == "read-only":
    subprocess.run(["mount", "-o", "remount,ro", sys.argv[1]], check=True)
try:
    checkpointer.save(2, {"a": np.random.default_rng(0).random(1_000_000)}, {}, wait=True)
except CheckpointWriteError as error:
    print("TOLD", error)
checkpointer = Checkpointer(sys.argv[1], max_to_keep=2, abstract_state=None)
print("LOADS", checkpointer.restore().step)
"""


def _python(code: str, *arguments: str) -> list[str]:
    return [sys.executable, "-c", code, *arguments]


def _in_a_file_system_of_its_own(folder: Path, kind: str) -> Outcome:
    """Returns what two saves on a tmpfs of 2 MB say; the mount lives in a user namespace, and dies
    with it.
    """
    mount = f'mount -t tmpfs -o size=2m tmpfs "{folder}" && exec "$@"'
    command = ["unshare", "-Urm", "sh", "-c", mount, "sh", *_python(_SAVE_TWICE, str(folder), kind)]
    environment = os.environ | {"JAX_PLATFORMS": "cpu"}
    done = subprocess.run(
        command, cwd=_ROOT, env=environment, capture_output=True, text=True, timeout=600
    )
    told = next((line[5:125] for line in done.stdout.splitlines() if line.startswith("TOLD ")), "")
    held = bool(told) and "LOADS 1" in done.stdout
    return Outcome(
        held, f"told at once, step 1 loads: {told}" if held else (done.stdout + done.stderr)[-300:]
    )


@fault(
    injected="disk full while saving (a tmpfs of 2 MB in a user namespace)",
    promised=_TOLD,
    is_quick=False,
)
def disk_full(folder: Path) -> Outcome:
    """The second checkpoint is larger than the disk."""
    return _in_a_file_system_of_its_own(folder, "full")


@fault(
    injected="directory read-only while saving (a tmpfs remounted so)",
    promised=_TOLD,
    is_quick=False,
)
def read_only_directory(folder: Path) -> Outcome:
    """As root, permissions would stop nothing: the mount does."""
    return _in_a_file_system_of_its_own(folder, "read-only")


@fault(
    injected=f"SIGKILL while saving without a pause, at {_NUM_KILLS} random moments",
    promised="the newest checkpoint that was announced, or a newer one, loads with its own numbers",
    is_quick=False,
)
def learner_killed_while_saving(folder: Path) -> Outcome:
    """Each child goes on from what the one before it left."""
    delays, last, lost = random.Random(0), 0, []
    for _ in range(_NUM_KILLS):
        announced = _killed_after(folder / "run", delays.uniform(0.0, 0.2))
        checkpointer = Checkpointer(folder / "run", max_to_keep=2, abstract_state=None)
        checkpoint = checkpointer.restore()
        checkpointer.close()
        whole = (
            bool(np.all(checkpoint.state["a"] == checkpoint.step))
            and checkpoint.metadata["step"] == checkpoint.step
        )
        lost.append(announced - checkpoint.step if whole and announced > last else 1)
        last = announced
    held = sum(n <= 0 for n in lost)
    return Outcome(
        held == _NUM_KILLS, f"{held} of {_NUM_KILLS}; last step {last}", updates_lost=max(0, *lost)
    )


def _killed_after(directory: Path, seconds: float) -> int:
    """Returns the last step that a child had announced as saved when it was killed."""
    environment = os.environ | {"JAX_PLATFORMS": "cpu"}
    command = _python(_SAVE_UNTIL_KILLED, str(directory))
    with subprocess.Popen(
        command, cwd=_ROOT, env=environment, stdout=subprocess.PIPE, text=True
    ) as child:
        announced = [int(child.stdout.readline())]
        time.sleep(seconds)
        child.send_signal(signal.SIGKILL)
        announced += [int(line) for line in child.stdout.read().splitlines()]
    return announced[-1]
