"""The checkpoints of a run: the latest few, the best and those to keep, written beside the
training.

    save      host copy ─▶ worker thread: write the new slot, then delete those beyond `max_to_keep`
    restore   newest slot ─▶ complete? hashes right? ─ yes ─▶ same run? structure, dtypes ─▶ state
                                └ no: a warning, next older slot

A kill at any moment leaves the older slots untouched.  A slot is named after its step; in `best/`,
which holds the best by evaluation, it has a running number, since a resumed run may come by the
same step again.

One thread of ours around Orbax's plain Checkpointer, not its CheckpointManager: that one deletes
old checkpoints before a manifest can exist, answers a step it will not write with False, and raises
a failed write once in every thread that waits.
"""

import concurrent.futures
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np

from learner.records.checkpoint_files import (
    Checkpoint,
    CheckpointError,
    CheckpointMismatch,
    CheckpointWriteError,
    CorruptCheckpoint,
    complete_slots,
    fit,
    newest_valid,
    read,
    read_header,
    slots,
    write,
)

__all__ = [
    "Checkpoint",
    "CheckpointError",
    "CheckpointMismatch",
    "CheckpointWriteError",
    "Checkpointer",
    "CorruptCheckpoint",
    "restore_params",
]


class Checkpointer:
    """Writes and reads the learner states of one run. One process writes, any number may read.

    Args:
        directory: of the checkpoints; nothing in it is touched before the first save.
        max_to_keep: latest checkpoints kept, at least 1; the best is kept besides.
        abstract_state: pytree of jax.ShapeDtypeStruct that every restored state must equal, or None
          for
            states as nested dicts and lists, unchecked.
        check_metadata: called with the metadata of a checkpoint before its state is looked at;
          raises
            CheckpointMismatch if it is of another run.
    """

    def __init__(
        self,
        directory: str | Path,
        *,
        max_to_keep: int,
        abstract_state: Any,
        check_metadata: Callable[[dict], None] = lambda metadata: None,
    ):
        if max_to_keep < 1:
            raise ValueError(f"max_to_keep is {max_to_keep}; at least 1 is needed to resume from")
        self._directory = Path(directory).absolute()
        self._best = self._directory / "best"
        self._max_to_keep = max_to_keep
        self._abstract_state = abstract_state
        self._check_metadata = check_metadata
        self._worker = concurrent.futures.ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._pending: concurrent.futures.Future | None = None
        self._skipped: list[int] = []

    def save(
        self,
        step: int,
        state: Any,
        metadata: dict,
        *,
        arrays: Mapping[str, np.ndarray] | None = None,
        keep: bool = False,
        wait: bool = False,
    ) -> None:
        """Starts writing a checkpoint, after the write before it has ended: one host copy at a
        time.

        Args:
            step: number of updates, larger than that of every checkpoint there.
            state: pytree of arrays, replicated if on several devices, none of zero size; copied to
              the host
                before this returns, so that its buffers may be donated.
            metadata: JSON dict, counters and such.
            arrays: what else comes back with the state, NumPy arrays of any size; the caller's no
              more.
            keep: whether it is kept whatever comes after it.
            wait: return only when the checkpoint counts.

        Raises CheckpointWriteError if an earlier write failed (this one is then not started),
        CheckpointError if the step is not new.
        """
        newest = max(self.steps(), default=-1)
        if step <= newest:
            raise CheckpointError(
                f"step {step} is not newer than checkpoint {newest} in {self._directory}"
            )
        doomed, self._skipped = [self._directory / str(slot) for slot in self._skipped], []
        self._start(
            self._directory / str(int(step)),
            self._on_host(step, state, metadata, arrays or {}),
            max_to_keep=self._max_to_keep,
            keep=keep,
            doomed=doomed,
        )
        if wait:
            self._finish()

    def save_best(self, step: int, state: Any, metadata: dict, *, wait: bool = False) -> None:
        """Like `save`, any step, in place of the best checkpoint so far, which goes once the new
        one counts.
        """
        self._finish()
        slot = max(slots(self._best), default=-1) + 1
        checkpoint = self._on_host(step, state, metadata, {})
        self._start(self._best / str(slot), checkpoint, max_to_keep=1, keep=False, doomed=[])
        if wait:
            self._finish()

    def check(self) -> None:
        """Raises CheckpointWriteError if the pending write has failed; does not wait for it."""
        if self._pending is not None and self._pending.done():
            self._finish()

    def restore(self, step: int | None = None) -> Checkpoint:
        """Returns the checkpoint of `step`, or the newest valid one, with a warning for every one
        skipped.

        What was skipped is deleted by the next save, which may be of an older step.
        Raises CheckpointError if there is none, CheckpointMismatch if it does not fit
        `abstract_state`.
        """
        self._finish()
        if step is not None:
            return self._read(self._directory / str(step))
        checkpoint, self._skipped = newest_valid(self._directory, self._read)
        return checkpoint

    def best_metadata(self) -> dict | None:
        """Returns the metadata of the best checkpoint, None if there is no valid one; reads no
        weights.
        """
        self._finish()

        def header(path):
            return Checkpoint(0, None, read_header(path)["metadata"])

        try:
            return (
                newest_valid(self._best, header)[0].metadata if complete_slots(self._best) else None
            )
        except CheckpointError:  # every one of them is corrupt, and each has been warned of
            return None

    def steps(self) -> list[int]:
        """Returns the steps of the complete checkpoints, ascending, without those that `restore`
        has skipped.

        Waits for a pending write.
        """
        self._finish()
        return [slot for slot in complete_slots(self._directory) if slot not in self._skipped]

    def latest(self) -> int | None:
        """Returns the last of `steps()`, None if there is none."""
        return max(self.steps(), default=None)

    def close(self) -> None:
        """Waits for the pending write. Raises CheckpointWriteError if it failed."""
        try:
            self._finish()
        finally:
            self._worker.shutdown()

    def _on_host(
        self, step: int, state: Any, metadata: dict, arrays: Mapping[str, np.ndarray]
    ) -> Checkpoint:
        host_state = jax.tree.map(lambda leaf: np.array(leaf, copy=True), state)
        return Checkpoint(int(step), host_state, json.loads(json.dumps(metadata)), dict(arrays))

    def _start(self, path: Path, checkpoint: Checkpoint, **kwargs: Any) -> None:
        self._pending = self._worker.submit(write, path, checkpoint, **kwargs)

    def _finish(self) -> None:
        pending, self._pending = self._pending, None
        try:
            if pending is not None:
                pending.result()
        except Exception as error:
            message = f"the last checkpoint in {self._directory} was not written: {error}"
            raise CheckpointWriteError(" ".join(message.split())) from error

    def _read(self, path: Path) -> Checkpoint:
        checkpoint = read(path, check_metadata=self._check_metadata)
        if self._abstract_state is None:
            return checkpoint
        return checkpoint._replace(state=fit(checkpoint.state, self._abstract_state, path))


def restore_params(
    directory: str | Path,
    which: int | Literal["latest", "best"],
    *,
    fields: Sequence[str] | None = None,
) -> Checkpoint:
    """Returns a checkpoint with its state as nested dicts and lists of NumPy arrays, for inference.

    Args:
        directory: as given to `Checkpointer`; only read, so a run may be training in it.
        which: a step, the newest valid one, or the best by evaluation.
        fields: top-level fields of the state to load; None for all.

    Raises CheckpointError if there is none, CheckpointMismatch for a field the state does not have.
    """
    directory = Path(directory).absolute()
    folders = {"latest": directory, "best": directory / "best"}
    if which not in folders:
        return read(directory / str(which), fields)
    return newest_valid(folders[which], lambda path: read(path, fields))[0]
