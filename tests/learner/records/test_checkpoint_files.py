"""One checkpoint on disk: nothing but what was written loads,
and a kill never costs an older one.
"""

import hashlib
import json
import logging
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from learner.records import checkpoint_files
from learner.records.checkpoint import (
    Checkpointer,
    CheckpointError,
    CheckpointMismatch,
    CheckpointWriteError,
    CorruptCheckpoint,
)

ROOT = Path(__file__).resolve().parents[3]


class Nets(NamedTuple):
    encoder: dict
    heads: tuple


def make_nets(value):
    return Nets({"a/~/conv": {"w": jnp.full((4, 3), value)}}, (jnp.zeros(3, jnp.bfloat16),))


def abstract(nets):
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), nets)


def open_checkpoints(directory, abstract_state=None):
    return Checkpointer(directory, max_to_keep=3, abstract_state=abstract_state)


def save(directory, *steps):
    checkpointer = open_checkpoints(directory)
    for step in steps:
        checkpointer.save(step, make_nets(float(step)), {})
    checkpointer.close()


def weights(checkpoint):
    return checkpoint.state["encoder"]["a/~/conv"]["w"]


def flip_one_bit(file):
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def test_one_flipped_bit_in_any_file_falls_back_loudly(tmp_path, caplog):
    save(tmp_path / "run", 1, 2)
    files = [
        path.relative_to(tmp_path / "run")
        for path in (tmp_path / "run" / "2").rglob("*")
        if path.is_file()
    ]
    assert len(files) >= 8
    for file in files:
        shutil.copytree(tmp_path / "run", tmp_path / "copy")
        flip_one_bit(tmp_path / "copy" / file)
        caplog.clear()
        checkpoint = open_checkpoints(tmp_path / "copy").restore()
        assert checkpoint.step == 1, file
        np.testing.assert_array_equal(weights(checkpoint), np.full((4, 3), 1.0, np.float32))
        [record] = [record for record in caplog.records if record.levelno == logging.WARNING]
        assert "CHECKPOINT 2 IS SKIPPED" in record.getMessage()
        shutil.rmtree(tmp_path / "copy")


def remove_manifest(slot):
    (slot / "manifest.json").unlink()


def truncate_manifest(slot):
    (slot / "manifest.json").write_text((slot / "manifest.json").read_text()[:100])


def remove_a_file(slot):
    (slot / "state" / "manifest.ocdbt").unlink()


@pytest.mark.parametrize("damage", [remove_manifest, truncate_manifest, remove_a_file])
def test_an_incomplete_checkpoint_does_not_count(tmp_path, damage):
    save(tmp_path, 1, 2)
    damage(tmp_path / "2")
    assert open_checkpoints(tmp_path).restore().step == 1
    with pytest.raises(CorruptCheckpoint):
        open_checkpoints(tmp_path).restore(2)
    damage(tmp_path / "1")
    with pytest.raises(CheckpointError, match=r"no valid checkpoint in .* \[2, 1\]"):
        open_checkpoints(tmp_path).restore()


def test_every_differing_leaf_is_named(tmp_path):
    save(tmp_path, 1)
    other = Nets({"a/~/conv": {"w": jnp.zeros((4, 5)), "b": jnp.zeros(2)}}, (jnp.zeros(3),))
    with pytest.raises(CheckpointMismatch) as error:
        open_checkpoints(tmp_path, abstract(other)).restore()
    leaves, _, advice = str(error.value).partition("state of this run: ")[2].partition(". ")
    assert "provenance.json" in advice and "--init-from" in advice
    assert leaves.split("; ") == [
        "encoder/a/~/conv/b: nothing stored, float32[2] expected",
        "encoder/a/~/conv/w: float32[4, 3] stored, float32[4, 5] expected",
        "heads/0: bfloat16[3] stored, float32[3] expected",
    ]
    fewer = Nets({}, (jnp.zeros(3, jnp.bfloat16),))
    with pytest.raises(
        CheckpointMismatch, match=r"encoder/a/~/conv/w: float32\[4, 3\] stored, nothing expected"
    ):
        open_checkpoints(tmp_path, abstract(fewer)).restore()


@pytest.mark.parametrize("version, is_read", [(0, False), (1, True), (3, False)])
def test_a_newer_format_is_refused_and_the_one_before_is_read(
    tmp_path, monkeypatch, version, is_read
):
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint_files, "FORMAT_VERSION", version)
        save(tmp_path, 1)
    if is_read:
        assert open_checkpoints(tmp_path).restore().step == 1
        return
    with pytest.raises(
        CheckpointMismatch, match=rf"^\S+: format {version}, this program reads formats 1 to 2$"
    ):
        open_checkpoints(tmp_path).restore()


def hashes(slot):
    return json.loads((slot / "manifest.json").read_text())["files"]


def rewrite_manifest(slot, files):
    (slot / "manifest.json").write_text(json.dumps({"files": files}))


def name_a_file_outside(slot):
    (slot.parent / "outside").write_text("secret")
    rewrite_manifest(slot, hashes(slot) | {"../outside": hashlib.sha256(b"secret").hexdigest()})


