"""Checkpoints: what goes in comes out, and whatever happens to the newest, an older one loads."""

import resource
import threading
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from learner.records import checkpoint, checkpoint_files
from learner.records.checkpoint import (
    Checkpointer,
    CheckpointError,
    CheckpointMismatch,
    CheckpointWriteError,
    restore_params,
)

ROOT = Path(__file__).resolve().parents[3]


class Nets(NamedTuple):
    representation: Any
    prediction: Any


class State(NamedTuple):
    params: Nets
    search_average: Nets
    optimiser_state: Any
    num_updates: Any


def make_state(value: float) -> State:
    def nets(scale):
        return Nets(
            {
                "encoder/~/conv": {
                    "w": jnp.full((4, 3), scale * value),
                    "b": jnp.full((3,), value, jnp.bfloat16),
                }
            },
            {},
        )

    params = nets(1.0)
    optimiser_state = optax.chain(optax.identity(), optax.adam(1e-3)).init(params)
    return State(params, nets(10.0), optimiser_state, jnp.asarray(int(value), jnp.int32))


ABSTRACT_STATE = jax.eval_shape(lambda: make_state(0.0))  # no device yet: see conftest.py


@pytest.fixture
def make(tmp_path):
    made = []

    def build(max_to_keep=3, abstract_state=ABSTRACT_STATE, directory=tmp_path / "checkpoints"):
        made.append(Checkpointer(directory, max_to_keep=max_to_keep, abstract_state=abstract_state))
        return made[-1]

    yield build
    for checkpointer in made:
        checkpointer._worker.shutdown()


def saved(make, *steps, **kwargs):
    checkpointer = make(**kwargs)
    for step in steps:
        checkpointer.save(step, make_state(float(step)), {"num_frames": 4 * step}, wait=True)
    return checkpointer


def assert_state_is(state, value):
    expected = make_state(value)
    assert jax.tree.structure(state) == jax.tree.structure(expected)
    assert len(jax.tree.leaves(state)) == 10
    for leaf, other in zip(jax.tree.leaves(state), jax.tree.leaves(expected), strict=True):
        assert leaf.dtype == other.dtype and leaf.shape == other.shape
        np.testing.assert_array_equal(np.asarray(leaf), np.asarray(other))


def test_a_state_comes_back_with_its_types_values_and_metadata(make):
    saved(make, 7).close()
    step, state, metadata, arrays = make().restore()
    assert (step, metadata, arrays) == (7, {"num_frames": 28}, {})
    assert isinstance(state, State) and isinstance(state.params, Nets)
    assert_state_is(state, 7.0)


@pytest.fixture
def gate(monkeypatch):
    """Holds every write back until it is set."""
    event = threading.Event()

    def gated(*args, **kwargs):
        return (event.wait(10), checkpoint_files.write(*args, **kwargs))

    monkeypatch.setattr(checkpoint, "write", gated)
    yield event
    event.set()


def test_buffers_may_be_donated_as_soon_as_save_returns(make, gate):
    checkpointer = make(abstract_state=None)
    state = {"w": jax.jit(lambda: jnp.full((512, 512), 3.0))()}
    checkpointer.save(1, state, {})
    jax.block_until_ready(
        jax.jit(lambda tree: jax.tree.map(lambda x: x * 0.0 - 1.0, tree), donate_argnums=0)(state)
    )
    assert state[
        "w"
    ].is_deleted()  # no view of the buffer was kept, which would have forbidden the donation
    gate.set()
    np.testing.assert_array_equal(checkpointer.restore().state["w"], np.full((512, 512), 3.0))


def test_save_returns_before_the_write_and_steps_waits_for_it(make, gate):
    checkpointer = make()
    checkpointer.save(1, make_state(1.0), {})
    assert not checkpointer._directory.exists()
    gate.set()
    assert checkpointer.steps() == [1]


def test_metadata_may_change_as_soon_as_save_returns(make, gate):
    checkpointer, metadata = make(), {"counters": {"num_frames": 4}}
    checkpointer.save(1, make_state(1.0), metadata)
    metadata["counters"]["num_frames"] = 8
    gate.set()
    assert checkpointer.restore().metadata == {"counters": {"num_frames": 4}}


