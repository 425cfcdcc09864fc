"""Rollouts → batches on the device, prepared by one host thread.

learner      | update 1          | update 2          | update 3
this thread  | copy, transfer 2  | copy, transfer 3  | ...           every frame is copied once
actors       | play for 3        | play for 4        | ...
"""

import contextlib
import logging
import queue
import threading
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np

from configs.schema import LearnerConfig
from learner.passes import Passes
from muzero.types import Episode, Origin, RolloutResult

_logger = logging.getLogger(__name__)


class Batch(NamedTuple):
    """`batch_size` sequences as passes of updates on them, and what came with them."""

    passes: Passes
    params_version: np.ndarray  # [B, T+1] who searched these states
    episodes: list[Episode]
    search_stats: dict[str, float]
    num_steps: int
    num_frames: int


class BatchFeed:
    """Collects rollouts in a thread and hands over batches, at most one ahead of the learner.

    A rollout that has come before, or after a later one of its worker, is dropped.

    Ahead, the thread starts on a batch when the learner takes the one before it: device and actors
    work at the same time. What bounds the policy lag is how much the actors have under way: with W
    sequences asked for at a time (of all workers), a batch is at most W / B + 1 batches old,
    whatever the speeds.  In lockstep it starts when the learner asks: actors that are asked in
    rounds rest while it trains, and act with the parameters of the last update.  An exception of
    the thread is raised by `next`.

    Args:
      next_rollout: blocks until some worker has delivered.
      make_passes: (rollouts of a batch, number of the batch) → its passes; called by the thread.
      settings: of the learner, all of its processes; every rollout brings `N` sequences that divide
        the share of this process in a batch. With `max_lag` a rollout is dropped, and the games
        that ended in it, if the parameters of its newest search will be older than that when its
        batch is begun. It ends well: a learner that waits has published what the next rollout acts
        with.
      first_update: updates done before the first batch.
      num_skipped: asked from the thread for the updates, of those on batches of this feed, that
        were not made: no version counts them.
      num_batches: batches before the first of this feed.
    """

    def __init__(
        self,
        next_rollout: Callable[[], RolloutResult],
        make_passes: Callable[[list[RolloutResult], int], Passes],
        settings: LearnerConfig,
        *,
        first_update: int = 0,
        num_skipped: Callable[[], int] = lambda: 0,
        num_batches: int = 0,
    ):
        self._next_rollout = next_rollout
        self._make_passes = make_passes
        self._next_update = first_update
        self._max_lag = settings.max_lag
        self._num_skipped = num_skipped
        self._batch_size = settings.batch_size // settings.num_processes
        self._updates_per_batch = settings.num_passes * settings.num_minibatches
        self._num_batches = num_batches
        self._queue: queue.Queue = queue.Queue()
        self._collect_ahead = settings.collect_ahead
        self._wanted = threading.Semaphore(1 if settings.collect_ahead else 0)
        self._num_wanted = int(settings.collect_ahead)
        self._num_prepared = 0
        self.num_collected = 0  # sequences for batches, those of batches never taken included
        self._newest: dict[int, tuple[int, int]] = {}  # of each worker: incarnation, number
        self._closed = False
        self._num_dropped = 0
        self._clock = _Clock()
        self._thread = threading.Thread(target=self._work, name="batch-feed", daemon=True)
        self._thread.start()

    def __iter__(self) -> Iterator[Batch]:
        return self

    def __next__(self) -> Batch:
        """Returns the next batch, waiting for it.

        Raises what stopped the thread: StopIteration if it was `close`.
        """
        if not self._collect_ahead:
            self._want()
        item = self._queue.get()
        if isinstance(item, BaseException):
            self._queue.put(item)  # no batch will follow: whoever asks again must not wait for ever
            raise item
        if self._collect_ahead:
            self._want()
        return item

    @property
    def is_idle(self) -> bool:
        """Whether every batch that was wanted is prepared."""
        return self._num_prepared == self._num_wanted

    def pop_metrics(self) -> dict[str, float]:
        """Returns what the thread spent its time on since the last call, what waits, what it
        dropped.
        """
        return self._clock.pop() | {
            "perf/batches_ready": float(self._queue.qsize()),
            "lag/sequences_dropped": float(self._num_dropped),
        }

    def close(self) -> None:
        """Stops after the rollout under way; does not wait for it."""
        self._closed = True
        self._wanted.release()

    def _want(self) -> None:
        self._num_wanted += 1
        self._wanted.release()

    def _work(self) -> None:
        try:
            while True:
                self._wanted.acquire()
                self._queue.put(self._prepare(self._collect()))
                self._num_prepared += 1
                self._next_update += self._updates_per_batch
        except BaseException as error:  # handed to the learner, which raises it
            self._queue.put(error)

    def _collect(self) -> list[RolloutResult]:
        rollouts, num_sequences = [], 0
        while num_sequences < self._batch_size:
            if self._closed:
                raise StopIteration
            with self._clock.spent("wait"):
                rollout = self._next_rollout()
            size = rollout.trajectory.action.shape[0]
            if not self._is_new(rollout.origin):
                continue
            if self._is_too_old(rollout):
                self._num_dropped += size
                continue
            rollouts.append(rollout)
            num_sequences += size
            self.num_collected += size
        return rollouts

    def _is_new(self, origin: Origin | None) -> bool:
        """Returns whether a rollout comes in order, and notes it.

        A repeated or late one is never trained on.
        """
        if origin is None:
            return True
        newest = self._newest.get(origin.worker_id, (0, 0))
        if (origin.incarnation, origin.number) <= newest:
            _logger.error(
                "a rollout came twice or out of order and is dropped: %s, after %s", origin, newest
            )
            return False
        self._newest[origin.worker_id] = (origin.incarnation, origin.number)
        return True

    def _is_too_old(self, rollout: RolloutResult) -> bool:
        lag = (
            self._next_update
            - self._num_skipped()
            - int(rollout.trajectory.params_version[:, -1].min())
        )
        return self._max_lag is not None and lag > self._max_lag

    def _prepare(self, rollouts: list[RolloutResult]) -> Batch:
        with self._clock.spent("copy"):
            passes = self._make_passes(rollouts, self._num_batches)
        self._num_batches += 1
        return Batch(
            passes=passes,
            params_version=np.concatenate([r.trajectory.params_version for r in rollouts]),
            episodes=[episode for r in rollouts for episode in r.episodes],
            search_stats={
                name: float(np.mean([r.search_stats[name] for r in rollouts]))
                for name in rollouts[0].search_stats
            },
            num_steps=sum(r.num_steps for r in rollouts),
            num_frames=sum(r.num_frames for r in rollouts),
        )


class _Clock:
    """Where the time of one thread goes, in fractions of that between two looks of another."""

    def __init__(self):
        self._lock = threading.Lock()
        self._spent = {"wait": 0.0, "copy": 0.0}
        self._doing: str | None = None
        self._credited = self._popped = time.monotonic()

    @contextlib.contextmanager
    def spent(self, name: str) -> Iterator[None]:
        self._turn_to(name)
        yield
        self._turn_to(None)

    def pop(self) -> dict[str, float]:
        with self._lock:
            now = self._credit()  # also what is under way: a wait of many rows is a part of each
            between = now - self._popped
            fractions = {
                f"perf/feed_{name}_fraction": spent / between for name, spent in self._spent.items()
            }
            self._spent, self._popped = dict.fromkeys(self._spent, 0.0), now
        return fractions

    def _turn_to(self, name: str | None) -> None:
        with self._lock:
            self._credit()
            self._doing = name

    def _credit(self) -> float:
        now = time.monotonic()
        if self._doing is not None:
            self._spent[self._doing] += now - self._credited
        self._credited = now
        return now
