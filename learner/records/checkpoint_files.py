"""One checkpoint on disk: written whole, hashed, verified, compared with what is expected.

A slot is a directory with a number for a name:

    <slot>.orbax-checkpoint-tmp/   Orbax is writing, or was killed
    <slot>/                        renamed when Orbax was done: still incomplete
    <slot>/arrays.npz              the actors' side, if any
    <slot>/keep                    a mark that the slot is never deleted for its age
    <slot>/manifest.json           SHA-256 of every file: from here on the checkpoint counts

Orbax alone loads a flipped byte as a wrong weight and casts a differing dtype.  This is the only
module that knows it.  Nothing read here is executed: arrays and JSON only, and no file beyond those
of the slot.
"""

import hashlib
import json
import logging
import shutil
import zipfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import jax
import numpy as np
import orbax.checkpoint as ocp

from learner.records.arrays import read_arrays, write_arrays
from learner.records.run_directory import write_atomically

FORMAT_VERSION = 2  # 1 had no arrays; it is read all the same
_MANIFEST, _ARRAYS, _KEEP = "manifest.json", "arrays.npz", "keep"
_MAX_DIFFERENCES_SHOWN = 3

_logger = logging.getLogger(__name__)


class CheckpointError(RuntimeError):
    """A checkpoint cannot be written or read. The message names the directory and the reason."""


class CorruptCheckpoint(CheckpointError):
    """A checkpoint is incomplete or its bytes are not those that were written."""


class CheckpointWriteError(CheckpointError):
    """A checkpoint could not be written: no space, no permission, no such disk."""


class CheckpointMismatch(CheckpointError):
    """A checkpoint is intact but not what is asked for; the message lists the differing leaves."""


class Checkpoint(NamedTuple):
    """What a restore returns."""

    step: int
    state: Any  # NumPy leaves: the caller places them on its devices
    metadata: dict  # as given to `save`
    arrays: dict[str, np.ndarray] = {}  # what is not the learner's: the actors' states


def _make_orbax() -> ocp.Checkpointer:
    # The calling process is on its own: on several hosts one writes the replicated state, without
    # barriers.
    me = jax.process_index()
    alone = ocp.options.MultiprocessingOptions(
        primary_host=me, active_processes={me}, barrier_sync_key_prefix=f"process{me}"
    )
    handler = ocp.CompositeCheckpointHandler(
        composite_options=ocp.CompositeOptions(multiprocessing_options=alone),
        state=ocp.PyTreeCheckpointHandler(multiprocessing_options=alone),
        header=ocp.JsonCheckpointHandler(multiprocessing_options=alone),
    )
    return ocp.Checkpointer(handler, multiprocessing_options=alone)


def slots(directory: Path) -> list[int]:
    """Returns the numbers of all slots in `directory`, complete or not, ascending; none if it does
    not exist.
    """
    return sorted(int(path.name) for path in directory.glob("*") if path.name.isdigit())


def complete_slots(directory: Path) -> list[int]:
    """Returns the numbers of the slots that have a manifest, ascending; their bytes are not looked
    at.
    """
    return [slot for slot in slots(directory) if (directory / str(slot) / _MANIFEST).is_file()]