def test_the_latest_n_are_kept_and_the_best_besides(make):
    checkpointer = make(max_to_keep=2)
    assert checkpointer.latest() is None
    for step in (1, 2, 3, 4):
        checkpointer.save(step, make_state(float(step)), {})
        if step in (1, 2):
            checkpointer.save_best(step, make_state(float(step)), {"score": step})
    assert checkpointer.steps() == [3, 4] and checkpointer.latest() == 4
    assert checkpointer.best_metadata() == {"score": 2}
    step, state, metadata, _ = make(directory=checkpointer._directory / "best").restore()
    assert (step, metadata) == (2, {"score": 2})
    assert_state_is(state, 2.0)
    assert len(checkpoint_files.slots(checkpointer._directory / "best")) == 1


def test_what_is_marked_is_kept_whatever_comes_after_it(make):
    checkpointer = make(max_to_keep=2)
    for step in (1, 2, 3, 4, 5, 6):
        checkpointer.save(step, make_state(float(step)), {}, keep=step % 2 == 0)
    assert checkpointer.steps() == [2, 4, 5, 6]
    assert_state_is(checkpointer.restore(2).state, 2.0)


def test_arrays_are_compressed_and_their_size_on_the_disk_is_known(make, tmp_path):
    frames = np.zeros((100, 64, 64), np.uint8)
    make().save(1, make_state(1.0), {}, wait=True)
    make().save(2, make_state(1.0), {}, arrays={"frames": frames}, wait=True)
    assert checkpoint_files.arrays_bytes(tmp_path / "checkpoints" / "1") == 0
    slot = tmp_path / "checkpoints" / "2"
    size = checkpoint_files.arrays_bytes(slot)
    assert 0 < size == (slot / "arrays.npz").stat().st_size < frames.nbytes / 50


def test_arrays_of_any_size_come_back_with_the_state(make):
    arrays = {
        "0/tape": np.arange(6, dtype=np.uint8).reshape(2, 3),
        "1/none": np.zeros((0, 4)),
        "file": np.array(7),
    }
    make().save(1, make_state(1.0), {}, arrays=arrays, wait=True)
    found = make().restore().arrays
    assert found.keys() == arrays.keys()
    for name, array in arrays.items():
        assert found[name].dtype == array.dtype
        np.testing.assert_array_equal(found[name], array)


def test_metadata_of_another_run_is_refused_before_its_state_is_compared(make, tmp_path):
    saved(make, 1)
    other = Checkpointer(
        tmp_path / "checkpoints", max_to_keep=1, abstract_state={}, check_metadata=lambda m: 1 / 0
    )
    with pytest.raises(ZeroDivisionError):
        other.restore()
    other.close()


def test_without_a_best_or_with_a_corrupt_one_there_is_no_metadata(make, tmp_path):
    checkpointer = make()
    assert checkpointer.best_metadata() is None
    checkpointer.save_best(1, make_state(1.0), {"score": 1}, wait=True)
    (tmp_path / "checkpoints" / "best" / "0" / "manifest.json").write_text("{}")
    assert checkpointer.best_metadata() is None


@pytest.mark.parametrize("step", [5, 9])
def test_a_resumed_run_replaces_a_best_of_a_step_it_has_yet_to_reach(make, step):
    checkpointer = make()
    checkpointer.save_best(9, make_state(9.0), {})
    checkpointer.save_best(step, make_state(1.0), {"score": 2})
    assert checkpointer.best_metadata() == {"score": 2}


@pytest.mark.parametrize("step", [3, 4])
def test_a_step_that_is_not_new_is_refused_not_dropped(make, step):
    checkpointer = saved(make, 4)
    with pytest.raises(CheckpointError, match=f"step {step} is not newer than checkpoint 4"):
        checkpointer.save(step, make_state(0.0), {})


