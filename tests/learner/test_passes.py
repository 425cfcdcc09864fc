"""Passes drawn from a replay: the ratio, whoever is slow, and what a resumed run draws."""

import dataclasses
import queue
import threading
import time

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from configs.schema import LearnerConfig, ReplayConfig
from learner.feed import BatchFeed
from learner.passes import DrawnPasses
from learner.records.metrics import documented_tag
from learner.replay import Replay
from muzero.types import Origin, Trajectory
from tests.learner.test_replay import SETTINGS, Workers

PATIENCE = 120.0  # seconds for what has to happen, on a machine that may be busy
STARTS = SETTINGS._replace(capacity=400)


def drawn_passes(*, num_processes=1, num_updates=0, seed=0, put=lambda arrays: arrays, **changes):
    settings = ReplayConfig(ratio=1.5, batch_size=8, min_decisions=20)
    settings = dataclasses.replace(settings, **changes)
    rest = dict(num_processes=num_processes, seed=(seed,), num_updates=num_updates)
    return DrawnPasses(Replay(STARTS), put, settings, **rest)


def windows_of(maker, rollouts, num_steps):
    """Returns the windows that are drawn once these rollouts are stored."""
    passes = list(maker(list(rollouts), 0)(num_steps))
    assert all(np.array_equal(starts, np.zeros((8, 1))) for _, [starts] in passes)
    return [trajectory for trajectory, _ in passes]


def same(first, second):
    pairs = [pair for a, b in zip(first, second, strict=True) for pair in zip(a, b, strict=True)]
    return len(first) > 0 and all(np.array_equal(a, b) for a, b in pairs)


# --- The ratio ------------------------------------------------------------------------------------


@hypothesis.settings(max_examples=30)
@hypothesis.given(
    st.lists(st.integers(0, 40), min_size=1, max_size=12),
    st.sampled_from([0.125, 1.0, 1.5, 4.0]),
    st.integers(15, 60),
)
def test_the_ratio_holds_after_every_batch_and_no_remainder_is_lost(sizes, ratio, min_decisions):
    workers = Workers(STARTS)
    maker = drawn_passes(ratio=ratio, min_decisions=min_decisions)
    windows_of(maker, [workers.rollout(i % 2) for i in range(4)], 0)  # something to draw
    num_decisions = num_starts = 0
    for size in sizes:
        windows = windows_of(maker, [], size)
        num_decisions, num_starts = num_decisions + size, num_starts + 8 * len(windows)
        owed = ratio * max(num_decisions - min_decisions, 0) - num_starts
        assert 0 <= owed < 8  # less than an update
        assert all(len(window.action) == 8 for window in windows)
    if num_decisions > min_decisions:
        expected = num_starts / (num_decisions - min_decisions)
        assert maker.pop_metrics()["replay/ratio"] == pytest.approx(expected)


def test_processes_share_an_update_and_count_the_decisions_of_all():
    workers = Workers(STARTS)
    maker = drawn_passes(ratio=2.0, batch_size=16, num_processes=2, min_decisions=40)
    rollouts = [workers.rollout(i % 2) for i in range(4)]
    assert len(windows_of(maker, rollouts, 40)) == 0
    assert [len(window.action) for window in windows_of(maker, [], 24)] == [8, 8, 8]


class Actors:
    """Two workers in turn, 10 decisions a rollout; each rollout waits until it is let through."""

    def __init__(self):
        self.workers, self.number = Workers(STARTS), 0
        self.allowed, self.asked = threading.Semaphore(0), queue.Queue()

    def next_rollout(self):
        self.asked.put(self.number)
        assert self.allowed.acquire(timeout=PATIENCE)
        self.number += 1
        return self.workers.rollout((self.number - 1) % 2)._replace(num_steps=10)

    def feed(self, *, collect_ahead):
        """Returns a feed of batches of two rollouts, of which all but the first are worth two
        updates.
        """
        maker = drawn_passes(ratio=0.8, batch_size=8, min_decisions=20)
        return BatchFeed(
            self.next_rollout, maker, LearnerConfig(batch_size=4, collect_ahead=collect_ahead)
        )


def learn(feed, num_batches, tape):
    """Takes batches as the loop does; notes for each the newest state of every update."""
    for _ in range(num_batches):
        batch = next(feed)
        passes = batch.passes(batch.num_steps)
        tape.append([int(one.trajectory.observation[..., 0].max() % 1000) for one in passes])


def require_own_updates(tape):
    """Asserts two updates for every batch but the first, on states that had been taken by then."""
    assert [len(newest) for newest in tape] == [0] + [2] * (len(tape) - 1)
    assert all(max(newest, default=0) <= 5 + 4 * number for number, newest in enumerate(tape))


