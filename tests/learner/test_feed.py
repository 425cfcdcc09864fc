"""Batches: the tape of rollouts asked for and batches taken, the order of minibatches, errors and
the end.
"""

import itertools
import queue
import threading
import time
import types

import numpy as np
import pytest

from configs.schema import LearnerConfig
from learner import feed as feed_module
from learner.feed import BatchFeed
from learner.passes import DealtPasses
from muzero.types import Episode, RolloutResult, Trajectory
from tests import tiny

SEQUENCES = 2  # of a rollout
PATIENCE = 120.0  # seconds for what has to happen, on a machine that may be busy
SILENCE = 0.05  # seconds in which nothing must happen


def _rollout(number):
    """Returns a rollout whose sequences carry their number in every field: 2 n and 2 n + 1."""
    marks = 2 * number + np.arange(SEQUENCES)
    one = tiny.trajectory(0)
    trajectory = Trajectory(
        *[np.zeros((SEQUENCES, *x.shape)) + marks.reshape(-1, *[1] * x.ndim) for x in one]
    )
    episodes = [Episode(10.0 * number + i, number, 4 * number) for i in range(number % 3)]
    return RolloutResult(
        trajectory, episodes, {"depth": float(number)}, num_steps=number, num_frames=100 * number
    )


class Workers:
    """Rollouts 0, 1, 2, … that wait until they are let through; `tape` lists what was asked for and
    put.
    """

    def __init__(self, allowed=None, error_at=None):
        self.tape, self._error_at = [], error_at
        self._asked, self._put, self._allowed = (
            threading.Semaphore(n) for n in (0, 0, allowed or 0)
        )
        self._free = allowed is None

    def next_rollout(self):
        number = self.tape.count("ask")
        self.tape.append("ask")
        self._asked.release()
        if not self._free:
            self._allowed.acquire()
        if number == self._error_at:
            raise OSError(f"rollout {number} failed")
        return _rollout(number)

    def put(self, arrays):
        if isinstance(arrays, Trajectory):
            self.tape.append(_marks(arrays))
            self._put.release()
        return arrays

    def allow(self, count):
        self._allowed.release(count)

    def wait_for_put(self):
        """Waits for one more batch."""
        assert self._put.acquire(timeout=PATIENCE)

    def wait_for_asks(self, count):
        """Waits for `count` more questions and asserts that no other follows by itself."""
        assert all(self._asked.acquire(timeout=PATIENCE) for _ in range(count))
        assert not self._asked.acquire(timeout=SILENCE)


def _deal(put=lambda arrays: arrays, **changes):
    seed = changes.pop("seed", 0)
    return DealtPasses(put, LearnerConfig(**changes), num_starts=tiny.NUM_STARTS, seed=seed)


def _feed(workers, deal=None, **changes):
    num_batches = changes.pop("num_batches", 0)
    settings = LearnerConfig(**{"batch_size": 4} | changes)
    return BatchFeed(
        workers.next_rollout, deal or _deal(workers.put), settings, num_batches=num_batches
    )


def _passes(batch):
    return batch.passes(batch.num_steps)


def _sequences(batch):
    """Returns the sequences that all passes of a batch go over."""
    trajectories = [trajectory for trajectory, _ in _passes(batch)]
    assert all(trajectory is trajectories[0] for trajectory in trajectories)
    return trajectories[0]


def _marks(batch):
    """Returns the numbers of the sequences; asserts that every field of a sequence carries the same
    one.
    """
    marks = [int(row.flat[0]) for row in batch.action]
    for field in batch:
        assert all(np.all(row == mark) for row, mark in zip(field, marks, strict=True))
    return marks


def _take(feed):
    """Returns next(feed), or raises what it raises; a feed that does not answer fails the test."""
    answers = queue.Queue()

    def ask():
        try:
            answers.put((next(feed), None))
        except BaseException as error:
            answers.put((None, error))

    threading.Thread(target=ask, daemon=True).start()
    batch, error = answers.get(timeout=PATIENCE)
    if error is not None:
        raise error
    return batch


# --- What a batch holds


def test_a_batch_holds_the_rollouts_of_its_collection():
    feed = _feed(Workers(), batch_size=6)
    first, second = _take(feed), _take(feed)
    feed.close()
    assert _marks(_sequences(first)) == [0, 1, 2, 3, 4, 5]
    assert _marks(_sequences(second)) == [6, 7, 8, 9, 10, 11]
    assert (first.num_steps, first.num_frames) == (0 + 1 + 2, 300)
    assert (second.num_steps, second.num_frames) == (3 + 4 + 5, 1200)
    assert first.search_stats == {"depth": 1.0} and second.search_stats == {"depth": 4.0}
    # One of rollout 1, two of rollout 2
    assert [e.episode_return for e in first.episodes] == [
        10.0,
        20.0,
        21.0,
    ]
    assert [e.episode_return for e in second.episodes] == [40.0, 50.0, 51.0]
    assert first.params_version.shape == (6, tiny.NUM_DECISIONS + 1)
    assert second.params_version[:, 0].tolist() == [6, 7, 8, 9, 10, 11]