def write(
    path: Path, checkpoint: Checkpoint, *, max_to_keep: int, keep: bool, doomed: Iterable[Path]
) -> None:
    """Writes a new slot, then deletes what is no longer wanted beside it.

    Args:
        path: of the slot, absolute.
        checkpoint: its state has NumPy leaves, none of zero size.
        max_to_keep: newest complete slots kept, this one included.
        keep: whether this one is kept whatever comes after it.
        doomed: slots deleted first, as are the remains of killed writes.

    Raises whatever the file system or Orbax does; the slot is then incomplete.
    """
    directory = path.parent
    directory.mkdir(parents=True, exist_ok=True)
    header = {
        "format_version": FORMAT_VERSION,
        "step": checkpoint.step,
        "metadata": checkpoint.metadata,
    }
    items = ocp.args.Composite(
        state=ocp.args.PyTreeSave(checkpoint.state), header=ocp.args.JsonSave(header)
    )
    incomplete = [
        directory / str(slot) for slot in set(slots(directory)) - set(complete_slots(directory))
    ]
    for leftover in {*doomed, *incomplete, *directory.glob("*.orbax-checkpoint-tmp")}:
        _remove(leftover)
    with _make_orbax() as orbax:
        orbax.save(path, args=items)
    if checkpoint.arrays:
        write_arrays(path / _ARRAYS, checkpoint.arrays)
    if keep:
        (path / _KEEP).touch()
    _write_manifest(path)
    for slot in complete_slots(directory)[:-max_to_keep]:
        if not (directory / str(slot) / _KEEP).exists():
            _remove(directory / str(slot))


def _remove(path: Path) -> None:
    # first: killed half-way, it is incomplete, not corrupt
    (path / _MANIFEST).unlink(missing_ok=True)
    shutil.rmtree(path)


def _write_manifest(path: Path) -> None:
    files = sorted(file for file in path.rglob("*") if file.is_file())
    hashes = {file.relative_to(path).as_posix(): _sha256(file) for file in files}
    write_atomically(path / _MANIFEST, json.dumps({"files": hashes}, indent=1) + "\n")


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _verify(path: Path) -> None:
    try:
        hashes = dict(json.loads((path / _MANIFEST).read_text(encoding="utf-8"))["files"])
        _require_own_files(path, hashes)
        changed = [name for name, expected in hashes.items() if _sha256(path / name) != expected]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CorruptCheckpoint(f"{path}: {error!r}") from error
    if changed:
        raise CorruptCheckpoint(
            f"{path}: the SHA-256 of {', '.join(changed)} is not that of the manifest"
        )


def _require_own_files(path: Path, names: Iterable[str]) -> None:
    """Raises CorruptCheckpoint unless the slot holds the files `names` and no others, none of them
    elsewhere.
    """
    outside = [
        name
        for name in names
        if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts
    ]
    links = [str(entry) for entry in (path, *path.rglob("*")) if entry.is_symlink()]
    if outside or links:
        raise CorruptCheckpoint(
            f"{path}: leads out of its directory: {', '.join([*outside, *links])}"
        )
    found = {file.relative_to(path).as_posix() for file in path.rglob("*") if file.is_file()} - {
        _MANIFEST
    }
    if found != set(names):
        raise CorruptCheckpoint(
            f"{path}: missing or foreign files: {', '.join(sorted(found ^ set(names)))}"
        )


def arrays_bytes(path: Path) -> int:
    """Returns what the arrays of a slot, of actors and replay, take on the disk;
    0 if it has none.
    """
    return (path / _ARRAYS).stat().st_size if (path / _ARRAYS).is_file() else 0


def newest_valid(
    directory: Path, read: Callable[[Path], Checkpoint]
) -> tuple[Checkpoint, list[int]]:
    """Returns the newest checkpoint that `read` does not find corrupt, and the slots it did find
    so.

    Each of those is logged as a warning. Raises CheckpointError if there is no valid one.
    """
    skipped = []
    for slot in reversed(slots(directory)):
        try:
            return read(directory / str(slot)), skipped
        except CorruptCheckpoint as error:
            _logger.warning("CHECKPOINT %d IS SKIPPED, an older one is tried: %s", slot, error)
            skipped.append(slot)
    if not skipped:
        raise CheckpointError(f"no valid checkpoint in {directory}: none has been written yet")
    raise CheckpointError(f"no valid checkpoint in {directory}; corrupt or incomplete: {skipped}")