def name_an_absolute_path(slot):
    (slot.parent / "outside").write_text("secret")
    rewrite_manifest(
        slot, hashes(slot) | {str(slot.parent / "outside"): hashlib.sha256(b"secret").hexdigest()}
    )


def put_a_link_in_place_of_a_file(slot):
    (slot / "state" / "manifest.ocdbt").rename(slot.parent / "outside")
    (slot / "state" / "manifest.ocdbt").symlink_to(slot.parent / "outside")


def link_the_slot(slot):
    slot.rename(slot.parent / "outside")
    slot.symlink_to(slot.parent / "outside")


def add_a_file(slot):
    (slot / "state" / "extra.pkl").write_bytes(b"")


@pytest.mark.parametrize(
    "damage, words",
    [
        (name_a_file_outside, r"leads out of its directory: \.\./outside"),
        (name_an_absolute_path, "leads out of its directory: /"),
        (put_a_link_in_place_of_a_file, "leads out of its directory: .*manifest.ocdbt"),
        (link_the_slot, "leads out of its directory: .*/2"),
        (add_a_file, "missing or foreign files: state/extra.pkl"),
    ],
)
def test_a_checkpoint_is_its_own_files_and_no_others(tmp_path, damage, words):
    save(tmp_path, 1, 2)
    damage(tmp_path / "2")
    with pytest.raises(CorruptCheckpoint, match=words):
        open_checkpoints(tmp_path).restore(2)
    assert open_checkpoints(tmp_path).restore().step == 1


class Bomb:
    """Unpickling it leaves a file behind."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return open, (self.path, "w")


def test_a_pickle_in_the_arrays_is_refused_and_not_executed(tmp_path):
    checkpointer = open_checkpoints(tmp_path / "run")
    bomb = np.array([Bomb(tmp_path / "executed")], object)
    checkpointer.save(1, make_nets(1.0), {}, arrays={"worker": np.zeros(2)}, wait=True)
    with pytest.raises(CheckpointWriteError, match="would have to be pickled"):
        checkpointer.save(2, make_nets(2.0), {}, arrays={"worker": bomb}, wait=True)
    slot = tmp_path / "run" / "1"
    np.savez((slot / "arrays.npz").open("wb"), worker=bomb, allow_pickle=True)
    rewrite_manifest(
        slot,
        hashes(slot)
        | {"arrays.npz": hashlib.sha256((slot / "arrays.npz").read_bytes()).hexdigest()},
    )
    with pytest.raises(CorruptCheckpoint, match="Object arrays cannot be loaded"):
        open_checkpoints(tmp_path / "run").restore(1)
    assert not (tmp_path / "executed").exists()


def test_a_slot_killed_while_it_is_deleted_is_incomplete_not_corrupt(tmp_path, monkeypatch):
    save(tmp_path, 1, 2, 3)
    monkeypatch.setattr(shutil, "rmtree", lambda path: 1 / 0)
    checkpointer = open_checkpoints(tmp_path)
    with pytest.raises(CheckpointError):
        checkpointer.save(4, make_nets(4.0), {}, wait=True)
    assert checkpointer.steps() == [2, 3, 4] and (tmp_path / "1").exists()


CHILD = """
import sys
import numpy as np
from learner.records.checkpoint import Checkpointer
checkpointer = Checkpointer(sys.argv[1], max_to_keep=2, abstract_state=None)
step = checkpointer.restore().step if checkpointer.steps() else 0
while True:
    step += 1
    state = {"a": np.full((200, 200), float(step)), "b": [np.full(3, step)]}
    checkpointer.save(step, state, {"step": step})
    checkpointer.steps()
    print(step, flush=True)
"""


def kill_a_child_while_it_saves(directory: Path, delay: float) -> int:
    """Returns the last step that the child had announced as complete."""
    command = [sys.executable, "-c", CHILD, str(directory)]
    environment = os.environ | {"JAX_PLATFORMS": "cpu"}
    with subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True
    ) as child:
        announced = [int(child.stdout.readline()) for _ in range(3)]
        time.sleep(delay)
        child.send_signal(signal.SIGKILL)
        announced += [int(line) for line in child.stdout.read().splitlines()]
    assert child.returncode == -signal.SIGKILL
    return announced[-1]


def test_a_kill_at_any_moment_leaves_a_loadable_checkpoint(tmp_path):
    delays, last_step = random.Random(0), 0
    for _ in range(4):
        announced = kill_a_child_while_it_saves(tmp_path, delays.uniform(0.0, 0.15))
        assert announced > last_step
        checkpoint = open_checkpoints(tmp_path).restore()
        assert announced <= checkpoint.step <= announced + 1
        np.testing.assert_array_equal(
            checkpoint.state["a"], np.full((200, 200), float(checkpoint.step))
        )
        np.testing.assert_array_equal(checkpoint.state["b"][0], np.full(3, checkpoint.step))
        assert checkpoint.metadata == {"step": checkpoint.step}
        last_step = checkpoint.step
