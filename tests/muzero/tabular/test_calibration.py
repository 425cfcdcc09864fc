"""Minimisers of the sampled losses: closed forms against search, estimates against their own
gradients.
"""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from muzero.tabular import calibration, vaml

S = 4


@pytest.mark.parametrize("num_samples", [1, 2, 5, math.inf])
@pytest.mark.parametrize("seed", range(3))
def test_no_distribution_beats_the_minimising_mean(seed, num_samples):
    """Against every mixture of two states, which hold all least variances, and random distributions
    besides.
    """
    rng = np.random.default_rng(seed)
    value, mean = rng.normal(size=S), rng.uniform(-0.5, 0.5)
    pairs = [share * np.eye(S)[i] + (1 - share) * np.eye(S)[j] for i in range(S) for j in range(S)
             for share in np.linspace(0, 1, 1001)]  # fmt: skip
    p = np.concatenate([pairs, rng.dirichlet(np.ones(S), 5000)])
    loss = (p @ value - mean) ** 2 + (p @ value**2 - (p @ value) ** 2) / num_samples
    with jax.enable_x64(True):
        found = float(calibration.minimising_mean(jnp.asarray(value), mean, num_samples))
    np.testing.assert_allclose(found, (p @ value)[np.argmin(loss)], atol=2e-3 * np.ptp(value))


@pytest.mark.parametrize("weight", [1.0, 0.5, 0.0])
def test_the_expected_loss_is_flat_at_the_minimising_value(weight):
    rng = np.random.default_rng(1)
    with jax.enable_x64(True):
        model = jnp.asarray(0.7 * np.eye(S) + 0.3 * rng.dirichlet(np.ones(S), S))
        target = jnp.asarray(rng.normal(size=S))
        found = calibration.minimising_value(model, target, weight)
        slope = jax.grad(
            lambda value: jnp.sum(vaml.expected_loss(model, value, target, 1, weight))
        )(found)
        np.testing.assert_allclose(slope, 0.0, atol=1e-12)


@pytest.mark.parametrize("calibrated", [False, True])
def test_the_sampled_loss_is_flat_at_its_minimising_value(calibrated):
    rng = np.random.default_rng(2)
    start = rng.integers(S, size=400)
    states = np.where(rng.random((400, 3)) < 0.8, start[:, None], rng.integers(S, size=(400, 3)))
    target = rng.normal(size=400)
    error_fn = vaml.calibrated_error if calibrated else vaml.squared_error
    with jax.enable_x64(True):
        found = calibration.sampled_minimising_value(
            jnp.asarray(states), jnp.asarray(target), S, calibrated
        )
        slope = jax.grad(lambda value: jnp.mean(error_fn(value[states], target)))(found)
        np.testing.assert_allclose(slope, 0.0, atol=1e-12)


def test_states_are_drawn_as_often_as_said():
    p = jnp.array([[0.5, 0.0, 0.2, 0.3], [0.0, 0.0, 0.0, 1.0]])
    draws = np.asarray(calibration.sample_states(jax.random.key(0), p, 20_000))
    frequency = np.stack([np.bincount(row, minlength=S) for row in draws]) / 20_000
    np.testing.assert_allclose(frequency, p, atol=4 * 0.5 / 20_000**0.5)
    assert frequency[0, 1] == frequency[1, 0] == 0.0


def test_descent_of_the_sampled_losses_ends_where_the_closed_form_says():
    """Truth: E V = 0.2, V in (−1, 0, 1).

    One uncalibrated sample moves all to V = 0, the calibrated pair stays.
    """
    value, truth = jnp.array([-1.0, 0.0, 1.0]), jnp.array([0.3, 0.2, 0.5])

    def target_fn(key, size):
        return value[calibration.sample_states(key, truth, size)]

    descend = functools.partial(
        calibration.fit_row, jax.random.key(1), jnp.log(truth), value, target_fn
    )
    settings = dict(batch_size=64, num_updates=400, learning_rate=0.05)
    for error_fn, num_samples, exact in [
        (vaml.squared_error, 1, 1),
        (vaml.calibrated_error, 2, math.inf),
    ]:
        fitted = jax.jit(
            functools.partial(descend, error_fn=error_fn, num_samples=num_samples, **settings)
        )()
        assert abs(fitted @ value - calibration.minimising_mean(value, 0.2, exact)) < 0.04
        assert (fitted[1] > 0.9) == (num_samples == 1)


def test_a_continuous_value_takes_its_mean_somewhere():
    rng = np.random.default_rng(3)
    with jax.enable_x64(True):
        for value in rng.normal(size=(5, 9)):
            mean = rng.dirichlet(np.ones(9)) @ value
            point = float(calibration.deterministic_state(jnp.asarray(value), mean))
            assert abs(np.interp(point, np.linspace(0, 1, 9), value) - mean) < 1e-14
