"""What a run is, as SHA-256 sums: two runs that have the same are the same, bit for bit."""

import hashlib
from collections.abc import Iterable
from pathlib import Path

import jax
import numpy as np

from learner.records.checkpoint import restore_params


def run_digests(path: str | Path, which: int | str = "latest") -> dict[str, str]:
    """Returns the SHA-256 of every part of a checkpoint: of the learner's state, and of the actors'
    side.

    Args:
      path: of the run.
      which: a number of updates, or "latest".

    Returns:
      hex digests of `params`, `search_average`, `target_average`, `optimiser_state`,
      `value_buffer`, `num_updates`, `environments` (emulators, generators, histories, unfinished
      sequences) and `counters` (seconds left out).
    """
    checkpoint = restore_params(Path(path) / "checkpoints", which)
    parts = {name: _named_leaves(tree) for name, tree in checkpoint.state.items()}
    parts["environments"] = sorted(checkpoint.arrays.items(), key=lambda pair: pair[0])
    counters = checkpoint.metadata["counters"]
    parts["counters"] = [
        (name, np.array(counters[name])) for name in sorted(counters.keys() - {"seconds"})
    ]
    return {name: _digest(arrays) for name, arrays in parts.items()}


def _named_leaves(tree) -> list[tuple[str, np.ndarray]]:
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return sorted(
        ((jax.tree_util.keystr(keys), np.asarray(leaf)) for keys, leaf in leaves),
        key=lambda pair: pair[0],
    )


def _digest(arrays: Iterable[tuple[str, np.ndarray]]) -> str:
    total = hashlib.sha256()
    for name, array in arrays:
        total.update(f"{name} {array.dtype} {array.shape}\n".encode())
        total.update(np.ascontiguousarray(array).tobytes())
    return total.hexdigest()
