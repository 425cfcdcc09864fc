"""The replay against lists: what may be drawn, what is in it, what is stored, what comes back."""

import dataclasses
import itertools

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from learner.replay import Replay, ReplaySettings, layout, num_bytes
from muzero.types import Origin, RolloutResult, Trajectory

NUM_ACTIONS = 3
SETTINGS = ReplaySettings(
    num_workers=2,
    environments_per_worker=2,
    capacity=80,
    observation_shape=(2,),
    observation_dtype="int32",
    num_actions=NUM_ACTIONS,
    history_length=3,
    sequence_length=6,
    sequence_overlap=2,
    window_length=4,
)


class AllStarts:
    """In place of a generator: every start state in its order, then again from the first."""

    def integers(self, high, size):
        return np.arange(size) % high


def draw_all(replay):
    """Returns the windows of every start state."""
    return replay.draw(AllStarts(), replay.num_starts)


@dataclasses.dataclass
class Environment:
    """A stream whose numbers all say where they were: (life, time); a life is one incarnation's."""

    life: int
    length: int = 300

    def __post_init__(self):
        rng = np.random.default_rng(self.life)
        self.is_first = rng.random(self.length) < 0.15
        self.is_first[0] = True
        self.time = np.arange(self.length)

    def fields(self, first, end, *names):
        """Returns states or decisions first … end − 1 as they must be; zeros before time 0."""
        time = np.arange(first, end)
        mark = np.where(time < 0, 0, 1000 * self.life + time)
        is_first = np.where(time < 0, False, self.is_first[np.maximum(time, 0)])
        values = {
            "observation": np.stack([mark, -mark], -1).astype(np.int32),
            "is_first": is_first,
            "search_policy": (mark[:, None] + np.arange(NUM_ACTIONS) / 4).astype(np.float32),
            "search_value": (mark + 0.5).astype(np.float32),
            "params_version": mark.astype(np.int32),
            "action": (mark % NUM_ACTIONS).astype(np.int32),
            "reward": (mark + 0.75).astype(np.float32),
            "discount": (mark % 5 > 0).astype(np.float32),
            "behaviour_prob": (1 / (1 + mark)).astype(np.float32),
        }
        return {name: values[name] for name in names}

    def window(self, settings, start, length):
        """Returns the trajectory from state `start` on, `length` decisions."""
        states, decisions = Trajectory._fields[:5], Trajectory._fields[5:9]
        first = start - settings.history_length + 1
        context = self.fields(first, start, "observation", "action", "is_first")
        return Trajectory(
            **self.fields(start, start + length + 1, *states),
            **self.fields(start, start + length, *decisions),
            **{f"history_{name}": x for name, x in context.items()},
        )


