"""Rollouts → batches on the device, prepared by one host thread."""

import queue
import threading
from collections.abc import Callable, Iterator
from typing import NamedTuple

import jax
import numpy as np

from muzero.types import Episode, RolloutResult, Trajectory


class Batch(NamedTuple):
    """`batch_size` sequences as the minibatches to update on, in order, and what came with them."""

    minibatches: list[Trajectory]  # device arrays [B / num_minibatches, ...]
    params_version: np.ndarray  # [B, T+1] who searched these states
    episodes: list[Episode]
    search_stats: dict[str, float]
    num_steps: int
    num_frames: int


class BatchFeed:
    """Collects rollouts in a thread and hands over batches, at most one ahead of the learner.

    Ahead, the thread starts on a batch when the learner takes the one before it: device and actors work at the same
    time, and the policy lag is bounded by one batch whatever the speeds.  In lockstep it starts when the learner
    asks: actors rest while it trains, and act with the parameters of the last update.  An exception of the thread is
    raised by `next`.

    Args:
      next_rollout: blocks until some worker has delivered.
      put: moves one minibatch to the devices (`jax.device_put` with the batch's sharding).
      batch_size: B; every rollout brings `N` sequences with `B % N == 0`.
      collect_ahead: False for lockstep.
      num_passes, num_minibatches: how often and in how many pieces a batch is gone through.
      seed: seed of the order of sequences, drawn anew for every pass; a single piece keeps the order of arrival.
    """

    def __init__(
        self,
        next_rollout: Callable[[], RolloutResult],
        put: Callable[[Trajectory], Trajectory],
        *,
        batch_size: int,
        collect_ahead: bool,
        num_passes: int,
        num_minibatches: int,
        seed: int,
    ):
        self._next_rollout, self._put = next_rollout, put
        self._batch_size, self._num_passes, self._num_minibatches = batch_size, num_passes, num_minibatches
        self._rng = np.random.default_rng(seed)
        self._queue: queue.Queue = queue.Queue()
        self._collect_ahead = collect_ahead
        self._wanted = threading.Semaphore(1 if collect_ahead else 0)
        self._closed = False
        self._thread = threading.Thread(target=self._work, name="batch-feed", daemon=True)
        self._thread.start()

    def __iter__(self) -> Iterator[Batch]:
        return self

    def __next__(self) -> Batch:
        """Returns the next batch, waiting for it. Raises what stopped the thread: StopIteration if it was `close`."""
        if not self._collect_ahead:
            self._wanted.release()
        item = self._queue.get()
        if isinstance(item, BaseException):
            self._queue.put(item)  # no batch will follow: whoever asks again must not wait for ever
            raise item
        if self._collect_ahead:
            self._wanted.release()
        return item

    def close(self) -> None:
        """Stops after the rollout under way; does not wait for it."""
        self._closed = True
        self._wanted.release()

    def _work(self) -> None:
        try:
            while True:
                self._wanted.acquire()
                self._queue.put(self._prepare(self._collect()))
        except BaseException as error:  # handed to the learner, which raises it
            self._queue.put(error)

    def _collect(self) -> list[RolloutResult]:
        rollouts, num_sequences = [], 0
        while num_sequences < self._batch_size:
            if self._closed:
                raise StopIteration
            rollouts.append(self._next_rollout())
            num_sequences += rollouts[-1].trajectory.action.shape[0]
        return rollouts

    def _prepare(self, rollouts: list[RolloutResult]) -> Batch:
        whole = jax.tree.map(lambda *parts: np.concatenate(parts), *[r.trajectory for r in rollouts])
        take = lambda rows: jax.tree.map(lambda x: x[rows], whole)
        return Batch(
            minibatches=[self._put(take(rows)) for rows in self._pieces()],
            params_version=whole.params_version,
            episodes=[episode for r in rollouts for episode in r.episodes],
            search_stats={
                name: float(np.mean([r.search_stats[name] for r in rollouts])) for name in rollouts[0].search_stats
            },
            num_steps=sum(r.num_steps for r in rollouts),
            num_frames=sum(r.num_frames for r in rollouts),
        )

    def _pieces(self) -> list[np.ndarray | slice]:
        """Returns the sequences of each minibatch, in the order of the updates."""
        if self._num_minibatches == 1:
            return [slice(None)] * self._num_passes
        orders = [self._rng.permutation(self._batch_size) for _ in range(self._num_passes)]
        return [rows for order in orders for rows in np.split(order, self._num_minibatches)]