@pytest.mark.parametrize("collect_ahead", [True, False])
def test_slow_actors_are_waited_for(collect_ahead):
    """The learner asks for every batch at once; it makes its updates and waits for the next."""
    actors, tape = Actors(), []
    feed = actors.feed(collect_ahead=collect_ahead)
    learner = threading.Thread(target=learn, args=(feed, 4, tape), daemon=True)
    learner.start()
    for number in range(8):
        assert actors.asked.get(timeout=PATIENCE) == number
        assert len(tape) <= number // 2  # no batch before its rollouts
        actors.allowed.release()
    learner.join(PATIENCE)
    assert not learner.is_alive()
    require_own_updates(tape)
    feed.close()
    actors.allowed.release(4)


def test_a_slow_learner_is_waited_for_and_draws_from_what_it_has_taken_alone():
    """The actors could play for ever: they are one batch ahead, which is not drawn from."""
    actors, tape = Actors(), []
    actors.allowed.release(1000)
    feed = actors.feed(collect_ahead=True)
    for taken in range(1, 7):
        for number in range(2 * taken - 2, 2 * taken):
            assert actors.asked.get(timeout=PATIENCE) == number
        while not feed.is_idle:  # the batch after the last one is there
            time.sleep(0.001)
        assert actors.number == 2 * taken
        learn(feed, 1, tape)
    require_own_updates(tape)
    feed.close()


def test_what_lies_ready_is_not_drawn_from_before_it_is_taken():
    workers, maker = Workers(STARTS), drawn_passes(min_decisions=1)
    passes = [maker([workers.rollout(0)], number) for number in range(3)]  # by the feed's thread
    newest = [
        max(int(trajectory.observation[..., 0].max() % 1000) for trajectory, _ in one(40))
        for one in passes
    ]
    assert newest == [5, 9, 13]  # the last state of the first, second and third sequence


# --- Draws and resumes ----------------------------------------------------------------------------


def test_draws_depend_on_the_seed_and_the_number_of_the_update():
    def draws(seed, batches, num_updates=0):
        workers, maker = Workers(STARTS), drawn_passes(seed=seed, num_updates=num_updates)
        windows_of(maker, [workers.rollout(i % 2) for i in range(6)], 20)
        return [window for size in batches for window in windows_of(maker, [], size)]

    once = draws(3, [48])
    assert same(once, draws(3, [6, 10, 32])) and len(once) == 9
    assert not same(once, draws(4, [48]))
    assert same(once[5:], draws(3, [48], num_updates=5)[:4])


def test_a_restored_replay_goes_on_with_the_same_draws_and_the_same_remainder():
    workers = Workers(STARTS)
    maker = drawn_passes()
    for i in range(5):
        windows_of(maker, [workers.rollout(i % 2)], 9)
    copy = drawn_passes(num_updates=maker._num_updates)
    copy.load(maker.save(), workers_go_on=True)
    numbers = [0, 0]  # restored workers count from 1 again
    for i in range(5, 9):
        rollout = workers.rollout(i % 2)
        numbers[i % 2] += 1
        renumbered = rollout._replace(origin=Origin(i % 2, 0, numbers[i % 2]))
        assert same(windows_of(maker, [rollout], 9), windows_of(copy, [renumbered], 9))
    assert maker.pop_metrics() | {"replay/age_mean": 0} == copy.pop_metrics() | {
        "replay/age_mean": 0
    }


def test_an_empty_replay_fills_again_before_updates_go_on():
    workers, maker = Workers(STARTS), drawn_passes(num_updates=1000)
    assert windows_of(maker, [workers.rollout(0)], 20) == []
    assert len(windows_of(maker, [workers.rollout(1)], 16)) == 3


@pytest.mark.parametrize(
    "spoil",
    [
        lambda a: {name: x for name, x in a.items() if name != "num_decisions"},
        lambda a: a | {"num_decisions": np.array(-3)},
        lambda a: a | {"num_decisions": np.zeros(2)},
    ],
)
def test_a_replay_without_its_count_is_refused(spoil):
    maker = drawn_passes()
    with pytest.raises(ValueError, match="does not say how many decisions were played"):
        maker.load(spoil(maker.save()), workers_go_on=True)


def test_windows_and_starts_are_moved_to_the_devices_and_the_metrics_are_documented():
    moved = []

    def put(arrays):
        return moved.append(type(arrays)) or arrays

    workers = Workers(STARTS)
    maker = drawn_passes(put=put)
    windows_of(maker, [workers.rollout(0)], 36)
    assert moved == [np.ndarray] + [Trajectory] * 3
    metrics = maker.pop_metrics()
    assert [tag for tag in metrics if documented_tag(tag) is None] == []
    assert metrics["replay/starts"] == maker._replay.num_starts
    assert "replay/age_mean" in metrics and "replay/age_mean" not in maker.pop_metrics()
