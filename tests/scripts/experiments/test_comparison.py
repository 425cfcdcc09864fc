"""Statistics over seeds and games: literal numbers, rliable's, scipy's."""

import numpy as np
import pytest
import scipy.stats

from actors import scores
from scripts.experiments import comparison
from tests.scripts.experiments.made_up import cell


@pytest.mark.parametrize(
    "mean, errors, learned", [(26.0, 5.2, True), (25.0, 5.0, False), (24.0, 4.8, False)]
)
def test_a_game_is_learned_above_five_standard_errors_of_the_difference(mean, errors, learned):
    """Of standard errors 3 and 4, that of the difference is 5."""
    agent = cell(mean + 1.0, 3.0)
    assert comparison.errors_above(agent, cell(1.0)) == pytest.approx(errors)
    for random, constant in (
        (cell(1.0), cell(-9.0)),
        (cell(-9.0), cell(1.0)),
    ):  # the better of the two decides
        assert comparison.has_learned(agent, random, constant) is learned


def test_equal_arms_have_no_test():
    assert comparison.wilcoxon_test(np.ones(4), np.ones(4)) is None


def test_equal_games_make_no_smaller_p_possible():
    found = comparison.wilcoxon_test(np.array([1.0, 2, 3, 4, 5]), np.array([0.0, 0, 0, 0, 5]))
    assert (found.num_games, found.p_value, found.smallest_p) == (5, 0.125, 0.125)


# Games' means 1, 1, 3, 15; of all eight scores the middle four are 1, 2, 2, 4.
ARM = np.array([[0.0, 1.0, 2.0, 9.0], [2.0, 1.0, 4.0, 21.0]])
# Games' means 0, 1, 1, 8; the middle four are 0, 0, 2, 2.
BASELINE = np.array([[0.0, 0.0, 0.0, 8.0], [0.0, 2.0, 2.0, 8.0]])


def test_aggregates_over_seeds_and_games_are_literal():
    found = comparison.aggregate(ARM, ARM.mean(axis=0, keepdims=True), 200)
    assert {name: x.value for name, x in found.items()} == {
        "mean": 5.0,
        "median": 2.0,
        "interquartile mean": 2.25,
    }
    assert all(x.interval[0] < x.value < x.interval[1] for x in found.values())


def test_differences_of_aggregates_are_those_of_the_arm_minus_the_baseline():
    found = comparison.difference(ARM, BASELINE, (None, None), 200)
    assert {name: x.value for name, x in found.items()} == {
        "mean": 2.5,
        "median": 1.0,
        "interquartile mean": 1.25,
    }
    assert all(x.interval[0] < x.value < x.interval[1] for x in found.values())


def test_a_profile_is_the_fraction_of_scores_above_each_threshold():
    fraction, (low, high) = comparison.profile(ARM, np.array([-1.0, 0.0, 1.5, 4.0, 21.0]), 200)
    assert fraction.tolist() == [1.0, 0.875, 0.625, 0.25, 0.0]
    assert np.all(low <= fraction) and np.all(fraction <= high) and low[2] < high[2]


# Scores whose games overlap, [seeds, games] of two arms with unequal numbers of seeds.
FIVE_SEEDS = np.array(
    [
        [1.21, 0.88, 1.33, 2.50],
        [1.47, 1.19, 2.26, 0.91],
        [0.94, 1.71, 1.48, 1.62],
        [1.62, 1.25, 1.39, 1.80],
        [1.15, 0.64, 1.52, 2.66],
    ]
)
SIX_SEEDS = np.array(
    [
        [1.03, 1.12, 1.29, 1.51],
        [1.30, 0.77, 1.67, 2.18],
        [0.88, 1.06, 1.22, 1.43],
        [1.24, 1.40, 0.91, 1.69],
        [1.11, 0.55, 1.30, 2.47],
        [0.99, 1.13, 1.24, 0.86],
    ]
)
# What rliable 1.2.0 (Agarwal et al. 2021) computes of them: value, low and high of 5,000 resamples.
RLIABLE_AGGREGATES = {
    "mean": (1.4765, 1.295, 1.6645),
    "median": (1.437, 1.272975, 1.62),
    "interquartile mean": (1.408, 1.237975, 1.584),
}
RLIABLE_DIFFERENCES = {
    "mean": (0.211917, -0.007585, 0.433344),
    "median": (0.255333, 0.048158, 0.45485),
    "interquartile mean": (0.204667, 0.008146, 0.416337),
}
RLIABLE_PROBABILITY = (0.716667, 0.55, 0.866667)
# By threshold
RLIABLE_PROFILE = {
    0.8: (0.95, 0.85, 1.0),
    1.0: (0.8, 0.65, 0.95),
    2.4: (0.1, 0.0, 0.2),
}
# Over seeds of the bootstrap, an end of 5,000 resamples has a standard deviation of 0.002 to 0.005,
# one of a profile at these thresholds none. The intervals are 0.3 to 0.45 wide.
NOISE = 0.01
RESAMPLES = 20_000


def is_rliables(found, expected):
    value, *interval = expected
    return found.value == pytest.approx(value, abs=1e-6) and found.interval == pytest.approx(
        interval, abs=NOISE
    )


