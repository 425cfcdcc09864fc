"""Arms against each other: rliable and scipy on the scores of a results file, nothing of our own in between.

What needs the score of every seed is None where the file has means only, or not the same number of seeds
for every game.
"""

import importlib.util
import sys
from collections.abc import Callable, Iterable
from typing import NamedTuple

import numpy as np
from scipy.stats import t, wilcoxon

from actors.scores import scale, standard_error
from scripts.experiments.results import Row

NUM_STANDARD_ERRORS = 5.0  # by which the baseline has to beat the random policy for a game to count
_SEED = 0  # of the bootstrap


class Cell(NamedTuple):
    """The scores of one arm on one game."""

    mean: float
    standard_error: float | None  # over seeds
    seeds: dict[int, float] | None  # score by seed; None where the file has only the mean


class Estimate(NamedTuple):
    """A number with its 95 % interval, None where there are no scores of single seeds."""

    value: float
    interval: tuple[float, float] | None


class SignedRank(NamedTuple):
    """Wilcoxon's signed-rank test over games, two-sided."""

    num_games: int
    statistic: float
    p_value: float
    smallest_p: float  # if every difference that is not zero had the same sign


def cells(rows: Iterable[Row], kind: str) -> dict[tuple[str, str], Cell]:
    """Returns the scores of `kind` by (game, arm); trials without a finished game are left out."""
    grouped: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        if row.kind == kind and row.score is not None:
            grouped.setdefault((row.game, row.arm), []).append(row)
    return {key: _cell(group) for key, group in grouped.items()}


def _cell(rows: list[Row]) -> Cell:
    if rows[0].seed is None:
        return Cell(rows[0].score, rows[0].standard_error, None)
    scores = np.array([row.score for row in rows])
    return Cell(float(np.mean(scores)), standard_error(scores), {row.seed: row.score for row in rows})


def errors_above_random(cell: Cell | None, random: Cell | None) -> float | None:
    """Returns by how many standard errors of their difference `cell` lies above `random`; None without either."""
    if random is None or cell is None or cell.standard_error is None or random.standard_error is None:
        return None
    difference, error = cell.mean - random.mean, np.hypot(cell.standard_error, random.standard_error)
    return float(difference / error) if error > 0 else float(np.inf * difference if difference else 0.0)


def beats_random(cell: Cell | None, random: Cell | None) -> bool | None:
    """Returns whether `cell` lies 5 standard errors above the random policy, None without the scores of both."""
    above = errors_above_random(cell, random)
    return None if above is None else above > NUM_STANDARD_ERRORS


def normalised(game: str, score: float | None) -> float | None:
    """Returns `score` on the normalised axis of `game`, None if it has none."""
    axis = scale(game)
    return None if axis is None or score is None else axis.normalise(score)


def raw_matrix(scores: dict[tuple[str, str], Cell], arm: str, games: list[str]) -> np.ndarray | None:
    """Returns the raw scores of `arm` [seeds, games], None without the same number of seeds for every game."""
    columns = [scores[game, arm].seeds for game in games]
    if not games or any(column is None for column in columns) or len({len(column) for column in columns}) != 1:
        return None
    return np.array([list(column.values()) for column in columns]).T


def matrix(scores: dict[tuple[str, str], Cell], arm: str, games: list[str]) -> np.ndarray | None:
    """Returns the normalised scores of `arm` [seeds, games], None without the same number of seeds for every game."""
    raw = raw_matrix(scores, arm, games)
    return (
        None if raw is None else np.array([[normalised(*pair) for pair in zip(games, row, strict=True)] for row in raw])
    )


def means(scores: dict[tuple[str, str], Cell], arm: str, games: list[str]) -> np.ndarray:
    """Returns the normalised mean scores of `arm` as one run [1, games]."""
    return np.array([[normalised(game, scores[game, arm].mean) for game in games]])


AGGREGATES = ("mean", "median", "interquartile mean")  # over games, of the normalised score


def _aggregates() -> dict[str, Callable[[np.ndarray], float]]:
    """Returns rliable's aggregates of scores [seeds, games] by name."""
    _, metrics = _rliable()
    functions = (metrics.aggregate_mean, metrics.aggregate_median, metrics.aggregate_iqm)
    return dict(zip(AGGREGATES, functions, strict=True))


def aggregate(runs: np.ndarray | None, mean: np.ndarray, resamples: int) -> dict[str, Estimate]:
    """Returns mean, median and interquartile mean over games with stratified-bootstrap intervals.

    Args:
      runs: [seeds, games], or None; the interquartile mean is then that of the games' means.
      mean: [1, games], the means over seeds.
      resamples: of the bootstrap.
    """
    functions = _aggregates()
    compute = lambda x: np.array([function(x) for function in functions.values()])
    if runs is None or len(runs) < 2:
        return {name: Estimate(float(value), None) for name, value in zip(functions, compute(mean), strict=True)}
    return _named(functions, *_estimates(runs, compute, resamples))


