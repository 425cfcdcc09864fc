"""For each batch: update, publish, log, save."""

import time
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import jax
import numpy as np

from learner.batcher import Batch
from learner.metrics import MeanAccumulator
from learner.state import LearnerState
from learner.update import UpdateFn
from muzero.types import Params


class Counters(NamedTuple):
    """What the learner has consumed; saved with every checkpoint and continued on resume."""

    num_updates: int = 0
    num_steps: int = 0  # decisions
    num_frames: int = 0  # emulator frames
    num_episodes: int = 0  # whole games
    num_batches: int = 0
    seconds: float = 0.0  # of training, over all sessions


class Report(NamedTuple):
    """One row of the log: means since the row before."""

    counters: Counters
    scalars: dict[str, float]


class LearnerLoop:
    """Runs updates batch by batch and keeps the counters.

    Args:
      state: the learner state to go on from.
      counters: what that state has consumed.
      update_fn: the jitted update; donates the state.
      publish: called with (version, search average) after every `publish_interval` updates.
      publish_interval: updates.
    """

    def __init__(
        self,
        state: LearnerState,
        counters: Counters,
        *,
        update_fn: UpdateFn,
        publish: Callable[[int, Params], None],
        publish_interval: int,
    ):
        self.state, self.counters = state, counters
        self._update_fn, self._publish, self._publish_interval = update_fn, publish, publish_interval
        self._means = MeanAccumulator()
        self._pending: list[Any] = []  # metrics still on the device
        self._waited = 0.0
        self._row_started, self._row_counters = time.monotonic(), counters

    def run_batch(self, batches: Iterable[Batch]) -> Batch:
        """Waits for the next of `batches`, trains on it, and returns it."""
        started = time.monotonic()
        batch = next(iter(batches))
        self._waited += time.monotonic() - started
        self._record_batch(batch)
        for minibatch in batch.minibatches:
            self.state, metrics = self._update_fn(self.state, minibatch)
            self._pending.append(metrics)
            self._advance(num_updates=1)
            if self.counters.num_updates % self._publish_interval == 0:
                self.publish()
        self._advance(
            num_steps=batch.num_steps,
            num_frames=batch.num_frames,
            num_episodes=len(batch.episodes),
            num_batches=1,
            seconds=time.monotonic() - started,
        )
        return batch

    def publish(self) -> None:
        """Hands the search average to the actors, as a copy on the host: the state is donated next."""
        params = jax.tree.map(np.array, jax.device_get(self.state.search_average))
        self._publish(self.counters.num_updates, params)

    def report(self) -> Report:
        """Returns the means since the last report: the only place where metrics leave the device."""
        for metrics in jax.device_get(self._pending):
            self._means.add({tag: float(value) for tag, value in metrics.items()})
        self._pending.clear()
        seconds = time.monotonic() - self._row_started
        rate = lambda field: (getattr(self.counters, field) - getattr(self._row_counters, field)) / seconds
        scalars = self._means.pop() | {
            "perf/frames_per_second": rate("num_frames"),
            "perf/updates_per_second": rate("num_updates"),
            "perf/learner_wait_fraction": self._waited / seconds,
        }
        self._waited, self._row_started, self._row_counters = 0.0, time.monotonic(), self.counters
        return Report(self.counters, scalars)

    def _advance(self, **amounts: float) -> None:
        added = {field: getattr(self.counters, field) + amount for field, amount in amounts.items()}
        self.counters = self.counters._replace(**added)

    def _record_batch(self, batch: Batch) -> None:
        lag = self.counters.num_updates - batch.params_version
        self._means.add({"lag/params_version_mean": float(lag.mean()), "lag/params_version_max": float(lag.max())})
        self._means.add({f"search/{name}": value for name, value in batch.search_stats.items()})
        for episode in batch.episodes:
            self._means.add({"episode/return": episode.episode_return, "episode/length": float(episode.num_steps)})