class Workers:
    """Rollouts of workers that may die, and as lists what a ring of that size should hold."""

    def __init__(self, settings):
        self.settings, self.shift = settings, settings.sequence_length - settings.sequence_overlap
        self.incarnation, self.number = [0] * settings.num_workers, [0] * settings.num_workers
        self.segments = [0] * settings.num_workers
        self.expected = [None] * settings.num_workers
        # Of each worker: (segment, incarnation, time, is context) of every state.
        self.written = [[] for _ in range(settings.num_workers)]

    def environment(self, worker, n, incarnation):
        return Environment(life=1 + n + 4 * worker + 16 * incarnation)

    def die(self, worker):
        self.incarnation[worker] += 1
        self.number[worker] = 0

    def skip(self, worker):
        """A rollout that never arrives."""
        self.number[worker] += 1

    def rollout(self, worker):
        """Returns the next rollout of a worker and notes what of it is new."""
        settings, incarnation = self.settings, self.incarnation[worker]
        start, length = self.shift * self.number[worker], settings.sequence_length - 1
        rows = [
            self.environment(worker, n, incarnation).window(settings, start, length)
            for n in range(settings.environments_per_worker)
        ]
        self.number[worker] += 1
        origin = Origin(worker, incarnation, self.number[worker])
        self._note(origin, start)
        trajectory = Trajectory(*map(np.stack, zip(*rows, strict=True)))
        return RolloutResult(trajectory, [], {}, 0, 0, origin=origin)

    def _note(self, origin, start):
        worker, incarnation, number = origin
        goes_on = self.expected[worker] == (incarnation, number)
        self.expected[worker] = (incarnation, number + 1)
        first, end = start, start + self.settings.sequence_length
        if goes_on:
            first += self.settings.sequence_overlap
        else:
            self.segments[worker] += 1
            first -= self.settings.history_length - 1

        def note(time):
            return (self.segments[worker], incarnation, time, time < start and not goes_on)

        self.written[worker] += [note(time) for time in range(first, end)]

    def starts(self):
        """Returns (worker, n, incarnation, time) of what may be drawn, by walking every window.

        After a gap the overlap is stored again, in the new segment: a time may come twice.
        """
        return [
            (worker, n, kept[i][1], kept[i][2])
            for worker, kept in enumerate(self._kept())
            for n in range(self.settings.environments_per_worker)
            for i in range(len(kept))
            if self._may_be_drawn(worker, n, kept, i)
        ]

    def num_decisions(self):
        """Returns how many real decisions with their context a ring of this size holds."""
        context = self.settings.history_length - 1
        return sum(
            self._has_decision(worker, n, kept, i) and self._is_whole(kept, i - context, i + 1)
            for worker, kept in enumerate(self._kept())
            for n in range(self.settings.environments_per_worker)
            for i in range(len(kept))
        )

    def _kept(self):
        return [written[-self.settings.num_slots :] for written in self.written]

    def _is_whole(self, kept, first, last):
        segments = {segment for segment, *_ in kept[max(first, 0) : last + 1]}
        return first >= 0 and last < len(kept) and len(segments) == 1

    def _has_decision(self, worker, n, kept, i):
        segment, incarnation, time, is_context = kept[i]
        has_next = i + 1 < len(kept) and kept[i + 1][0] == segment
        is_first = self.environment(worker, n, incarnation).is_first
        return has_next and not is_context and not is_first[time + 1]

    def _may_be_drawn(self, worker, n, kept, i):
        window = (i - self.settings.history_length + 1, i + self.settings.window_length)
        return self._is_whole(kept, *window) and self._has_decision(worker, n, kept, i)


def place_of(windows, row):
    """Returns (life, time) of the start state that a drawn window carries in its observation."""
    return divmod(int(windows.observation[row, 0, 0]), 1000)


def require_equal(windows, row, expected):
    for name, array in expected._asdict().items():
        np.testing.assert_array_equal(getattr(windows, name)[row], array, err_msg=name)
        assert getattr(windows, name).dtype == array.dtype, name


def require_as_lists(replay, workers):
    """Asserts that the right states may be drawn and that every window is what was played there."""
    expected = workers.starts()
    assert replay.num_starts == len(expected)
    assert replay.num_decisions == workers.num_decisions() <= workers.settings.capacity
    if not expected:
        return
    by_life = {(workers.environment(w, n, i).life, time): (w, n, i) for w, n, i, time in expected}
    windows = draw_all(replay)
    places = sorted((workers.environment(w, n, i).life, time) for w, n, i, time in expected)
    assert sorted(place_of(windows, row) for row in range(len(expected))) == places
    for row in range(len(expected)):
        life, time = place_of(windows, row)
        environment = workers.environment(*by_life[life, time])
        window = environment.window(workers.settings, time, workers.settings.window_length)
        require_equal(windows, row, window)


# --- Which starts a draw may hold -----------------------------------------------------------------


@st.composite
def plays(draw):
    """Settings, and what happens to two workers: a delivery, a rollout that is lost, a death."""
    sequence_length = draw(st.integers(2, 8))
    window_length = draw(st.integers(1, 9))
    num_workers, environments = draw(st.integers(1, 2)), draw(st.integers(1, 2))
    room = max(sequence_length - 1, window_length) + draw(st.integers(0, 20))
    num_streams = num_workers * environments
    settings = ReplaySettings(
        num_workers=num_workers,
        environments_per_worker=environments,
        capacity=room * num_streams + draw(st.integers(0, num_streams - 1)),
        observation_shape=(2,),
        observation_dtype="int32",
        num_actions=NUM_ACTIONS,
        history_length=draw(st.integers(1, 5)),
        sequence_length=sequence_length,
        sequence_overlap=draw(st.integers(1, sequence_length - 1)),
        window_length=window_length,
    )
    what = st.sampled_from(["deliver"] * 6 + ["skip", "die"])
    events = st.tuples(what, st.integers(0, num_workers - 1))
    return settings, draw(st.lists(events, min_size=1, max_size=20))


TIGHT = (
    SETTINGS._replace(  # a new sequence takes the slots of states that wait for their successors
        num_workers=1,
        environments_per_worker=1,
        capacity=3,
        history_length=1,
        sequence_length=4,
        sequence_overlap=1,
        window_length=3,
    )
)


