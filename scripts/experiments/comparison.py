"""Arms against each other: the statistics of Agarwal et al. 2021, by scipy, on the scores of a
results file.

What needs the score of every seed is None where the file has means only, or not the same number of
seeds for every game.
"""

from collections.abc import Callable, Iterable
from typing import NamedTuple

import numpy as np
from scipy.stats import bootstrap, t, trim_mean, wilcoxon

from actors.scores import scale, standard_error
from scripts.experiments.results import Row

NUM_STANDARD_ERRORS = 5.0  # by which an agent has to beat random play and the best constant action
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
    return Cell(
        float(np.mean(scores)), standard_error(scores), {row.seed: row.score for row in rows}
    )


def errors_above(cell: Cell | None, other: Cell | None) -> float | None:
    """Returns by how many standard errors of their difference `cell` lies above `other`; None
    without either.
    """
    if other is None or cell is None or cell.standard_error is None or other.standard_error is None:
        return None
    difference, error = cell.mean - other.mean, np.hypot(cell.standard_error, other.standard_error)
    return (
        float(difference / error)
        if error > 0
        else float(np.inf * difference if difference else 0.0)
    )


def has_learned(cell: Cell | None, random: Cell | None, constant: Cell | None) -> bool | None:
    """Returns whether an agent has learned a game: it beats two players that look at nothing.

    False where it is not more than 5 standard errors above one of them, None where it cannot be
    told.

    Args:
      cell: scores of the agent, over seeds.
      random: of the random policy.
      constant: of the best constant action.
    """
    above = [errors_above(cell, other) for other in (random, constant)]
    if any(errors is not None and errors <= NUM_STANDARD_ERRORS for errors in above):
        return False
    return None if None in above else True


def normalised(game: str, score: float | None) -> float | None:
    """Returns `score` on the normalised axis of `game`, None if it has none."""
    axis = scale(game)
    return None if axis is None or score is None else axis.normalise(score)


def raw_matrix(
    scores: dict[tuple[str, str], Cell], arm: str, games: list[str]
) -> np.ndarray | None:
    """Returns the raw scores of `arm` [seeds, games], None without the same number of seeds for
    every game.
    """
    columns = [scores[game, arm].seeds for game in games]
    if (
        not games
        or any(column is None for column in columns)
        or len({len(column) for column in columns}) != 1
    ):
        return None
    return np.array([list(column.values()) for column in columns]).T


def matrix(scores: dict[tuple[str, str], Cell], arm: str, games: list[str]) -> np.ndarray | None:
    """Returns the normalised scores of `arm` [seeds, games], None without the same number of seeds
    for every game.
    """
    raw = raw_matrix(scores, arm, games)
    return (
        None
        if raw is None
        else np.array([[normalised(*pair) for pair in zip(games, row, strict=True)] for row in raw])
    )


def means(scores: dict[tuple[str, str], Cell], arm: str, games: list[str]) -> np.ndarray:
    """Returns the normalised mean scores of `arm` as one run [1, games]."""
    return np.array([[normalised(game, scores[game, arm].mean) for game in games]])


def _mean(scores: np.ndarray) -> np.ndarray:
    return scores.mean(axis=(-2, -1))


def _median(scores: np.ndarray) -> np.ndarray:
    return np.median(scores.mean(axis=-1), axis=-1)


def _interquartile_mean(scores: np.ndarray) -> np.ndarray:
    flat = scores.reshape(*scores.shape[:-2], -1)
    return trim_mean(flat, proportiontocut=0.25, axis=-1)


# Over games, of the normalised score: of scores [..., games, seeds]. The middle half of all runs is
# that of all games and seeds together.
_AGGREGATES = {"mean": _mean, "median": _median, "interquartile mean": _interquartile_mean}


def aggregate(runs: np.ndarray | None, mean: np.ndarray, resamples: int) -> dict[str, Estimate]:
    """Returns mean, median and interquartile mean over games with stratified-bootstrap intervals.

    Args:
      runs: [seeds, games], or None; the interquartile mean is then that of the games' means.
      mean: [1, games], the means over seeds.
      resamples: of the bootstrap.
    """
    return {
        name: _estimate(function, (runs,), (mean,), resamples)
        for name, function in _AGGREGATES.items()
    }


def difference(
    runs: np.ndarray | None,
    baseline: np.ndarray | None,
    means: tuple[np.ndarray, np.ndarray],
    resamples: int,
) -> dict[str, Estimate]:
    """Returns the aggregates of an arm minus those of the baseline; the seeds of both are resampled
    within games.

    Args:
      runs: of the arm [seeds, games], or None.
      baseline: of the baseline, likewise.
      means: of arm and baseline, [1, games] each; what is compared, without intervals, where there
        are no seeds.
      resamples: of the bootstrap.
    """
    pair = runs, baseline
    return {
        name: _estimate(_difference(of), pair, means, resamples) for name, of in _AGGREGATES.items()
    }


