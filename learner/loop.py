"""For each batch: update, publish, log, save.

The device skips an update whose numbers are not finite (`learner/update.py`); here they are
counted, and too many in a row end the run: what made them is then in the data or in the settings,
and will not pass.
"""

import collections
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple, TypeVar

import jax
import numpy as np

from configs.schema import LearnerConfig
from learner.feed import Batch
from learner.records.metrics import MeanAccumulator
from learner.state import LearnerState
from learner.update import SKIPPED, Metrics, Minibatch, UpdateFns, num_compilations
from muzero.types import Params, Trajectory

Item = TypeVar("Item")


class Counters(NamedTuple):
    """What the learner has consumed; saved with every checkpoint and continued on resume."""

    num_updates: int = 0
    num_steps: int = 0  # decisions
    num_frames: int = 0  # emulator frames
    num_episodes: int = 0  # whole games
    num_batches: int = 0
    num_skipped: int = 0  # updates that were not made: a number was not finite
    seconds: float = 0.0  # of training, over all sessions


class Report(NamedTuple):
    """One row of the log: means since the row before."""

    counters: Counters
    scalars: dict[str, float]


class NonFiniteError(RuntimeError):
    """Training cannot go on: numbers are not finite, again and again.

    `batch` is what the last updates were made on (None if the parameters themselves are at fault).
    """

    def __init__(self, message: str, batch: Trajectory | None):
        super().__init__(message)
        self.batch = batch

    def __reduce__(self):
        """Returns what another process gets to know: the batch stays where it is."""
        return NonFiniteError, (str(self), None)


