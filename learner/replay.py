"""What the actors sent, kept for learning again: a ring of fixed size, every frame in it once.

    one environment  …│ H−1 context │ s s s s s s s s s s │ H−1 context │ s s s s s s s     time ─▶
                      └─ segment: sequences without a gap ┘└─ after a gap, a death, a resume
    one draw                          c c c S d d d d d d      H−1 states of context, start state S,
                                            └ window_length    decisions that its targets may read

Neighbouring sequences share their overlap and their context: what is there already is not stored
again.  A segment's end is like the end of what is stored: no draw crosses it.  A start state is any
real decision that has its context and, from its own on, `window_length` decisions in its segment:
the newest states wait for their successors, those at the end of a segment for ever.  A game may end
within a window: `is_first` tells.
"""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from muzero.types import Origin, RolloutResult, Trajectory

_STATE_FIELDS = ("observation", "is_first", "search_policy", "search_value", "params_version")
_DECISION_FIELDS = ("action", "reward", "discount", "behaviour_prob")
_CONTEXT_FIELDS = ("observation", "action", "is_first")
_NO_ROLLOUT = (-1, -1)


class ReplaySettings(NamedTuple):
    """What is stored, of whom, and how much of it one draw holds."""

    num_workers: int
    environments_per_worker: int  # N
    capacity: int  # decisions, of all environments together; each has an equal share, rounded down
    observation_shape: tuple[int, ...]
    observation_dtype: str
    num_actions: int  # A
    history_length: int  # H
    sequence_length: int  # T + 1 states of a delivered sequence
    sequence_overlap: int  # states it shares with the one before, at least 1
    window_length: int  # decisions from a start state on: unrolled, and read by its targets

    @property
    def num_streams(self) -> int:
        """Environments."""
        return self.num_workers * self.environments_per_worker

    @property
    def decisions_per_stream(self) -> int:
        """Decisions kept of every environment."""
        return self.capacity // self.num_streams

    @property
    def num_slots(self) -> int:
        """States kept of every environment: context, one a decision, and the last one."""
        return self.history_length - 1 + self.decisions_per_stream + 1

    def require_room(self) -> None:
        """Raises ValueError if a stream has no room for a sequence or a window."""
        least = max(self.sequence_length - 1, self.window_length)
        if self.decisions_per_stream < least:
            raise ValueError(
                f"replay.capacity = {self.capacity}: must be at least {least * self.num_streams}: "
                f"{least} decisions of each of the {self.num_streams} environments"
            )
        if self.sequence_overlap < 1:
            raise ValueError("actors.sequence_overlap = 0: must be at least 1 with replay")


def layout(settings: ReplaySettings) -> dict[str, tuple[tuple[int, ...], np.dtype]]:
    """Returns the shape and the dtype of every array that is kept, by name."""
    table = (settings.num_streams, settings.num_slots)
    workers = settings.num_workers
    kinds = {
        "observation": ((*table, *settings.observation_shape), settings.observation_dtype),
        "is_first": (table, bool),
        "search_policy": ((*table, settings.num_actions), np.float32),
        "search_value": (table, np.float32),
        "params_version": (table, np.int32),
        "action": (table, np.int32),
        "reward": (table, np.float32),
        "discount": (table, np.float32),
        "behaviour_prob": (table, np.float32),
        "is_real": (table, bool),  # a decision that is real and has its context
        "is_start": (table, bool),  # what may be drawn
        "num_written": ((workers,), np.int64),  # states so far; the next goes to this % `num_slots`
        "segment_start": ((workers,), np.int64),  # `num_written` before the newest segment
    }
    return {name: (shape, np.dtype(dtype)) for name, (shape, dtype) in kinds.items()}


def num_bytes(settings: ReplaySettings) -> int:
    """Returns the memory that a `Replay` of these settings takes from the start on, in bytes."""
    return sum(int(np.prod(shape)) * dtype.itemsize for shape, dtype in layout(settings).values())


