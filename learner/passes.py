"""What is learned from: passes over what has just been played, or over draws from a replay.

dealt   batch ─▶ its own sequences, all their start states, `num_passes` times
drawn   batch ─▶ into the replay; then windows from all of it, as many as the ratio asks for
"""

import functools
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import NamedTuple, Protocol

import numpy as np

from configs.schema import LearnerConfig, ReplayConfig
from learner.replay import Replay
from muzero.types import Array, PyTree, RolloutResult, Trajectory


class Pass(NamedTuple):
    """Sequences that targets are made for once, and the start states of the updates that follow."""

    trajectory: Trajectory  # device arrays [B, ...]
    minibatches: list[Array]  # start states [B, S'] on the device, one an update


Passes = Callable[[int], Iterable[Pass]]
"""(decisions that the batch of all learner processes brought) → what is to be learned from now."""


class PassMaker(Protocol):
    """What learns from batches: see `DealtPasses` and `DrawnPasses`."""

    def __call__(self, rollouts: list[RolloutResult], number: int) -> Passes:
        """Returns what is learned when batch `number` is taken; called by the feed's thread."""

    def pop_metrics(self) -> dict[str, float]:
        """Returns metrics since the last call."""

    def save(self) -> dict[str, np.ndarray]:
        """Returns what later passes depend on, beside the counters."""

    def load(self, arrays: Mapping[str, np.ndarray], *, workers_go_on: bool) -> None:
        """Goes on where `save` was called; ValueError if these arrays are of other settings."""


class DealtPasses:
    """Deals the start states of each batch: what is learned from has just been played.

    Each minibatch holds as many start states of every sequence, dealt anew for every pass: few
    whole sequences would be few moments of few games, and teach little of what an action changes.

    Args:
      put: moves arrays [B, ...] to the devices (`jax.device_put` with the batch's sharding).
      settings: how often the start states are gone through, and in how many minibatches; a single
        one keeps the order of time.
      num_starts: S, start states of a sequence.
      seed: of the order. It depends on the seed and the number of the batch alone: a resumed run
        goes on with the orders of an uninterrupted one.
    """

    def __init__(
        self,
        put: Callable[[PyTree], PyTree],
        settings: LearnerConfig,
        *,
        num_starts: int,
        seed: int,
    ):
        self._put = put
        self._num_passes = settings.num_passes
        self._num_minibatches = settings.num_minibatches
        self._num_starts = num_starts
        self._seed = seed

    def __call__(self, rollouts: list[RolloutResult], number: int) -> Passes:
        """Returns passes over the sequences of a batch, all of them on the devices already."""
        own = _concatenate(rollouts)
        trajectory = self._put(own)  # of several processes: the batch of all of them
        deals = self._deal(len(own.action), number)
        passes = [Pass(trajectory, [self._put(starts) for starts in deal]) for deal in deals]
        return lambda num_steps: passes

    def pop_metrics(self) -> dict[str, float]:
        """Returns nothing."""
        return {}

    def save(self) -> dict[str, np.ndarray]:
        """Returns nothing: the number of the batch is counted elsewhere."""
        return {}

    def load(self, arrays: Mapping[str, np.ndarray], *, workers_go_on: bool) -> None:
        """Does nothing."""

    def _deal(self, num_sequences: int, number: int) -> list[list[np.ndarray]]:
        """Returns the start states [B, S'] of each minibatch of each pass."""
        in_order = np.tile(np.arange(self._num_starts, dtype=np.int32), (num_sequences, 1))
        if self._num_minibatches == 1:
            return [[in_order]] * self._num_passes
        rng = np.random.default_rng([self._seed, number])
        orders = [rng.permuted(in_order, axis=1) for _ in range(self._num_passes)]
        return [np.split(order, self._num_minibatches, axis=1) for order in orders]