def mean_difference(runs: np.ndarray, baseline: np.ndarray, resamples: int) -> Estimate:
    """Returns the mean over seeds and games of `runs` [seeds, games] minus that of `baseline`, with
    its interval.
    """
    pair = runs, baseline
    return _estimate(_difference(_mean), pair, pair, resamples)


def welch(scores: list[np.ndarray], baseline: list[np.ndarray]) -> Estimate | None:
    """Returns the mean over games of the difference of two arms' means, with its t interval over
    independent seeds.

    Degrees of freedom are those of Welch and Satterthwaite; for one game it is Welch's interval.
    None with fewer than two seeds anywhere, or where no seed differs from another.

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
    freedom = variances.sum() ** 2 / np.sum(
        variances**2 / np.array([len(group) - 1 for group in groups])
    )
    value = float(np.mean([np.mean(x) - np.mean(y) for x, y in zip(scores, baseline, strict=True)]))
    half = float(t.ppf(0.975, freedom) * np.sqrt(variances.sum()) / len(scores))
    return Estimate(value, (value - half, value + half))


def probability_of_improvement(
    runs: np.ndarray | None, baseline: np.ndarray | None, resamples: int
) -> Estimate | None:
    """Returns the probability that a run scores above one of `baseline`, mean over games; None
    without seeds.
    """
    if runs is None or baseline is None or min(len(runs), len(baseline)) < 2:
        return None
    pair = runs, baseline
    return _estimate(_chance_of_a_higher_score, pair, pair, resamples)


def _chance_of_a_higher_score(scores: np.ndarray, baseline: np.ndarray) -> np.ndarray:
    """Returns P(score > baseline) + P(score = baseline) / 2, mean over games; of [..., games,
    seeds] each.
    """
    pairs = scores[..., :, None] - baseline[..., None, :]
    return np.heaviside(pairs, 0.5).mean(axis=(-3, -2, -1))


def profile(
    runs: np.ndarray, thresholds: np.ndarray, resamples: int
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the fraction of runs [seeds, games] above each threshold and its 95 % band [2,
    thresholds].
    """

    def fractions(scores):
        return np.array([(scores > threshold).mean(axis=(-2, -1)) for threshold in thresholds])

    return fractions(runs.T), np.array(_interval(fractions, (runs,), resamples))


def wilcoxon_test(scores: np.ndarray, baseline: np.ndarray) -> SignedRank | None:
    """Returns the test of paired scores [games], None where no two of them differ."""
    num_different = np.count_nonzero(scores != baseline)
    if num_different == 0:
        return None
    found = wilcoxon(scores, baseline, zero_method="wilcox", alternative="two-sided")
    smallest = wilcoxon(
        np.arange(1, num_different + 1), zero_method="wilcox", alternative="two-sided"
    )
    return SignedRank(
        len(scores), float(found.statistic), float(found.pvalue), float(smallest.pvalue)
    )


def _difference(aggregate: Callable) -> Callable:
    return lambda scores, baseline: aggregate(scores) - aggregate(baseline)


def _estimate(
    statistic: Callable,
    arms: tuple[np.ndarray | None, ...],
    means: tuple[np.ndarray, ...],
    resamples: int,
) -> Estimate:
    """Returns the statistic of the arms with its interval, or that of their means where an arm has
    no two seeds.

    Args:
      statistic: of scores [..., games, seeds], one argument an arm.
      arms: [seeds, games] each, or None.
      means: [1, games] each, the means over seeds.
      resamples: of the bootstrap.
    """
    if any(runs is None or len(runs) < 2 for runs in arms):
        return Estimate(float(statistic(*(mean.T for mean in means))), None)
    low, high = _interval(statistic, arms, resamples)
    return Estimate(float(statistic(*(runs.T for runs in arms))), (float(low), float(high)))


def _interval(
    statistic: Callable, arms: tuple[np.ndarray, ...], resamples: int
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the ends of the 95 % interval by the stratified bootstrap of Agarwal et al. 2021,
    section 4.1.

    Every game of every arm is a sample of its own, and scipy resamples each on its own.
    """
    samples = [scores for runs in arms for scores in runs.T]
    num_games = arms[0].shape[1]

    def of_resamples(*resampled: np.ndarray, axis: int) -> np.ndarray:
        """Returns the statistic [..., resamples] of as many games [resamples, seeds] as there are
        samples.
        """
        starts = range(0, len(resampled), num_games)
        return statistic(
            *(np.stack(resampled[start : start + num_games], axis=-2) for start in starts)
        )

    found = bootstrap(
        samples, of_resamples, n_resamples=resamples, method="percentile", axis=-1, rng=_SEED
    )
    return tuple(found.confidence_interval)
