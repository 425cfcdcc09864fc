"""The first principal components of more vectors than fit into memory: randomised, streaming over
blocks of them.
"""

from collections.abc import Callable, Iterable

import numpy as np


def principal_components(
    blocks: Callable[[], Iterable[np.ndarray]],
    num_components: int = 2,
    *,
    oversample: int = 14,
    num_passes: int = 8,
) -> tuple[np.ndarray, np.ndarray]:
    """Returns (mean [D], components [num_components, D]) of the rows of all blocks, largest
    variance first.

    Subspace iteration: the more passes, the nearer to the exact components; the signs are
    arbitrary.

    Args:
      blocks: gives an iteration over arrays [n, D], the same at every call.
      num_components: at most D.
      oversample: further directions that are carried along and dropped at the end.
      num_passes: over all blocks, after the one for the mean.
    """
    count, total = 0, 0.0
    for block in blocks():
        count, total = count + len(block), total + block.sum(axis=0, dtype=np.float64)
    mean = total / count
    width = min(num_components + oversample, len(mean))
    basis = np.linalg.qr(np.random.default_rng(0).normal(size=(len(mean), width)))[0]
    for _ in range(num_passes):
        image = sum((block - mean).T @ ((block - mean) @ basis) for block in blocks())
        basis, triangle = np.linalg.qr(image)
    # After convergence the basis is ordered by the power of the iteration; a small SVD orders it by
    # variance.
    left, _, _ = np.linalg.svd(triangle)
    return mean, (basis @ left[:, :num_components]).T


def diameter(points: np.ndarray) -> float:
    """Returns the largest distance between two of `points` [n, D]."""
    square = np.sum(np.square(points), axis=1)
    apart = square[:, None] + square - 2 * points @ points.T
    return float(np.sqrt(max(apart.max(), 0.0)))