class Replay:
    """A ring of what each environment went through last, and seeded draws from all of them.

    The environments of a worker are always equally far: one position tells where all of them are.

    Raises ValueError if the capacity is too small for a sequence or a window.
    """

    def __init__(self, settings: ReplaySettings):
        settings.require_room()
        self._settings = settings
        self._arrays = {name: np.empty(*kind) for name, kind in layout(settings).items()}
        for array in self._arrays.values():
            array.fill(0)  # touches every page: what does not fit fails now, not after hours
        # Incarnation and number of each worker's rollout that goes on; a new session counts anew.
        self._next_rollout = np.full((settings.num_workers, 2), _NO_ROLLOUT)
        self._starts = np.empty(0, np.int64)  # flat places of what may be drawn
        self._is_changed = False

    @property
    def num_decisions(self) -> int:
        """Real decisions that are stored."""
        return int(self._arrays["is_real"].sum())

    @property
    def num_starts(self) -> int:
        """Start states that may be drawn."""
        return len(self._find_starts())

    def add(self, rollout: RolloutResult) -> None:
        """Stores what is new in the sequences of one worker.

        Raises ValueError if a sequence that should go on where the one before it ended does not.
        """
        origin, trajectory = rollout.origin or Origin(0, 0, 1), rollout.trajectory
        worker, *this_rollout = origin
        if self._next_rollout[worker].tolist() == this_rollout:
            self._require_overlap(origin, trajectory)
            self._append(worker, trajectory, self._settings.sequence_overlap)
        else:
            self._begin_segment(worker, trajectory)
            self._append(worker, trajectory, 0)
        self._next_rollout[worker] = origin.incarnation, origin.number + 1
        self._is_changed = True

    def draw(self, rng: np.random.Generator, num_starts: int) -> Trajectory:
        """Returns windows whose states 0 are drawn uniformly, with replacement, from all starts.

        Args:
          rng: what is drawn depends on it and on what is stored, on nothing else.
          num_starts: B.

        Raises ValueError if there is none to draw.
        """
        starts, settings = self._find_starts(), self._settings
        if not len(starts):
            raise ValueError(
                "the replay has no start state: no environment has played "
                f"{settings.window_length} decisions in one piece"
            )
        size, chosen = settings.num_slots, starts[rng.integers(len(starts), size=num_starts)]
        rows, slots = (part[:, None] for part in np.divmod(chosen, size))

        def places(first, end):
            return rows * size + (slots + np.arange(first, end)) % size

        states, decisions = places(0, settings.window_length + 1), places(0, settings.window_length)
        context = places(1 - settings.history_length, 0)
        return Trajectory(
            **{name: self._flat(name)[states] for name in _STATE_FIELDS},
            **{name: self._flat(name)[decisions] for name in _DECISION_FIELDS},
            **{f"history_{name}": self._flat(name)[context] for name in _CONTEXT_FIELDS},
        )

    def arrays(self) -> dict[str, np.ndarray]:
        """Returns a copy of all that is stored, for a checkpoint: as many bytes again."""
        return {name: array.copy() for name, array in self._arrays.items()}

    def load(self, arrays: Mapping[str, np.ndarray], *, workers_go_on: bool) -> None:
        """Puts back what `arrays` returned.

        Args:
          arrays: of a replay with the same settings.
          workers_go_on: whether the workers were restored too, and count their rollouts from 1:
            their first sequences go on where the stored ones end. Otherwise they begin segments.

        Raises ValueError, before anything has changed, if these arrays are of other settings or
        contradict each other.
        """
        expected = layout(self._settings)
        found = {name: (array.shape, array.dtype) for name, array in arrays.items()}
        if different := [n for n in expected | found if found.get(n) != expected.get(n)]:
            raise ValueError(f"the stored replay is of other settings: {different} differ")
        has_begun = arrays["segment_start"] <= arrays["num_written"]
        if np.any(arrays["is_start"] & ~arrays["is_real"]) or not np.all(has_begun):
            raise ValueError("the stored replay contradicts itself")
        for name, array in arrays.items():
            self._arrays[name][:] = array
        is_known = arrays["num_written"][:, None] > 0
        self._next_rollout[:] = np.where(is_known & workers_go_on, (0, 1), _NO_ROLLOUT)
        self._is_changed = True

    def _flat(self, name: str) -> np.ndarray:
        array = self._arrays[name]
        return array.reshape(-1, *array.shape[2:])

    def _find_starts(self) -> np.ndarray:
        if self._is_changed:
            self._starts, self._is_changed = np.flatnonzero(self._arrays["is_start"]), False
        return self._starts

    def _rows(self, worker: int) -> slice:
        size = self._settings.environments_per_worker
        return slice(worker * size, (worker + 1) * size)

    def _slots(self, first: int, end: int) -> np.ndarray:
        return np.arange(first, end) % self._settings.num_slots

    def _end(self, worker: int) -> int:
        return int(self._arrays["num_written"][worker])

    def _require_overlap(self, origin: Origin, trajectory: Trajectory) -> None:
        """Raises ValueError unless the sequences begin with the last states that are stored."""
        overlap, end = self._settings.sequence_overlap, self._end(origin.worker_id)
        place = self._rows(origin.worker_id), self._slots(end - overlap, end)
        for name in ("is_first", "search_value", "params_version"):
            sent = getattr(trajectory, name)[:, :overlap]
            if self._arrays[name][place].tobytes() != sent.tobytes():  # a NaN equals itself
                raise ValueError(f"{origin} does not go on where the one before ended: {name}")

    def _begin_segment(self, worker: int, trajectory: Trajectory) -> None:
        self._arrays["segment_start"][worker] = self._end(worker)
        place = self._rows(worker), self._make_room(worker, self._settings.history_length - 1)
        for name in _CONTEXT_FIELDS:
            self._arrays[name][place] = getattr(trajectory, f"history_{name}")

    def _append(self, worker: int, trajectory: Trajectory, first: int) -> None:
        """Writes the states from `first` on, and the decisions that lead to them."""
        rows, beginning = self._rows(worker), self._end(worker) - first  # of the sequence
        slots = self._make_room(worker, self._settings.sequence_length - first)
        for name in _STATE_FIELDS:
            self._arrays[name][rows, slots] = getattr(trajectory, name)[:, first:]
        earliest = max(first - 1, 0)  # of the last state that was there the decision is new
        slots = self._slots(beginning + earliest, self._end(worker) - 1)
        for name in _DECISION_FIELDS:
            self._arrays[name][rows, slots] = getattr(trajectory, name)[:, earliest:]
        self._arrays["is_real"][rows, slots] = ~trajectory.is_first[:, earliest + 1 :]
        self._admit(worker, beginning + first)

    def _make_room(self, worker: int, num_states: int) -> np.ndarray:
        """Returns the slots of the next states, without what was there or needed it as context."""
        start = self._end(worker)
        end = start + num_states
        self._arrays["num_written"][worker] = end
        lost = self._rows(worker), self._slots(start, end + self._settings.history_length - 1)
        self._arrays["is_real"][lost] = self._arrays["is_start"][lost] = False
        return self._slots(start, end)

    def _admit(self, worker: int, old_end: int) -> None:
        """Lets the states be drawn that have their context and, only now, their successors."""
        settings, end = self._settings, self._end(worker)
        oldest = max(int(self._arrays["segment_start"][worker]), end - settings.num_slots)
        first = max(oldest + settings.history_length - 1, old_end - settings.window_length)
        place = self._rows(worker), self._slots(first, end - settings.window_length)
        self._arrays["is_start"][place] = self._arrays["is_real"][place]
