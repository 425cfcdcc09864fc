"""What a session keeps of itself: the state with the highest greedy score, over all of its sessions."""

import types
from unittest import mock

import numpy as np
import pytest

from configs.presets import PRESETS
from configs.serialise import to_dict
from learner.loop import Counters
from learner.records.checkpoint import restore_params
from learner.records.run_directory import RunDirectory
from scripts.playing import evaluation
from scripts.training import saver as saver_module
from scripts.training.saver import Saver
from scripts.training.session import Session
from tests import tiny


@pytest.fixture
def directory(tmp_path):
    return RunDirectory.create(tmp_path / "run", to_dict(PRESETS["smoke"]), ["test"], {})


def loop_after(num_updates):
    return types.SimpleNamespace(counters=Counters(num_updates=num_updates), state={"w": np.full(2, num_updates)})


def best_after(directory, scores):
    """Returns (state, score) of the best checkpoint after one more session with these scores by number of updates."""
    saver = Saver(PRESETS["smoke"], directory, None)
    for num_updates, score in scores.items():
        saver.save_if_best(loop_after(num_updates), score)
    saver.close()
    checkpoint = restore_params(directory.checkpoints, "best")
    return checkpoint.state["w"].tolist(), checkpoint.metadata["score"]


def test_the_best_state_is_that_of_the_highest_score(directory):
    assert best_after(directory, {1: -3.0, 2: 5.0, 3: 5.0, 4: 4.0}) == ([2, 2], 5.0)


def test_the_best_score_outlives_a_resume(directory):
    assert best_after(directory, {1: 5.0}) == ([1, 1], 5.0)
    assert best_after(directory, {2: 4.0}) == ([1, 1], 5.0)
    assert best_after(directory, {3: 6.0}) == ([3, 3], 6.0)


def test_the_score_is_that_of_the_search_average(monkeypatch):
    """The averaged parameters are those that act; the state is offered to the saver with the mean over its games."""
    played, offered = [], []

    def evaluate_params(config, params, **settings):
        played.append(params)
        return {"mean": 2.5, "returns": [2.0, 3.0]}

    monkeypatch.setattr(evaluation, "evaluate_params", evaluate_params)
    monkeypatch.setattr(evaluation, "write_result", lambda directory, result, name: None)
    state = types.SimpleNamespace(params="online", search_average="search", target_average="target")
    loop = types.SimpleNamespace(counters=Counters(num_updates=7), state=state)
    session = types.SimpleNamespace(
        _config=PRESETS["smoke"],
        _directory=None,
        _interrupts=types.SimpleNamespace(check=None),
        _loop=loop,
        _save=lambda: None,
        _saver=types.SimpleNamespace(save_if_best=lambda *given: offered.append(given)),
    )
    Session._evaluate(session)
    assert played == ["search"] and offered == [(loop, 2.5)]


def test_a_batch_that_cannot_be_kept_does_not_hide_why_the_run_ends(directory, monkeypatch, capsys):
    monkeypatch.setattr(saver_module, "write_arrays", mock.Mock(side_effect=OSError(28, "No space left")))
    saver = Saver(PRESETS["smoke"], directory, None)
    saver.save_evidence(tiny.trajectory(0), Counters(num_updates=7))
    saver.close()
    assert "the batch is lost: " in (told := capsys.readouterr().out) and "nonfinite-000000007.npz" in told