@pytest.mark.parametrize("name", RLIABLE_AGGREGATES)
def test_aggregates_are_those_of_rliable(name):
    found = comparison.aggregate(FIVE_SEEDS, FIVE_SEEDS.mean(axis=0, keepdims=True), RESAMPLES)
    assert is_rliables(found[name], RLIABLE_AGGREGATES[name])
    found = comparison.difference(FIVE_SEEDS, SIX_SEEDS, (None, None), RESAMPLES)
    assert is_rliables(found[name], RLIABLE_DIFFERENCES[name])


def test_a_mean_difference_is_that_of_rliable():
    found = comparison.mean_difference(FIVE_SEEDS, SIX_SEEDS, RESAMPLES)
    assert is_rliables(found, RLIABLE_DIFFERENCES["mean"])


def test_the_probability_of_improvement_is_that_of_rliable():
    found = comparison.probability_of_improvement(FIVE_SEEDS, SIX_SEEDS, RESAMPLES)
    assert is_rliables(found, RLIABLE_PROBABILITY)


def test_equal_scores_count_as_half_an_improvement():
    """Of four pairs one is higher, two are equal, one is lower;
    in the second game all are equal.
    """
    runs, baseline = np.array([[1.0, 3.0], [2.0, 3.0]]), np.array([[1.0, 3.0], [2.0, 3.0]])
    assert comparison.probability_of_improvement(runs, baseline, 50).value == 0.5
    assert comparison.probability_of_improvement(runs + [[0.0, 1.0]], baseline, 50).value == 0.75


def test_a_profile_is_that_of_rliable():
    fraction, (low, high) = comparison.profile(
        FIVE_SEEDS, np.array(list(RLIABLE_PROFILE)), RESAMPLES
    )
    assert np.array([fraction, low, high]).T == pytest.approx(
        np.array(list(RLIABLE_PROFILE.values())), abs=1e-6
    )


def test_welchs_interval_of_one_game_is_scipys():
    rng = np.random.default_rng(1)
    arm, baseline = rng.normal(3.0, 2.0, 5), rng.normal(1.0, 0.5, 4)
    expected = scipy.stats.ttest_ind(arm, baseline, equal_var=False).confidence_interval(0.95)
    found = comparison.welch([arm], [baseline])
    assert found.value == pytest.approx(arm.mean() - baseline.mean())
    assert found.interval == pytest.approx((expected.low, expected.high))
    assert (
        comparison.welch([np.ones(3)], [np.ones(3)])
        is comparison.welch([np.ones(1)], [np.ones(3)])
        is None
    )


ONE_OF_THREE, NONE_OF_THREE = np.array([[1.0], [0.0], [0.0]]), np.zeros((3, 1))


@pytest.mark.parametrize(
    "runs, baseline, value, interval",
    [
        (ONE_OF_THREE, NONE_OF_THREE, 1 / 3, (0.0, 1.0)),
        (NONE_OF_THREE, ONE_OF_THREE, -1 / 3, (-1.0, 0.0)),
        (np.tile(ONE_OF_THREE, 2), np.tile(NONE_OF_THREE, 2), 1 / 3, (0.0, 2 / 3)),
        (np.hstack([ONE_OF_THREE, np.ones((3, 1))]), np.tile(NONE_OF_THREE, 2), 2 / 3, (0.5, 1.0)),
    ],
)
def test_the_interval_of_a_mean_difference_resamples_the_seeds_within_each_game(
    runs, baseline, value, interval
):
    """Of three draws from 1, 0, 0 all are 1 with probability 1/27, between 2.5 % and 5 %: the upper
    end at 95 % is 1.

    In two such games, five or six of the six draws are 1 with 1.8 %, four with 8.2 %: it is 2/3.
    Were the games drawn together, it would be 1 again. A game of equal seeds adds no width.
    """
    found = comparison.mean_difference(runs, baseline, 10_000)
    assert found.value == pytest.approx(value) and found.interval == pytest.approx(interval)


@pytest.mark.parametrize("num_games, resampled", [(1, 0.87), (4, 0.91)])
def test_how_often_the_intervals_hold_the_truth(num_games, resampled):
    """The report's note says so: five seeds, equal normal arms, 0 is the truth.

    The resampling is written out, for speed; that `mean_difference` resamples so is shown above.
    """
    rng, cases = np.random.default_rng(0), 2000
    scores = rng.normal(size=(cases, 2, num_games, 5))
    draws = rng.integers(5, size=(400, 2, num_games, 5))

    def resample(case):
        return np.take_along_axis(case[None], draws, axis=-1).mean(axis=(2, 3))  # [resamples, arms]

    ends = [np.percentile(np.diff(resample(case)[:, ::-1], axis=1), (2.5, 97.5)) for case in scores]
    assert np.mean([low <= 0 <= high for low, high in ends]) == pytest.approx(resampled, abs=0.02)
    by_welch = [comparison.welch(list(case[0]), list(case[1])).interval for case in scores]
    assert np.mean([low <= 0 <= high for low, high in by_welch]) == pytest.approx(0.95, abs=0.015)


def test_minatars_axis_goes_from_random_to_published():
    axis = scores.scale("MinAtar/Breakout-v1")
    assert (axis.normalise(0.386), axis.normalise(28.0)) == (0.0, 1.0)
    assert scores.human_normalised("MinAtar/Breakout-v1", 28.0) is None  # no human
    assert scores.scale("MinAtar/Seaquest-v1") is None and scores.scale("CartPole-v1") is None
    assert scores.scale("ms_pacman") == scores.scale("ALE/MsPacman-v5")