def test_passes_over_a_whole_batch_keep_the_order_of_time():
    batch = _take(_feed(Workers(), _deal(num_passes=3)))
    assert _marks(_sequences(batch)) == [0, 1, 2, 3]
    [(_, [first]), (_, [second]), (_, [third])] = _passes(batch)
    for starts in (first, second, third):
        np.testing.assert_array_equal(starts, [range(tiny.NUM_STARTS)] * 4)


@pytest.mark.parametrize("num_passes, num_minibatches, size", [(1, 4, 2), (3, 2, 4), (2, 8, 1)])
def test_every_pass_takes_every_start_state_once_and_every_minibatch_some_of_every_sequence(
    num_passes, num_minibatches, size
):
    deal = _deal(num_passes=num_passes, num_minibatches=num_minibatches)
    batch = _take(_feed(Workers(), deal))
    assert [len(pieces) for _, pieces in _passes(batch)] == [num_minibatches] * num_passes
    in_order = [list(range(tiny.NUM_STARTS))] * 4
    orders = []
    for _, pieces in _passes(batch):
        assert all(starts.shape == (4, size) and starts.dtype == np.int32 for starts in pieces)
        orders.append(np.concatenate(pieces, axis=1).tolist())
        assert [sorted(row) for row in orders[-1]] == in_order != orders[-1]
        assert len({str(row) for row in orders[-1]}) > 1  # every sequence in an order of its own
    assert len({str(order) for order in orders}) == num_passes


def test_the_order_follows_the_seed_and_the_number_of_the_batch():
    def orders(seed, num_batches=0):
        feed = _feed(Workers(), _deal(num_minibatches=2, seed=seed), num_batches=num_batches)
        return str([pieces for _, pieces in _passes(_take(feed))])

    assert orders(seed=1) == orders(seed=1)
    assert len({orders(seed=seed) for seed in range(6)} | {orders(seed=0, num_batches=7)}) == 7


# --- When it asks


def test_at_most_one_batch_is_collected_ahead():
    workers = Workers(allowed=100)
    feed = _feed(workers)
    workers.wait_for_put()
    workers.wait_for_asks(2)  # the first batch, before anybody wants it, and no more
    assert workers.tape == ["ask", "ask", [0, 1, 2, 3]]
    for i in range(1, 4):
        _take(feed)
        workers.wait_for_put()
        workers.wait_for_asks(2)
        assert workers.tape == sum(
            (["ask", "ask", [4 * j + k for k in range(4)]] for j in range(i + 1)), []
        )
    feed.close()


def test_in_lockstep_nothing_is_asked_before_it_is_wanted():
    workers = Workers(allowed=100)
    feed = _feed(workers, collect_ahead=False)
    workers.wait_for_asks(0)
    assert workers.tape == []
    for i in range(1, 4):
        assert _marks(_sequences(_take(feed)))[0] == 4 * (i - 1)
        workers.wait_for_asks(2)
        assert len(workers.tape) == 3 * i and workers.tape[-3:-1] == ["ask", "ask"]
    feed.close()


def test_the_learner_waits_for_the_last_rollout_of_its_batch():
    workers = Workers(allowed=0)
    feed, taken = _feed(workers), queue.Queue()
    threading.Thread(target=lambda: taken.put(next(feed)), daemon=True).start()
    workers.wait_for_asks(1)
    workers.allow(1)
    workers.wait_for_asks(1)  # half a batch: asked for the rest, nothing delivered
    assert taken.empty()
    workers.allow(1)
    assert _marks(_sequences(taken.get(timeout=PATIENCE))) == [0, 1, 2, 3]
    feed.close()


# --- Errors and the end


@pytest.mark.parametrize("collect_ahead", [True, False])
def test_an_error_of_a_rollout_is_raised_after_the_batches_before_it_and_for_ever(collect_ahead):
    feed = _feed(Workers(error_at=3), collect_ahead=collect_ahead)
    assert _marks(_sequences(_take(feed))) == [0, 1, 2, 3]
    for _ in range(3):
        with pytest.raises(OSError, match="rollout 3 failed"):
            _take(feed)


def test_an_error_of_the_device_is_raised():
    workers = Workers()
    with pytest.raises(ZeroDivisionError):
        _take(_feed(workers, _deal(lambda arrays: 1 / 0)))


def test_close_stops_the_thread_while_it_rests():
    workers = Workers(allowed=100)
    feed = _feed(workers)
    workers.wait_for_asks(2)
    feed.close()
    feed._thread.join(PATIENCE)
    assert not feed._thread.is_alive() and workers.tape.count("ask") == 2


def test_close_stops_after_the_rollout_under_way():
    workers = Workers(allowed=0)
    feed = _feed(workers, batch_size=6)
    workers.wait_for_asks(1)
    feed.close()  # does not wait for it
    assert feed._thread.is_alive()
    workers.allow(100)
    feed._thread.join(PATIENCE)
    assert not feed._thread.is_alive() and workers.tape == ["ask"]


