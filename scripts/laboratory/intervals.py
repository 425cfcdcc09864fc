"""Means with confidence intervals over seeds."""

import math
from collections.abc import Iterable, Sequence

import numpy as np
import scipy.stats

from scripts.laboratory.experiment import Row


def mean_and_interval(values: Sequence[float]) -> tuple[float, float]:
    """Returns the mean and the half-width of its 95 % interval (Student's t); NaN for fewer than
    two values.
    """
    values = np.asarray(values, float)
    if len(values) < 2:
        return float(values.mean()), math.nan
    width = scipy.stats.t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / math.sqrt(len(values))
    return float(values.mean()), float(width)


def grouped(rows: Iterable[Row], *keys: str) -> dict[tuple, list[Row]]:
    """Returns the rows by their cells under `keys`, in order of first appearance."""
    groups: dict[tuple, list[Row]] = {}
    for row in rows:
        groups.setdefault(tuple(row[key] for key in keys), []).append(row)
    return groups