@hypothesis.settings(max_examples=60)
@hypothesis.example((TIGHT, [("deliver", 0)] * 4))
@hypothesis.given(plays())
def test_a_draw_holds_every_start_with_its_context_and_its_successors_and_no_other(play):
    settings, events = play
    replay, workers = Replay(settings), Workers(settings)
    for event, worker in events:
        if event == "deliver":
            replay.add(workers.rollout(worker))
        else:
            getattr(workers, event)(worker)
        require_as_lists(replay, workers)


def test_after_a_gap_nothing_crosses_it_and_the_states_before_it_stay_without_successors():
    replay, workers = Replay(SETTINGS), Workers(SETTINGS)
    for _ in range(2):
        replay.add(workers.rollout(0))  # states 0 … 5, then … 9
    workers.skip(0)
    replay.add(workers.rollout(0))  # states 12 … 17
    times = {time for worker, n, incarnation, time in workers.starts()}
    assert times <= {*range(6), 12, 13} and {5, 12} <= times
    require_as_lists(replay, workers)


def test_a_window_goes_on_over_the_end_of_a_game():
    replay, workers = Replay(SETTINGS), Workers(SETTINGS)
    for _ in range(4):
        replay.add(workers.rollout(0))
    windows = draw_all(replay)
    assert windows.is_first[:, 2:].any()  # a reset among the successors
    assert windows.history_is_first.any()
    assert not windows.is_first[:, 1].any()  # the decision of a start state is real


def test_nothing_is_drawn_from_what_is_too_short():
    replay, workers = Replay(SETTINGS._replace(window_length=9)), Workers(SETTINGS)
    replay.add(workers.rollout(0))
    assert replay.num_starts == 0
    with pytest.raises(ValueError, match="no start state: no environment has played 9 decisions"):
        replay.draw(np.random.default_rng(0), 1)


def test_draws_are_uniform_over_all_starts_and_depend_on_the_generator_alone():
    replay, workers = Replay(SETTINGS), Workers(SETTINGS)
    for _ in range(3):
        replay.add(workers.rollout(0))
    replay.add(workers.rollout(1))
    num_draws = 200 * replay.num_starts
    windows = replay.draw(np.random.default_rng(7), num_draws)
    _, counts = np.unique(windows.observation[:, 0, 0], return_counts=True)
    assert len(counts) == replay.num_starts > 15
    assert abs(counts - 200).max() < 5 * np.sqrt(200)
    again = replay.draw(np.random.default_rng(7), num_draws)
    np.testing.assert_array_equal(windows.observation, again.observation)


# --- What is stored -------------------------------------------------------------------------------


def test_every_frame_is_stored_once():
    """Eight sequences of a stream: their 6 + 7 · 4 states, and two of context before the first."""
    settings = SETTINGS._replace(capacity=4 * 60)
    replay, workers = Replay(settings), Workers(settings)
    for _ in range(8):
        replay.add(workers.rollout(1))
    stored = replay.arrays()["observation"][..., 0]
    for n in range(2):
        life = workers.environment(1, n, 0).life
        marks = stored[2 + n][stored[2 + n] > 0]
        np.testing.assert_array_equal(marks, 1000 * life + np.arange(6 + 7 * 4))
    assert not stored[:2].any()
    assert replay.arrays()["num_written"].tolist() == [0, 2 + 6 + 7 * 4]


def test_the_bytes_are_those_that_were_told_and_never_grow():
    replay, workers = Replay(SETTINGS), Workers(SETTINGS)

    def size(arrays):
        return sum(array.nbytes for array in arrays.values())

    assert size(replay._arrays) == size(replay.arrays()) == num_bytes(SETTINGS)
    for _ in range(30):
        replay.add(workers.rollout(0))
        replay.add(workers.rollout(1))
    assert size(replay._arrays) == num_bytes(SETTINGS)
    assert replay.num_decisions <= SETTINGS.capacity
    slots = 2 + 80 // 4 + 1  # context, the decisions of one environment, the last state
    assert layout(SETTINGS)["observation"] == ((4, slots, 2), np.dtype("int32"))
    per_state = 2 * 4 + 1 + NUM_ACTIONS * 4 + 4 + 4 + 4 * 4 + 2  # frame … behaviour_prob, two flags
    assert num_bytes(SETTINGS) == 4 * slots * per_state + 2 * 2 * 8