@pytest.mark.parametrize("collect_ahead", [True, False])
def test_a_closed_feed_ends_and_does_not_hang(collect_ahead):
    workers = Workers(allowed=100)
    feed = _feed(workers, collect_ahead=collect_ahead)
    _take(feed)
    feed.close()
    for _ in range(2):
        with pytest.raises(StopIteration):
            while True:  # a batch that was already there may still come
                _take(feed)
    assert workers.tape.count("ask") <= 4


# --- Lag


def _versioned(version):
    """Returns a rollout of which the newest searches have this version, the carried ones an old
    one.
    """
    rollout = _rollout(version)
    versions = np.zeros_like(rollout.trajectory.params_version)
    versions[:, -1] = version
    return rollout._replace(trajectory=rollout.trajectory._replace(params_version=versions))


def test_rollouts_beyond_the_lag_are_dropped_and_asked_for_again():
    """Two updates a batch: batch number k begins at update 10 + 2 k."""
    versions = iter([6, 7, 8, 5, 7, 9, 11, 8, 9, 12, 13])
    feed = BatchFeed(
        lambda: _versioned(next(versions)),
        _deal(),
        LearnerConfig(batch_size=2 * SEQUENCES, collect_ahead=False, num_passes=2, max_lag=3),
        first_update=10,
    )
    taken = [sorted(set(_take(feed).params_version[:, -1].tolist())) for _ in range(3)]
    # 7 is good for update 10, not for 12; 11 for 14, 8 and 9 are not
    assert taken == [
        [7, 8],
        [9, 11],
        [12, 13],
    ]
    metrics = feed.pop_metrics()
    assert metrics["lag/sequences_dropped"] == 5 * SEQUENCES  # 6; 5, 7; 8, 9
    assert feed.num_collected == 6 * SEQUENCES  # what is dropped is told once, and is not in flight
    feed.close()


def test_updates_that_were_skipped_made_no_lag():
    """Ten updates on each batch, of which nine are skipped: the versions stay behind the tries, and
    nothing is old.
    """
    versions, skipped = itertools.count(10), [0]
    feed = BatchFeed(
        lambda: _versioned(next(versions)),
        _deal(),
        LearnerConfig(batch_size=SEQUENCES, collect_ahead=False, num_minibatches=10, max_lag=1),
        first_update=10,
        num_skipped=lambda: skipped[0],
    )
    for number in range(5):
        skipped[0] = 9 * number
        assert _take(feed).params_version[0, -1] == 10 + number
    assert feed.pop_metrics()["lag/sequences_dropped"] == 0
    feed.close()


def test_the_feed_says_where_its_time_went_and_when_it_rests(monkeypatch):
    """By a clock that only rollouts (3 s) and copies (1 s) move: six batches, five taken and one
    ahead, take 30 s.
    """
    clock = types.SimpleNamespace(now=0.0, monotonic=lambda: clock.now)
    monkeypatch.setattr(feed_module, "time", clock)

    def slow_rollout():
        clock.now += 3.0
        return _rollout(1)

    def slow_put(arrays):
        clock.now += 1.0  # once for the sequences, once for the start states
        return arrays

    deal = _deal(slow_put)
    feed = BatchFeed(slow_rollout, deal, LearnerConfig(batch_size=SEQUENCES))
    for _ in range(5):
        _take(feed)
    while not feed.is_idle:
        time.sleep(0.001)
    clock.now += 10.0
    metrics = feed.pop_metrics()
    assert metrics["perf/batches_ready"] == 1.0
    assert (
        metrics["perf/feed_wait_fraction"] == 6 * 3 / 40
        and metrics["perf/feed_copy_fraction"] == 6 * 2 / 40
    )
    clock.now += 10.0
    metrics = feed.pop_metrics()
    assert metrics["perf/feed_wait_fraction"] == metrics["perf/feed_copy_fraction"] == 0.0
    feed.close()


def test_a_wait_that_is_longer_than_a_row_is_a_part_of_each(monkeypatch):
    clock = types.SimpleNamespace(now=0.0, monotonic=lambda: clock.now)
    monkeypatch.setattr(feed_module, "time", clock)
    asked, allowed = threading.Semaphore(0), threading.Semaphore(0)

    def next_rollout():
        asked.release()
        assert allowed.acquire(timeout=PATIENCE)
        return _rollout(1)

    feed = BatchFeed(next_rollout, _deal(), LearnerConfig(batch_size=SEQUENCES))
    assert asked.acquire(timeout=PATIENCE)
    waits = []
    for seconds in (10.0, 10.0, 5.0):
        clock.now += seconds
        waits.append(feed.pop_metrics()["perf/feed_wait_fraction"])
    assert waits == [1.0, 1.0, 1.0]
    feed.close()
    allowed.release()
