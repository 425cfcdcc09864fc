"""The arithmetic of an audit, and its table."""

import numpy as np
import pytest

from scripts.inspection import arithmetic, audit_table
from tests.scripts.inspection.returns import noisy_returns


def test_a_constant_predictor_scores_one_and_a_perfect_one_zero():
    value = np.random.default_rng(1).normal(5.0, 2.0, 50)
    returns = np.tile(value[:, None], 3)
    rows = np.stack([np.full(50, value.mean()), value, value + 1.0])
    expected = [1.0, 0.0, 1 / value.var()]
    np.testing.assert_allclose(arithmetic.normalised_errors(rows, returns), expected, atol=1e-12)


def test_the_noise_of_few_rollouts_is_taken_off_both_sides():
    value = np.random.default_rng(1).normal(0.0, 1.0, 20_000)
    # The noise of an average, 9 / 4, is twice the variance of the values
    returns = noisy_returns(value, 4, scale=3.0)
    rows = np.stack([value, np.full_like(value, returns.mean()), value + 0.5])
    found = arithmetic.normalised_errors(rows, returns)
    assert found[1] == pytest.approx(1.0)
    np.testing.assert_allclose(found[[0, 2]], [0.0, 0.25], atol=0.1)
    uncorrected = ((rows[0] - returns.mean(axis=1)) ** 2).mean() / returns.mean(axis=1).var()
    assert uncorrected > 0.6


def test_returns_that_do_not_differ_beyond_their_noise_give_no_score():
    returns = np.array([[0.0, 2.0], [0.5, 1.5], [1.0, 1.1]])  # averages 1, 1 and 1.05
    assert arithmetic.moments(returns, np.ones(3))[1] < 0
    assert np.isnan(arithmetic.normalised_errors(np.zeros((1, 3)), returns)).all()


@pytest.mark.parametrize("spread, is_told", [(0.0, False), (3.0, True)])
def test_a_head_whose_returns_may_be_noise_has_no_error_of_its_own(spread, is_told):
    """Rather than noise over noise; its squared error counts among those of all heads."""
    heads = []
    for seed in range(40):
        rng = np.random.default_rng(seed)
        value = spread * rng.normal(size=64)
        returns = value[:, None] + rng.normal(size=(64, 16))
        heads.append(arithmetic.audit_head(value[None], value, returns, np.arange(64), seed=seed))
    assert {bool(np.isnan(head.error.value[0])) for head in heads} == {not is_told}
    assert {bool(np.isnan(head.vtrace_gap.value[0])) for head in heads} == {not is_told}
    assert np.isfinite([head.squared_errors for head in heads]).all()


def test_heads_without_differing_values_bias_nothing_and_alone_give_no_score():
    """Sixteen heads know values up to 0.5; those of half of them have a variance of 1, the others'
    are all equal.
    """
    rng, audits = np.random.default_rng(3), []
    for n in range(400):
        value = rng.normal(size=64) * (n % 16 < 8)
        returns = noisy_returns(value, 4, scale=2.0, seed=n)
        audits.append(
            arithmetic.audit_head((value + 0.5)[None], value, returns, np.zeros(64), seed=0)
        )

    def together(audits):
        columns = np.array(
            [(found.squared_errors[0], found.variance, found.noise) for found in audits]
        ).T
        return arithmetic.over_heads(*columns, num_states=64)

    runs = [audits[n : n + 16] for n in range(0, 400, 16)]
    assert np.mean([together(run) for run in runs]) == pytest.approx(2 * 0.5**2, abs=0.05)
    assert np.isnan([together(run[8:]) for run in runs]).all()


def test_a_table_comes_back_and_sums_up_all_heads(tmp_path):
    value = np.random.default_rng(1).normal(5.0, 2.0, 50)
    returns, rows = np.tile(value[:, None], 3), np.stack([value + 1.0, value + 2.0])
    audits = [
        arithmetic.HeadAudit(
            n,
            arithmetic.audit_head(
                scale * rows, scale * value, scale * returns, np.arange(50), seed=0
            ),
            0.0,
        )
        for n, scale in ((10, 1.0), (20, 3.0))
    ]
    audit_table.write(
        tmp_path / "audit.csv",
        audit_table.rows(audits, num_updates=30, num_states=50, num_rollouts=3),
    )
    table = audit_table.read(tmp_path / "audit.csv")
    assert [(row["head_updates"], row["age_updates"], row["k"]) for row in table] == [
        (10, 20, 0), (10, 20, 1), (20, 10, 0), (20, 10, 1),
    ]  # fmt: skip
    found = audit_table.all_heads(table, 1)
    assert found["error"] == pytest.approx(4 / value.var(), rel=1e-4) and found[
        "vtrace_gap"
    ] == pytest.approx(0)
    assert found["excess"] == pytest.approx(3 / value.var(), rel=1e-4)


def test_a_cut_return_goes_on_with_the_mean():
    """Reward 1 a step, γ = 0.9: 10 for ever, 9 when cut at γⁿ = 0.1, 0 where the episode is over at
    once.
    """
    total, remaining = np.array([[9.0, 9.0], [9.0, 9.0]]), np.full((2, 2), 0.1)
    np.testing.assert_allclose(arithmetic.complete(total, remaining), 10.0)
    ended = arithmetic.complete(np.array([[9.0], [0.0]]), np.array([[0.1], [0.0]]))
    mean = ended.mean()
    np.testing.assert_allclose(ended, [[9.0 + 0.1 * mean], [0.0]])


def test_an_interval_resamples_whole_games():
    value = np.repeat([0.0, 1.0], 50)  # two games, 50 equal states each: as good as two states
    returns, rows = np.tile(value[:, None], 2), np.full((1, 100), 0.2)

    def mean(weight):
        return np.array([weight @ value / weight.sum()])

    games = arithmetic.bootstrap(mean, np.repeat([0, 1], 50), seed=0)
    states = arithmetic.bootstrap(mean, np.arange(100), seed=0)
    assert (games.low[0], games.high[0]) == (0.0, 1.0)
    assert states.low[0] > 0.35 and states.high[0] < 0.65
    alone = arithmetic.bootstrap(
        lambda w: arithmetic.normalised_errors(rows, returns, w), np.zeros(100), seed=0
    )
    assert (
        np.isfinite(alone.value).all() and np.isnan(alone.low).all() and np.isnan(alone.high).all()
    )


def test_one_rollout_a_state_is_refused():
    with pytest.raises(ValueError, match="cannot be told with fewer than 2"):
        arithmetic.audit_head(np.zeros((2, 5)), np.zeros(5), np.zeros((5, 1)), np.arange(5), seed=0)
