"""The audit's arithmetic: predictions and Monte-Carlo returns in, normalised errors with intervals
out.

Shape letters: C predictors, N states, R rollouts a state. Returns Ḡ_n averaged over finitely many
rollouts are the values v_n plus noise of variance σ²_n / R, independent of any prediction p_n made
before them, so that

    E (p_n − Ḡ_n)²   = (p_n − v_n)² + σ²_n / R
    E var_n(Ḡ_n)     = var_n(v_n) + mean_n σ²_n / R     (but for terms of order 1 / N)

and s²_n / R, of the sample variance, is taken off both.  A predictor that knows every value scores
0 in expectation (in a sample perhaps a little less), a constant one at the mean of the returns
exactly 1.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

_LEVEL = 0.95
_NUM_RESAMPLES = 1000


class Estimate(NamedTuple):
    """Numbers [C] with the ends of their 95 % intervals; NaN where not available."""

    value: np.ndarray
    low: np.ndarray
    high: np.ndarray


class Audited(NamedTuple):
    """What the audit says of one head: C = K + 1 values at imagined steps k = 0..K, or one V-trace
    target.
    """

    # [K+1] normalised squared error of v(zᵏ), at k = 0 the head's own; all NaN unless `is_known`
    error: Estimate
    excess: Estimate  # [K+1] what it has beyond k = 0: the model's part
    vtrace_gap: Estimate  # [1] normalised squared error of the V-trace targets
    # [K+2] of the values and the targets, noise taken off, not normalised
    squared_errors: np.ndarray
    mean: float  # of the values over states
    variance: float  # of the values over states, noise taken off
    noise: float  # mean variance of a state's averaged return


class HeadAudit(NamedTuple):
    """The audit of one stored head."""

    push_update: int  # updates behind the head
    audited: Audited
    cut_fraction: float  # of rollouts


def complete(total: np.ndarray, remaining: np.ndarray) -> np.ndarray:
    """Returns [N, R], returns of which those that were cut go on with the mean return over all
    states.

    A return that is cut at γⁿ < 0.01 lacks a hundredth of the value there; where values lie far
    from 0 and differ little, that is no small error. With the mean in its place what is left is γⁿ
    times a deviation from the mean.

    Args:
      total: [N, R], discounted rewards up to the end or the cut.
      remaining: [N, R], γⁿ where a rollout was cut, 0 where the episode ended.
    """
    # Solves mean = total.mean() + remaining.mean() * mean
    mean = total.mean() / (1.0 - remaining.mean())
    return total + remaining * mean


def normalised_errors(
    predictions: np.ndarray, returns: np.ndarray, weight: np.ndarray | None = None
) -> np.ndarray:
    """Returns [C], squared errors over the variance of the values; NaN if noise explains all of
    that variance.

    Args:
      predictions: [C, N].
      returns: [N, R], at least 2 rollouts a state.
      weight: [N], of the states; equal if None.
    """
    weight = np.ones(len(returns)) if weight is None else weight
    _, variance, _ = moments(returns, weight)
    return squared_errors(predictions, returns, weight) / (variance if variance > 0 else np.nan)


def squared_errors(predictions: np.ndarray, returns: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Returns [C], mean squared errors over states, the noise of the averaged returns taken off."""
    _, _, noise = moments(returns, weight)
    return (predictions - returns.mean(axis=1)) ** 2 @ weight / weight.sum() - noise


def moments(returns: np.ndarray, weight: np.ndarray) -> tuple[float, float, float]:
    """Returns mean and variance of the values over states, and the mean variance of their averages'
    noise.
    """
    value, num_rollouts = returns.mean(axis=1), returns.shape[1]

    def average(x):
        return float(x @ weight / weight.sum())

    noise = average(returns.var(axis=1, ddof=1)) / num_rollouts
    return average(value), average((value - average(value)) ** 2) - noise, noise


def over_heads(
    squared_errors: np.ndarray, variances: np.ndarray, noises: np.ndarray, num_states: int
) -> float:
    """Returns the squared error of all heads together, over the variance of all their values.

    No head is left out for what its own variance came out as, below 0 included: a choice by noise
    would bias the sum. NaN unless `is_known`.

    Args:
      squared_errors: [heads], noise taken off, not normalised.
      variances: [heads], of the values over states, noise taken off.
      noises: [heads], mean variance of a state's averaged return.
      num_states: behind each of them.
    """
    known = is_known(variances, noises, num_states)
    return float(np.sum(squared_errors) / np.sum(variances)) if known else float("nan")


def is_known(variances: np.ndarray, noises: np.ndarray, num_states: int) -> bool:
    """Returns whether the sum of variances is three standard deviations above what noise alone
    makes of equal values.

    Arguments as for `over_heads`; rollouts of different heads are independent.
    """
    by_noise = np.sqrt(2 / (num_states - 1)) * np.linalg.norm(noises)
    return bool(np.sum(variances) > 3 * by_noise)


def bootstrap(
    statistic: Callable[[np.ndarray], np.ndarray], group: np.ndarray, seed: int
) -> Estimate:
    """Returns `statistic(weight [N]) -> [C]` with its percentile interval over resampled groups of
    states.

    Args:
      statistic: takes the states' weights.
      group: [N], what was drawn independently: the environment a state comes from. One group alone
        has no interval.
      seed: of the resamples.
    """
    names, member = np.unique(group, return_inverse=True)
    value = statistic(np.ones(len(group)))
    if len(names) < 2:
        return Estimate(value, np.full_like(value, np.nan), np.full_like(value, np.nan))
    rng = np.random.default_rng(seed)
    draws = rng.multinomial(len(names), np.full(len(names), 1 / len(names)), size=_NUM_RESAMPLES)
    resampled = np.array([statistic(counts[member].astype(float)) for counts in draws])
    low, high = np.percentile(resampled, [50 * (1 - _LEVEL), 50 * (1 + _LEVEL)], axis=0)
    return Estimate(value, low, high)


def audit_head(
    predictions: np.ndarray,
    vtrace_target: np.ndarray,
    returns: np.ndarray,
    group: np.ndarray,
    *,
    seed: int,
) -> Audited:
    """Returns the audit of one head.

    Args:
      predictions: [K+1, N], v(zᵏ) for the same N states, zᵏ after k imagined steps from the k-th
        state before.
      vtrace_target: [N].
      returns: [N, R], Monte-Carlo returns of the head's policy.
      group: [N], see `bootstrap`.
      seed: of the bootstrap.

    Raises ValueError if there are fewer than 2 rollouts a state.
    """
    if returns.shape[1] < 2:
        raise ValueError(
            f"{returns.shape[1]} rollout a state: its noise cannot be told with fewer than 2"
        )
    rows, last = np.concatenate([predictions, vtrace_target[None]]), len(predictions)

    def statistic(weight: np.ndarray) -> np.ndarray:
        errors = normalised_errors(rows, returns, weight)
        return np.concatenate([errors, errors[:last] - errors[0]])

    weight = np.ones(len(returns))
    _, variance, noise = moments(returns, weight)
    both = bootstrap(statistic, group, seed)
    if not is_known(
        np.array([variance]), np.array([noise]), len(returns)
    ):  # errors over it would be noise over noise
        both = Estimate(*(np.full_like(x, np.nan) for x in both))

    def part(where):
        return Estimate(*(x[where] for x in both))

    return Audited(
        part(slice(last)),
        part(slice(last + 1, None)),
        part(slice(last, last + 1)),
        squared_errors(rows, returns, weight),
        *moments(returns, weight),
    )
