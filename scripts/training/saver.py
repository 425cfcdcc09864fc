"""What a session keeps of itself: which checkpoints, with what metadata, and from which run they
may come.
"""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from configs.schema import Config
from configs.serialise import differences, from_dict, to_dict
from learner.loop import Counters
from learner.records.arrays import write_arrays
from learner.records.checkpoint import Checkpoint, Checkpointer, CheckpointMismatch
from learner.records.run_directory import RunDirectory
from learner.state import LearnerState
from muzero.types import Trajectory

_MAY_DIFFER = ("stop", "log")  # a resume may move the end, and what is logged changes no number


class Saver:
    """The checkpoints of one run, as its session sees them.

    Args:
      config: of the run; stored with every checkpoint and compared when one is restored.
      directory: of the run.
      abstract_state: shapes and dtypes that a restored learner state must have.
    """

    def __init__(self, config: Config, directory: RunDirectory, abstract_state: Any):
        self._config, self._directory = config, directory
        self._num_saved = 0
        self._checkpointer = Checkpointer(
            directory.checkpoints,
            max_to_keep=config.log.checkpoints_kept,
            abstract_state=abstract_state,
            check_metadata=self._require_same_run,
        )
        self._best = (self._checkpointer.best_metadata() or {}).get("score")

    def restore(self) -> tuple[Checkpoint, Counters]:
        """Returns the newest valid checkpoint and its counters.

        Raises CheckpointError if none fits this run.
        """
        checkpoint = self._checkpointer.restore()
        self._num_saved = checkpoint.metadata.get("num_saved", 0)
        return checkpoint, Counters(**checkpoint.metadata["counters"])

    def save(
        self, state: LearnerState, counters: Counters, actor_states: Mapping[str, np.ndarray]
    ) -> None:
        """Starts to write the states of learner and actors. Raises like `Checkpointer.save`."""
        self._num_saved += 1
        every = self._config.log.checkpoint_keep_every
        keep = every is not None and self._num_saved % every == 0
        metadata = self._metadata(counters)
        self._checkpointer.save(
            counters.num_updates, state, metadata, arrays=actor_states, keep=keep
        )

    def save_if_best(self, state: LearnerState, counters: Counters, score: float) -> None:
        """Keeps the state as the best if `score` is; the score lives and dies with its
        checkpoint.
        """
        if self._best is None or score > self._best:
            self._best = score
            metadata = self._metadata(counters) | {"score": score}
            self._checkpointer.save_best(counters.num_updates, state, metadata)

    def save_evidence(self, batch: Trajectory, counters: Counters) -> None:
        """Writes the batch on which no update could be made, or this process's share, to
        `nonfinite-<updates>.npz`.

        Where it cannot be written that is said: why the run ends is worth more than the batch.
        """
        path = self._directory.path / f"nonfinite-{counters.num_updates:09d}.npz"
        try:
            write_arrays(path, {name: _rows_here(array) for name, array in batch._asdict().items()})
        except OSError as error:
            print(f"the batch is lost: {path} cannot be written: {error}", flush=True)
        else:
            print(f"the batch is in {path}", flush=True)

    def has(self, num_updates: int) -> bool:
        """Returns whether the newest checkpoint is of that many updates."""
        return self._checkpointer.latest() == num_updates

    def check(self) -> None:
        """Raises CheckpointWriteError if a write has failed since the last call; does not wait."""
        self._checkpointer.check()

    def close(self) -> None:
        """Waits for the last write. Raises CheckpointWriteError if it failed."""
        self._checkpointer.close()

    def _metadata(self, counters: Counters) -> dict:
        return {
            "counters": counters._asdict(),
            "config": to_dict(self._config),
            "num_saved": self._num_saved,
        }

    def _require_same_run(self, metadata: dict) -> None:
        """Raises CheckpointMismatch if a checkpoint was made with other settings; format 1 did not
        tell.
        """
        stored = from_dict(metadata["config"]) if "config" in metadata else self._config
        changed = differences(_lasting(stored), _lasting(self._config))
        if changed:
            raise CheckpointMismatch(
                f"{self._directory.checkpoints}: stored by another run: {'; '.join(changed)}"
            )


def _lasting(config: Config) -> dict:
    """Returns the settings that cannot change while a run lasts."""
    return {name: value for name, value in to_dict(config).items() if name not in _MAY_DIFFER}


class NoSaver:
    """The checkpoints of a process that is not the first of its group: none."""

    def save(
        self, state: LearnerState, counters: Counters, actor_states: Mapping[str, np.ndarray]
    ) -> None:
        """Does nothing."""

    def save_if_best(self, state: LearnerState, counters: Counters, score: float) -> None:
        """Does nothing."""

    def save_evidence(self, batch: Trajectory, counters: Counters) -> None:
        """Does nothing."""

    def has(self, num_updates: int) -> bool:
        """Returns that nothing is to be saved."""
        return True

    def check(self) -> None:
        """Does nothing."""

    def close(self) -> None:
        """Does nothing."""


def _rows_here(array: Any) -> np.ndarray:
    """Returns the rows [B, ...] that this process holds: all of them unless there are others."""
    if not isinstance(array, jax.Array) or array.is_fully_addressable:
        return np.asarray(array)
    shards = {shard.index[0].start or 0: shard.data for shard in array.addressable_shards}
    return np.concatenate([np.asarray(shards[first]) for first in sorted(shards)])