def difference(
    runs: np.ndarray | None, baseline: np.ndarray | None, means: tuple[np.ndarray, np.ndarray], resamples: int
) -> dict[str, Estimate]:
    """Returns the aggregates of an arm minus those of the baseline; the seeds of both are resampled within games.

    Args:
      runs: of the arm [seeds, games], or None.
      baseline: of the baseline, likewise.
      means: of arm and baseline, [1, games] each; what is compared, without intervals, where there are no seeds.
      resamples: of the bootstrap.
    """
    functions = _aggregates()
    compute = lambda x, y: np.array([function(x) - function(y) for function in functions.values()])
    if runs is None or baseline is None or min(len(runs), len(baseline)) < 2:
        return {name: Estimate(float(value), None) for name, value in zip(functions, compute(*means), strict=True)}
    return _named(functions, *_estimates([runs, baseline], compute, resamples))


def mean_difference(runs: np.ndarray, baseline: np.ndarray, resamples: int) -> Estimate:
    """Returns the mean over seeds and games of `runs` [seeds, games] minus that of `baseline`, with its interval."""
    means = float(np.mean(runs)), float(np.mean(baseline))
    if min(len(runs), len(baseline)) < 2:
        return Estimate(means[0] - means[1], None)
    compute = lambda x, y: np.array([np.mean(x) - np.mean(y)])
    values, bounds = _estimates([runs, baseline], compute, resamples)
    return Estimate(float(values[0]), (float(bounds[0, 0]), float(bounds[1, 0])))


def welch(scores: list[np.ndarray], baseline: list[np.ndarray]) -> Estimate | None:
    """Returns the mean over games of the difference of two arms' means, with its t interval over independent seeds.

    Degrees of freedom are those of Welch and Satterthwaite; for one game it is Welch's interval. None with fewer than
    two seeds anywhere, or where no seed differs from another.

    Args:
      scores: of the arm, [seeds] a game.
      baseline: likewise; seeds need not be as many.
    """
    groups = [*scores, *baseline]
    if not groups or min(map(len, groups)) < 2:
        return None
    variances = np.array([np.var(group, ddof=1) / len(group) for group in groups])
    if not variances.any():
        return None
    freedom = variances.sum() ** 2 / np.sum(variances**2 / np.array([len(group) - 1 for group in groups]))
    value = float(np.mean([np.mean(x) - np.mean(y) for x, y in zip(scores, baseline, strict=True)]))
    half = float(t.ppf(0.975, freedom) * np.sqrt(variances.sum()) / len(scores))
    return Estimate(value, (value - half, value + half))


def probability_of_improvement(runs: np.ndarray | None, baseline: np.ndarray | None, resamples: int) -> Estimate | None:
    """Returns the probability that a run scores above one of `baseline`, mean over games; None without seeds."""
    if runs is None or baseline is None or min(len(runs), len(baseline)) < 2:
        return None
    _, metrics = _rliable()
    values, bounds = _estimates([runs, baseline], metrics.probability_of_improvement, resamples)
    return Estimate(float(values), (float(bounds[0, 0]), float(bounds[1, 0])))


def profile(runs: np.ndarray, thresholds: np.ndarray, resamples: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns the fraction of runs above each threshold [thresholds] and its 95 % band [2, thresholds]."""
    library, _ = _rliable()
    np.random.seed(_SEED)
    values, bands = library.create_performance_profile({"arm": runs}, thresholds, reps=resamples)
    return values["arm"], bands["arm"]


def wilcoxon_test(scores: np.ndarray, baseline: np.ndarray) -> SignedRank | None:
    """Returns the test of paired scores [games], None where no two of them differ."""
    num_different = np.count_nonzero(scores != baseline)
    if num_different == 0:
        return None
    found = wilcoxon(scores, baseline, zero_method="wilcox", alternative="two-sided")
    smallest = wilcoxon(np.arange(1, num_different + 1), zero_method="wilcox", alternative="two-sided")
    return SignedRank(len(scores), float(found.statistic), float(found.pvalue), float(smallest.pvalue))


def _named(names: Iterable[str], values: np.ndarray, bounds: np.ndarray) -> dict[str, Estimate]:
    found = zip(names, values, bounds.T, strict=True)
    return {name: Estimate(float(value), (float(low), float(high))) for name, value, (low, high) in found}


def _estimates(scores, compute: Callable, resamples: int) -> tuple[np.ndarray, np.ndarray]:
    library, _ = _rliable()
    np.random.seed(_SEED)  # rliable draws from NumPy's global generator whatever `random_state` it is given
    values, bounds = library.get_interval_estimates({"arm": scores}, compute, reps=resamples)
    return values["arm"], bounds["arm"]


def _rliable():
    """Returns rliable's library and metrics.

    rliable wants arch < 8, whose econometric models need a pandas older than the pinned one; their import is all that
    fails, and rliable takes nothing but `arch.bootstrap`. So `arch` is entered unexecuted, and only that is imported.
    """
    if "arch" not in sys.modules:
        sys.modules["arch"] = importlib.util.module_from_spec(importlib.util.find_spec("arch"))
    from rliable import library, metrics

    return library, metrics