class LearnerLoop:
    """Runs updates batch by batch and keeps the counters.

    Args:
      state: the learner state to go on from.
      counters: what that state has consumed.
      update_fns: the jitted programs; an update donates the state.
      settings: of the learner.
      publish: called with (version, search average) after every `publish_interval` updates.
    """

    def __init__(
        self,
        state: LearnerState,
        counters: Counters,
        settings: LearnerConfig,
        *,
        update_fns: UpdateFns,
        publish: Callable[[int, Params], None],
    ):
        self.state = state
        self.counters = counters
        self._settings = settings
        self._update_fns = update_fns
        self._publish = publish
        self._num_skipped_in_row = 0  # batches
        self._means = MeanAccumulator()
        self._pending: list[Metrics] = []  # still on the device
        self._waited = 0.0
        self._row_started = time.monotonic()
        self._row_counters = counters

    def run_batch(self, batches: Iterable[Batch]) -> Batch:
        """Waits for the next of `batches`, trains on it, and returns it.

        Raises NonFiniteError after too many batches in a row with skipped updates, or before
        non-finite parameters are published.
        """
        started = time.monotonic()
        batch = next(iter(batches))
        self._waited += time.monotonic() - started
        self._record_batch(batch)
        was_skipped: list[bool] = []
        evidence: Trajectory | None = None
        for trajectory, made in _one_behind(self._run_passes(batch)):
            flags = self._settle(made)
            was_skipped += flags
            evidence = trajectory if any(flags) else evidence
        self._advance(
            num_updates=len(was_skipped) - sum(was_skipped),
            num_skipped=sum(was_skipped),
            num_steps=batch.num_steps,
            num_frames=batch.num_frames,
            num_episodes=len(batch.episodes),
            num_batches=1,
            seconds=time.monotonic() - started,
        )
        self._require_progress(evidence, was_skipped)
        return batch

    def publish(self) -> None:
        """Hands the actors a copy of the search average on the host: the state is donated next."""
        version, average = jax.device_get((self.state.num_updates, self.state.search_average))
        if not all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(average)):
            raise NonFiniteError(
                f"the parameters after {version} updates are not finite: not published", None
            )
        self._publish(int(version), jax.tree.map(np.array, average))

    @property
    def is_reported(self) -> bool:
        """Whether no update was made since the last report, or since the beginning."""
        return self.counters.num_updates == self._row_counters.num_updates

    def report(self) -> Report:
        """Returns the means since the last report.

        Here alone do metrics leave the device, `SKIPPED` apart.
        """
        for metrics in jax.device_get(self._pending):
            self._means.add({tag: float(value) for tag, value in metrics.items()})
        self._pending.clear()
        seconds = time.monotonic() - self._row_started
        scalars = self._means.pop() | {
            SKIPPED: float(self.counters.num_skipped),
            "perf/frames_per_second": self._since_row("num_frames") / seconds,
            "perf/updates_per_second": self._since_row("num_updates") / seconds,
            "perf/learner_wait_fraction": self._waited / seconds,
            "perf/compilations": float(num_compilations()),
        }
        self._waited = 0.0
        self._row_started = time.monotonic()
        self._row_counters = self.counters
        return Report(self.counters, scalars)

    def _since_row(self, field: str) -> int:
        """Returns by how much a counter has grown since the last report."""
        return getattr(self.counters, field) - getattr(self._row_counters, field)

    def _run_passes(self, batch: Batch) -> Iterator[tuple[Trajectory, list[Metrics]]]:
        """Yields each pass: its sequences, and the metrics of its updates, maybe under way."""
        num_tried = self.counters.num_updates + self.counters.num_skipped
        for trajectory, minibatches in batch.passes(batch.num_steps):
            prepared, made = self._update_fns.prepare(self.state, trajectory), []
            for starts in minibatches:
                minibatch = Minibatch(trajectory, prepared, starts)
                self.state, metrics = self._update_fns.update(self.state, minibatch)
                made.append(metrics)
                num_tried += 1
                if num_tried % self._settings.publish_interval == 0:
                    self.publish()
            yield trajectory, made

    def _settle(self, made: list[Metrics]) -> list[bool]:
        """Returns which of these updates were skipped; keeps what the others say.

        Waits for the device.
        """
        flags = jax.device_get([metrics.pop(SKIPPED) for metrics in made])
        was_skipped = [bool(flag) for flag in flags]
        # A skipped update has nothing to say: its numbers are not numbers.
        self._pending += [
            metrics for metrics, is_bad in zip(made, was_skipped, strict=True) if not is_bad
        ]
        return was_skipped

    def _require_progress(self, batch: Trajectory | None, was_skipped: Sequence[bool]) -> None:
        """Raises NonFiniteError if updates were skipped on too many batches in a row.

        Batches are counted: one bad sequence is in all updates on its batch.
        """
        self._num_skipped_in_row = self._num_skipped_in_row + 1 if any(was_skipped) else 0
        if self._num_skipped_in_row >= self._settings.max_skipped_in_row:
            raise NonFiniteError(
                f"{self._num_skipped_in_row} batches in a row had numbers that are not finite; "
                f"{self.counters.num_updates} updates were made before",
                batch,
            )

    def _advance(self, **amounts: float) -> None:
        added = {field: getattr(self.counters, field) + amount for field, amount in amounts.items()}
        self.counters = self.counters._replace(**added)

    def _record_batch(self, batch: Batch) -> None:
        lag = self.counters.num_updates - batch.params_version
        self._means.add(
            {
                "lag/params_version_mean": float(lag.mean()),
                "lag/params_version_max": float(lag.max()),
            }
        )
        self._means.add({f"search/{name}": value for name, value in batch.search_stats.items()})
        for episode in batch.episodes:
            self._means.add(
                {
                    "episode/return": episode.episode_return,
                    "episode/length": float(episode.num_steps),
                }
            )


def _one_behind(items: Iterable[Item]) -> Iterator[Item]:
    """Yields each item once there is the next: the device has work, and no more waits for it."""
    waiting: collections.deque = collections.deque()
    for item in items:
        waiting.append(item)
        if len(waiting) > 1:
            yield waiting.popleft()
    yield from waiting
