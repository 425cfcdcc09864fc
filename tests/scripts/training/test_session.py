"""A session: the seed that its workers get, and what it shows at its end."""

import contextlib
import dataclasses
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import pytest

from configs.presets import PRESETS
from learner.loop import Counters
from scripts.training import session


def seed_of_workers(monkeypatch, *, seed, num_batches, process=(), deterministic=False):
    """Returns the seed of the pool of a session that goes on after `num_batches`."""
    pool = mock.Mock()
    monkeypatch.setattr(session, "RoundPool" if deterministic else "ActorPool", pool)
    parts = SimpleNamespace(
        _config=dataclasses.replace(PRESETS["smoke"], seed=seed, deterministic=deterministic),
        _directory=SimpleNamespace(logs=Path("logs")),
        _loop=SimpleNamespace(counters=Counters(num_batches=num_batches)),
        _process=process,
        _share=SimpleNamespace(cores_per_worker=None),
    )
    session.Session._make_pool(parts)
    return pool.call_args.kwargs["seed"]


@pytest.mark.parametrize("deterministic", [False, True])
def test_neither_another_run_nor_a_resumed_one_nor_another_process_plays_the_same_games(monkeypatch, deterministic):
    sessions = [
        dict(seed=1, num_batches=0),
        dict(seed=2, num_batches=0),
        dict(seed=1, num_batches=8),
        dict(seed=1, num_batches=8, process=(1,)),
        dict(seed=1, num_batches=8, process=(2,)),
    ]
    seeds = [seed_of_workers(monkeypatch, deterministic=deterministic, **settings) for settings in sessions]
    assert len(set(seeds)) == len(sessions)
    assert seeds[0] == seed_of_workers(monkeypatch, deterministic=deterministic, **sessions[0])


def test_the_last_progress_line_is_drawn_before_the_line_is_closed(monkeypatch):
    tape = []
    line = SimpleNamespace(update=tape.append, close=lambda: tape.append("close"))
    monkeypatch.setattr(session, "Progress", lambda: line)
    monkeypatch.setattr(session, "is_first_process", lambda: True)
    part = SimpleNamespace(close=lambda: None)
    session.Session.run(
        SimpleNamespace(
            _interrupts=contextlib.nullcontext(), _loop=SimpleNamespace(counters=None, publish=lambda: None),
            _make_pool=lambda: part, _save=lambda: None, _train=lambda pool, progress: progress.update("last row"),
            _saver=part, _episodes=part, _metrics=part, _actor_states={},
        )
    )  # fmt: skip
    assert tape == ["last row", "close"]