def test_a_given_step_is_restored_and_a_missing_one_names_those_there(make):
    checkpointer = saved(make, 1, 2)
    assert checkpointer.restore(1).step == 1
    with pytest.raises(CheckpointError, match=r"no checkpoint 3 .* there are \[1, 2\]"):
        checkpointer.restore(3)


def test_training_goes_on_from_the_older_checkpoint_and_the_corrupt_one_goes(make, tmp_path):
    saved(make, 10, 20, max_to_keep=2)
    (tmp_path / "checkpoints" / "20" / "state" / "manifest.ocdbt").write_bytes(b"")
    for remains in ("12.orbax-checkpoint-tmp/state", "13/state"):
        (tmp_path / "checkpoints" / remains).mkdir(parents=True)
    checkpointer = make(max_to_keep=2)
    assert checkpointer.restore().step == 10
    # A loop that saves unless latest() is its step must save step 20 again
    assert checkpointer.latest() == 10
    checkpointer.save(15, make_state(15.0), {})
    assert checkpointer.steps() == [10, 15] and checkpointer.restore().step == 15
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["10", "15"]


def test_no_older_checkpoint_goes_before_the_newer_one_counts(make, monkeypatch):
    checkpointer = saved(make, 1, max_to_keep=1)
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint_files, "_write_manifest", lambda path: 1 / 0)
        with pytest.raises(CheckpointError, match="division"):
            checkpointer.save(2, make_state(2.0), {}, wait=True)
    assert (checkpointer._directory / "2" / "state").exists() and checkpointer.steps() == [1]
    assert make(max_to_keep=1).restore().step == 1
    checkpointer.save(2, make_state(2.0), {})
    assert checkpointer.steps() == [2]


def test_a_failed_write_is_raised_by_check_as_soon_as_it_has_ended(make, monkeypatch):
    checkpointer = make()
    monkeypatch.setattr(checkpoint_files, "_write_manifest", lambda path: 1 / 0)
    checkpointer.check()
    checkpointer.save(1, make_state(1.0), {})
    with pytest.raises(CheckpointWriteError, match="was not written: division by zero"):
        while True:  # returns until the write has ended; the timeout of the test ends it otherwise
            checkpointer.check()
    checkpointer.check()  # told once


def test_a_failed_write_is_raised_by_the_next_save_and_by_close(make):
    checkpointer = saved(make, 1)
    too_large = {"w": np.random.default_rng(0).random(1_000_000)}
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2_000_000, hard))
    try:
        checkpointer.save(2, too_large, {})
        with pytest.raises(CheckpointError, match="was not written"):
            checkpointer.save(3, make_state(3.0), {})
        checkpointer.save(3, too_large, {})
        with pytest.raises(CheckpointError, match="was not written"):
            checkpointer.close()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    checkpointer = make()
    checkpointer.save(3, make_state(3.0), {})
    assert checkpointer.steps() == [1, 3]


@pytest.mark.parametrize(("which", "value"), [("latest", 3.0), ("best", 2.0), (1, 1.0)])
def test_part_of_a_state_is_read_without_knowing_the_rest(make, tmp_path, which, value):
    checkpointer = saved(make, 1)
    checkpointer.save_best(2, make_state(2.0), {})
    checkpointer.save(3, make_state(3.0), {}, wait=True)
    step, state, *_ = restore_params(tmp_path / "checkpoints", which, fields=["search_average"])
    assert step == value and list(state) == ["search_average"]
    weights = state["search_average"]["representation"]["encoder/~/conv"]["w"]
    np.testing.assert_array_equal(weights, np.full((4, 3), 10.0 * value, np.float32))
    assert set(restore_params(tmp_path / "checkpoints", which).state) == set(State._fields)


def test_an_unknown_field_names_the_known_ones(make, tmp_path):
    saved(make, 1)
    with pytest.raises(
        CheckpointMismatch, match="no field averages in the state; there are .*search_average"
    ):
        restore_params(tmp_path / "checkpoints", "latest", fields=["averages"])


def test_reading_never_writes(make, tmp_path):
    with pytest.raises(CheckpointError, match="no valid checkpoint"):
        make(directory=tmp_path / "none").restore()
    assert not (tmp_path / "none").exists()