def test_a_full_ring_holds_as_many_decisions_as_it_has_capacity():
    replay, workers = Replay(SETTINGS), Workers(SETTINGS)
    for _, worker in itertools.product(range(30), range(2)):
        replay.add(workers.rollout(worker))
    end = 6 + 29 * 4
    resets = [workers.environment(w, n, 0).is_first[end - 20 : end] for w in (0, 1) for n in (0, 1)]
    firsts = np.sum(resets)
    assert replay.num_decisions == 80 - firsts and firsts > 0


@pytest.mark.parametrize(
    "changes, message",
    [
        (
            dict(capacity=19),
            "replay.capacity = 19: must be at least 20: 5 decisions of each of the 4 environments",
        ),
        (
            dict(capacity=39, window_length=10),
            "must be at least 40: 10 decisions of each of the 4 environments",
        ),
        (dict(sequence_overlap=0), "actors.sequence_overlap = 0: must be at least 1"),
    ],
)
def test_what_cannot_work_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        Replay(SETTINGS._replace(**changes))


def test_a_sequence_that_does_not_go_on_where_it_should_is_refused():
    replay, workers = Replay(SETTINGS), Workers(SETTINGS)
    replay.add(workers.rollout(0))
    rollout = workers.rollout(0)
    shifted = rollout.trajectory._replace(search_value=rollout.trajectory.search_value + 1)
    with pytest.raises(ValueError, match="not go on where the one before ended: search_value"):
        replay.add(rollout._replace(trajectory=shifted))


# --- Stored and restored --------------------------------------------------------------------------


def played(num_rollouts):
    replay, workers = Replay(SETTINGS), Workers(SETTINGS)
    for i in range(num_rollouts):
        replay.add(workers.rollout(i % 2))
    return replay, workers


def test_what_is_restored_draws_the_same_and_goes_on_the_same():
    replay, workers = played(9)
    copy = Replay(SETTINGS)
    copy.load(replay.arrays(), workers_go_on=True)

    def pairs():
        return zip(draw_all(replay), draw_all(copy), strict=True)

    def same():
        return all(np.array_equal(a, b) for a, b in pairs())

    assert same()
    numbers = [0, 0]  # restored workers count from 1 again
    for i in range(9, 20):
        rollout = workers.rollout(i % 2)
        numbers[i % 2] += 1
        replay.add(rollout)
        copy.add(rollout._replace(origin=Origin(i % 2, 0, numbers[i % 2])))
        assert copy.num_starts == replay.num_starts and same()


def test_without_its_workers_a_restored_replay_begins_new_segments():
    replay, workers = played(8)
    copy = Replay(SETTINGS)
    copy.load(replay.arrays(), workers_go_on=False)
    assert copy.num_starts == replay.num_starts
    workers.expected = [None, None]
    for worker in (0, 1, 0):
        workers.die(worker) if workers.expected[worker] is None else None
        rollout = workers.rollout(worker)
        copy.add(rollout._replace(origin=rollout.origin._replace(incarnation=0)))
        require_as_lists(copy, workers)


def test_arrays_are_a_copy():
    replay, workers = played(3)
    arrays = replay.arrays()
    before = {name: array.copy() for name, array in arrays.items()}
    replay.add(workers.rollout(0))
    assert all(np.array_equal(arrays[name], before[name]) for name in arrays)


def _without(name):
    return lambda arrays: {key: array for key, array in arrays.items() if key != name}


@pytest.mark.parametrize(
    "spoil, message",
    [
        (_without("reward"), "of other settings: .'reward'. differ"),
        (lambda a: a | {"more": a["reward"]}, "of other settings: .'more'. differ"),
        (
            lambda a: a | {"reward": a["reward"].astype(np.float64)},
            "of other settings: .'reward'. differ",
        ),
        (
            lambda a: a | {"observation": a["observation"][:, 1:]},
            "of other settings: .'observation'. differ",
        ),
        (lambda a: a | {"is_start": np.ones_like(a["is_start"])}, "contradicts itself"),
        (lambda a: a | {"num_written": np.zeros_like(a["num_written"]) - 1}, "contradicts itself"),
    ],
)
def test_a_foreign_replay_is_refused_and_changes_nothing(spoil, message):
    stored, (replay, _) = played(4)[0].arrays(), played(7)
    before = replay.arrays()
    with pytest.raises(ValueError, match=message):
        replay.load(spoil(stored), workers_go_on=True)
    assert all(np.array_equal(array, before[name]) for name, array in replay.arrays().items())
