"""Several learner processes as one: each with its share of every batch, all with the same counts
and the same end.
"""

from collections.abc import Iterator

import jax
import numpy as np
from jax.experimental import multihost_utils

from learner.feed import Batch
from muzero.types import Episode


class OwnBatches:
    """The batches of the only process."""

    def __init__(self, batches: Iterator[Batch]):
        self._batches = batches

    def __iter__(self) -> "OwnBatches":
        return self

    def __next__(self) -> Batch:
        """Returns the next batch."""
        return next(self._batches)

    def end(self) -> None:
        """Does nothing: nobody else waits."""


class SharedBatches:
    """The batches of this process, with the steps, frames and games of all processes.

        process 0   batch ─┐ sum ─▶ update ─▶ batch ─┐ sum ─▶ update ─▶ end ─┐
        process 1   batch ─┘     ─▶ update ─▶ batch ─┘     ─▶ update ─▶ batch ┴─▶ StopIteration

    One small exchange a batch, between the collectives of the updates and in the same order
    everywhere. Who calls `end` must be the same process for the whole run: the first.
    """

    def __init__(self, batches: Iterator[Batch], max_games: int):
        self._batches, self._max_games = batches, max_games

    def __iter__(self) -> "SharedBatches":
        return self

    def __next__(self) -> Batch:
        """Returns the next batch; raises StopIteration if the first process has called `end`."""
        batch = next(self._batches)
        everybody = self._exchange([0, batch.num_steps, batch.num_frames], batch.episodes)
        if everybody[:, 0, 0].any():
            raise StopIteration
        games = everybody[:, 1:].reshape(-1, 3)
        return batch._replace(
            num_steps=int(everybody[:, 0, 1].sum()),
            num_frames=int(everybody[:, 0, 2].sum()),
            episodes=[
                Episode(float(r), int(steps), int(frames))
                for r, steps, frames in games
                if steps > 0
            ],
        )

    def end(self) -> None:
        """Takes part in the exchange that the other processes wait in, and ends them."""
        self._exchange([1, 0, 0], [])

    def _exchange(self, counts: list[int], episodes: list[Episode]) -> np.ndarray:
        """Returns [processes, 1 + games, 3]: counts, then the games with rows of zeros after
        them.
        """
        table = np.zeros((1 + self._max_games, 3), np.float32)
        table[0] = counts
        for row, episode in enumerate(episodes, 1):
            table[row] = episode
        return np.asarray(multihost_utils.process_allgather(table))


def make_batches(batches: Iterator[Batch], max_games: int) -> OwnBatches | SharedBatches:
    """Returns `batches` as this process has to see them, alone or one of several.

    Args:
      batches: of this process.
      max_games: that can end in one of them: the size of what is exchanged must be known.
    """
    return OwnBatches(batches) if jax.process_count() == 1 else SharedBatches(batches, max_games)


def is_first_process() -> bool:
    """Returns whether this process writes what a run leaves behind, and decides when it ends."""
    return jax.process_index() == 0