def read(
    path: Path,
    fields: Sequence[str] | None = None,
    check_metadata: Callable[[dict], None] = lambda metadata: None,
) -> Checkpoint:
    """Returns a verified slot, its state as nested dicts and lists of NumPy arrays.

    Args:
        path: of the slot, absolute.
        fields: top-level fields of the state to load; None for all. The hashes of all files are
          checked anyway.
        check_metadata: called with the metadata before anything of the state is read; what it
          raises passes through.

    Raises CorruptCheckpoint, or CheckpointError if there is no such slot, or CheckpointMismatch if
    it is of another format or lacks a field.
    """
    header = read_header(path)
    check_metadata(header["metadata"])
    with _make_orbax() as orbax:
        args = ocp.args.PyTreeRestore() if fields is None else _partial_restore(orbax, path, fields)
        state = orbax.restore(path, args=ocp.args.Composite(state=args)).state
    return Checkpoint(header["step"], state, header["metadata"], _read_arrays(path))


def read_header(path: Path) -> dict:
    """Returns `step` and `metadata` of a verified slot; raises like `read`."""
    if not path.is_dir():
        raise CheckpointError(
            f"no checkpoint {path.name} in {path.parent}; there are {complete_slots(path.parent)}"
        )
    _verify(path)
    with _make_orbax() as orbax:
        header = orbax.restore(path, args=ocp.args.Composite(header=ocp.args.JsonRestore())).header
    if not 1 <= header["format_version"] <= FORMAT_VERSION:
        raise CheckpointMismatch(
            f"{path}: format {header['format_version']}, this program reads formats 1 to "
            f"{FORMAT_VERSION}"
        )
    return header


def _read_arrays(path: Path) -> dict[str, np.ndarray]:
    try:
        return read_arrays(path / _ARRAYS) if (path / _ARRAYS).exists() else {}
    except (
        ValueError,
        zipfile.BadZipFile,
    ) as error:  # the former: Python objects, which only pickle can read
        raise CorruptCheckpoint(f"{path / _ARRAYS}: {error}") from error


def _partial_restore(
    orbax: ocp.Checkpointer, path: Path, fields: Sequence[str]
) -> ocp.args.PyTreeRestore:
    tree = orbax.metadata(path).item_metadata["state"].tree
    missing = [name for name in fields if name not in tree]
    if missing:
        raise CheckpointMismatch(
            f"{path}: no field {', '.join(missing)} in the state; there are {', '.join(tree)}"
        )
    return ocp.args.PyTreeRestore(item={name: tree[name] for name in fields}, partial_restore=True)


def fit(state: Any, abstract_state: Any, path: Path) -> Any:
    """Returns the leaves of `state` in the structure of `abstract_state`; raises unless they are
    the very same.
    """
    found, expected = _leaves(state), _leaves(abstract_state)
    pairs = {name: (_kind(found.get(name)), _kind(expected.get(name))) for name in found | expected}
    differences = [
        f"{'/'.join(name)}: {a} stored, {b} expected" for name, (a, b) in pairs.items() if a != b
    ]
    if differences:
        shown = "; ".join(sorted(differences)[:_MAX_DIFFERENCES_SHOWN])
        raise CheckpointMismatch(
            f"{path}: {len(differences)} leaves differ from the state of this run: {shown}. If "
            f"another version of this "
            "program wrote it, go on with that one (commit in provenance.json), or start a new run "
            "with --init-from"
        )
    return jax.tree.unflatten(
        jax.tree.structure(abstract_state), [found[name] for name in expected]
    )


def _leaves(tree: Any) -> dict[tuple[str, ...], Any]:
    # Orbax gives NamedTuples back as dicts and tuples as lists: only the names along the way are
    # comparable.
    pairs = jax.tree_util.tree_flatten_with_path(tree)[0]
    return {
        tuple(jax.tree_util.keystr((key,), simple=True) for key in keys): leaf
        for keys, leaf in pairs
    }


def _kind(leaf: Any) -> str:
    return "nothing" if leaf is None else f"{np.dtype(leaf.dtype).name}{list(leaf.shape)}"