def _concatenate(rollouts: list[RolloutResult]) -> Trajectory:
    """Returns the sequences of all `rollouts`, straight from the arrays that Ray delivered."""
    columns = zip(*[rollout.trajectory for rollout in rollouts], strict=True)
    return Trajectory(*[np.concatenate(parts) for parts in columns])


class DrawnPasses:
    """Draws windows from a replay: so many that the start states keep their ratio to the decisions.

    The thread of the feed hands rollouts over, that of the learner stores them and draws, when it
    comes to the batch: what is stored and drawn depends on the batches taken, on no clock. A slow
    learner lets the actors wait, slow actors let it wait: the ratio holds exactly.

    Args:
      replay: of this process.
      put: moves arrays [B, ...] to the devices.
      settings: the ratio of start states to decisions beyond the first `min_decisions`, which are
        counted from an empty replay on; start states of an update.
      num_processes: which share an update equally; decisions are those of all.
      seed: draws depend on it and on the number of the update alone: a resumed run goes on with the
        draws of an uninterrupted one.
      num_updates: made, or skipped, before.
    """

    def __init__(
        self,
        replay: Replay,
        put: Callable[[PyTree], PyTree],
        settings: ReplayConfig,
        *,
        num_processes: int,
        seed: tuple[int, ...],
        num_updates: int,
    ):
        self._replay = replay
        self._put = put
        self._settings = settings
        self._seed = seed
        self._share = settings.batch_size // num_processes
        self._num_updates = num_updates
        self._num_decisions = 0  # of all processes, since the replay was empty
        self._ages: list[float] = []  # of the start states drawn since the last look, in updates
        self._starts = put(np.zeros((self._share, 1), np.int32))

    def __call__(self, rollouts: list[RolloutResult], number: int) -> Passes:
        """Returns what is drawn once these rollouts of a batch are stored."""
        return functools.partial(self._store_and_draw, rollouts)

    def pop_metrics(self) -> dict[str, float]:
        """Returns how full the replay is, and how old is what was drawn since the last call."""
        ages, self._ages = self._ages, []
        num_starts = self._settings.batch_size * self._num_due()
        metrics = {
            "replay/decisions": float(self._replay.num_decisions),
            "replay/starts": float(self._replay.num_starts),
            "replay/ratio": num_starts / max(self._num_earning(), 1),
        }
        return metrics | ({"replay/age_mean": float(np.mean(ages))} if ages else {})

    def save(self) -> dict[str, np.ndarray]:
        """Returns what the next draws depend on, but for the number of updates."""
        return self._replay.arrays() | {"num_decisions": np.array(self._num_decisions)}

    def load(self, arrays: Mapping[str, np.ndarray], *, workers_go_on: bool) -> None:
        """Goes on where `save` was called; raises ValueError like `Replay.load`."""
        arrays = dict(arrays)
        num_decisions = arrays.pop("num_decisions", np.array(-1))
        if num_decisions.shape != () or num_decisions < 0:
            raise ValueError("the stored replay does not say how many decisions were played")
        self._replay.load(arrays, workers_go_on=workers_go_on)
        self._num_decisions = int(num_decisions)

    def _store_and_draw(self, rollouts: list[RolloutResult], num_steps: int) -> Iterator[Pass]:
        for rollout in rollouts:
            self._replay.add(rollout)
        num_made = self._num_due()
        self._num_decisions += num_steps
        for _ in range(self._num_due() - num_made):
            yield self._draw()

    def _num_earning(self) -> int:
        return max(self._num_decisions - self._settings.min_decisions, 0)

    def _num_due(self) -> int:
        """Returns the updates that all decisions so far ask for: a remainder is never lost."""
        return int(self._settings.ratio * self._num_earning() / self._settings.batch_size)

    def _draw(self) -> Pass:
        rng = np.random.default_rng([*self._seed, self._num_updates])
        windows = self._replay.draw(rng, self._share)
        self._ages.append(self._num_updates - float(windows.params_version[:, 0].mean()))
        self._num_updates += 1
        return Pass(self._put(windows), [self._starts])
