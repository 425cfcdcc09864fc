"""Batches of several learner processes: the sums of all, the games of all, and a common end."""

import threading

import numpy as np
import pytest

from learner import multihost
from learner.feed import Batch
from muzero.types import Episode

PATIENCE = 120.0  # seconds for what has to happen, on a machine that may be busy


def batch(num_steps, episodes=()):
    return Batch(None, np.zeros((2, 3), np.int32), list(episodes), {}, num_steps, 4 * num_steps)


@pytest.fixture
def together(monkeypatch):
    """Runs one function a process, in threads, with an exchange between them; returns their
    results.
    """

    def run(*functions):
        barrier, tables = threading.Barrier(len(functions)), {}
        results = [None] * len(functions)

        def allgather(table):
            barrier.wait(PATIENCE)
            tables[threading.current_thread().name] = table
            barrier.wait(PATIENCE)
            return np.stack([tables[name] for name in sorted(tables)])

        monkeypatch.setattr(multihost.multihost_utils, "process_allgather", allgather)

        def act(index):
            results[index] = functions[index]()

        threads = [
            threading.Thread(target=act, args=(i,), name=str(i), daemon=True)
            for i in range(len(functions))
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(PATIENCE)
        return results

    return run


def test_every_process_sees_the_steps_and_games_of_all(together):
    games = [Episode(7.5, 10, 40), Episode(-1.0, 3, 12), Episode(2.0, 5, 20)]
    own = [batch(5, games[:1]), batch(6, games[1:])]
    first, second = together(
        *[lambda b=b: next(multihost.SharedBatches(iter([b]), max_games=4)) for b in own]
    )
    for result in (first, second):
        assert (result.num_steps, result.num_frames, result.episodes) == (11, 44, games)


def test_the_first_process_ends_all_of_them_after_the_same_batch(together):
    def first():
        batches = multihost.SharedBatches(iter([batch(1), batch(1)]), max_games=2)
        taken = [next(batches).num_steps, next(batches).num_steps]
        batches.end()
        return taken

    def other():
        return [row.num_steps for row in multihost.SharedBatches(iter([batch(2)] * 9), max_games=2)]

    assert together(first, other) == [[3, 3], [3, 3]]


def test_a_process_alone_takes_its_batches_as_they_are():
    batches = multihost.make_batches(iter([batch(1)]), max_games=2)
    assert isinstance(batches, multihost.OwnBatches) and next(iter(batches)).num_steps == 1
    batches.end()
    assert multihost.is_first_process()
