"""What a session keeps of itself: the state with the highest greedy score, over all of its
sessions.
"""

import inspect
from unittest import mock

import numpy as np
import pytest

from configs.presets import PRESETS
from configs.serialise import to_dict
from learner.loop import Counters
from learner.records.checkpoint import restore_params
from learner.records.run_directory import RunDirectory
from scripts.training import saver as saver_module
from scripts.training.recording import NoRecording, Recording
from scripts.training.saver import NoSaver, Saver
from tests import tiny


@pytest.fixture
def directory(tmp_path):
    return RunDirectory.create(tmp_path / "run", to_dict(PRESETS["smoke"]), ["test"], {})


def best_after(directory, scores):
    """Returns (state, score) of the best checkpoint after one more session with these scores by
    number of updates.
    """
    saver = Saver(PRESETS["smoke"], directory, None)
    for num_updates, score in scores.items():
        saver.save_if_best({"w": np.full(2, num_updates)}, Counters(num_updates=num_updates), score)
    saver.close()
    checkpoint = restore_params(directory.checkpoints, "best")
    return checkpoint.state["w"].tolist(), checkpoint.metadata["score"]


def test_the_best_state_is_that_of_the_highest_score(directory):
    assert best_after(directory, {1: -3.0, 2: 5.0, 3: 5.0, 4: 4.0}) == ([2, 2], 5.0)


def test_the_best_score_outlives_a_resume(directory):
    assert best_after(directory, {1: 5.0}) == ([1, 1], 5.0)
    assert best_after(directory, {2: 4.0}) == ([1, 1], 5.0)
    assert best_after(directory, {3: 6.0}) == ([3, 3], 6.0)


def test_a_batch_that_cannot_be_kept_does_not_hide_why_the_run_ends(directory, monkeypatch, capsys):
    monkeypatch.setattr(
        saver_module, "write_arrays", mock.Mock(side_effect=OSError(28, "No space left"))
    )
    saver = Saver(PRESETS["smoke"], directory, None)
    saver.save_evidence(tiny.trajectory(0), Counters(num_updates=7))
    saver.close()
    assert (
        "the batch is lost: " in (told := capsys.readouterr().out)
        and "nonfinite-000000007.npz" in told
    )


def public_methods(kind):
    return {name: method for name, method in vars(kind).items() if not name.startswith("_")}


@pytest.mark.parametrize(
    "kind, none, more", [(Saver, NoSaver, {"restore"}), (Recording, NoRecording, set())]
)
def test_what_writes_nothing_takes_what_the_real_one_takes(kind, none, more):
    real, silent = public_methods(kind), public_methods(none)
    assert real.keys() == silent.keys() | more
    assert all(inspect.signature(silent[name]) == inspect.signature(real[name]) for name in silent)
