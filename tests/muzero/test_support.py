"""Support: literal two-hots with ε = 0.01, saturation, ranks, round trip and gradients."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs.schema import SupportConfig
from muzero.support import Support
from tests import reference

PAPER = Support(SupportConfig(min_value=-300.0, max_value=300.0, num_bins=601, epsilon=0.01))
SMALL = Support(SupportConfig(min_value=-5.0, max_value=7.0, num_bins=25, epsilon=0.03))
EDGE = 17_044.3  # h(17,044.3) = 300 with ε = 0.01


_TO_PROBS = jax.jit(Support.to_probs, static_argnums=0)
_FROM_LOGITS = jax.jit(Support.from_logits, static_argnums=0)


def _log(probs):
    return jnp.log(jnp.maximum(probs, 1e-30))


@pytest.mark.parametrize(
    "scalar, expected",
    [
        (0.0, {300: 1.0}),
        (1.0, {300: 0.5757864, 301: 0.4242136}),  # h = √2 − 1 + 0.01
        (-1.0, {300: 0.5757864, 299: 0.4242136}),
        (8.0, {302: 0.92, 303: 0.08}),  # h = 3 − 1 + 0.08
        (100.0, {310: 0.9501244, 311: 0.0498756}),  # h = √101 − 1 + 1; 9.15 with rlax's ε = 0.001
        (-100.0, {290: 0.9501244, 289: 0.0498756}),
        (9_999.0, {498: 0.01, 499: 0.99}),  # h = 100 − 1 + 99.99
    ],
)
def test_to_probs_has_the_literal_bins_of_the_paper(scalar, expected):
    probs = np.asarray(_TO_PROBS(PAPER, scalar))
    literal = np.zeros(601)
    literal[list(expected)] = list(expected.values())
    np.testing.assert_allclose(probs, literal, atol=1e-4)


@pytest.mark.parametrize("support", [PAPER, SMALL])
def test_to_probs_equals_the_oracle(support):
    scalars = np.random.default_rng(0).normal(size=200) * np.logspace(-3, 4.5, 200)
    expected = [reference.two_hot(x, *reference.bins(support)) for x in scalars]
    probs = np.asarray(_TO_PROBS(support, scalars))
    np.testing.assert_allclose(probs, expected, atol=2e-4)
    np.testing.assert_allclose(probs.sum(axis=-1), 1.0, atol=1e-6)


@pytest.mark.parametrize("support", [PAPER, SMALL])
def test_from_logits_equals_the_oracle(support):
    logits = np.random.default_rng(1).normal(size=(40, support.num_bins)) * 4.0
    low, high, _, epsilon = reference.bins(support)
    expected = [reference.scalar_of(row, low, high, epsilon) for row in logits]
    np.testing.assert_allclose(
        _FROM_LOGITS(support, jnp.asarray(logits)), expected, rtol=1e-4, atol=1e-4
    )


def test_round_trip_within_the_support():
    scalars = np.concatenate([-np.logspace(-3, 4.23, 100), [0.0], np.logspace(-3, 4.23, 100)])
    np.testing.assert_allclose(
        _FROM_LOGITS(PAPER, _log(_TO_PROBS(PAPER, scalars))), scalars, rtol=2e-4, atol=1e-3
    )


@pytest.mark.parametrize("scalar", [1e4, 1.0])
def test_another_epsilon_is_another_encoding(scalar):
    other = Support(dataclasses.replace(PAPER.settings, epsilon=0.001))
    assert not np.allclose(_TO_PROBS(PAPER, scalar), _TO_PROBS(other, scalar), atol=5e-3)


@pytest.mark.parametrize(
    "scalar, last_bin", [(EDGE + 1, 600), (1e6, 600), (-EDGE - 1, 0), (-1e6, 0)]
)
def test_beyond_the_edge_saturates(scalar, last_bin):
    probs = np.asarray(_TO_PROBS(PAPER, scalar))
    assert probs[last_bin] == pytest.approx(1.0, abs=1e-6) and probs.sum() == pytest.approx(
        1.0, abs=1e-6
    )
    assert float(_FROM_LOGITS(PAPER, _log(probs))) == pytest.approx(
        np.sign(scalar) * EDGE, rel=1e-4
    )
    assert bool(PAPER.saturates(scalar))


def test_the_edge_is_a_return_of_17044():
    scalars = jnp.asarray([0.0, 17_044.0, -17_044.0, 17_045.0, -17_045.0])
    assert PAPER.saturates(scalars).tolist() == [False, False, False, True, True]
    assert float(_TO_PROBS(PAPER, 17_044.0)[600]) == pytest.approx(0.996, abs=2e-3)
    assert reference.unsquash(300.0, 0.01) == pytest.approx(EDGE, abs=0.05)


@pytest.mark.parametrize("shape", [(), (1,), (3,), (2, 3), (2, 1, 3)])
def test_every_rank_keeps_its_shape_and_values(shape):
    scalars = np.random.default_rng(2).normal(size=shape) * 20.0
    probs = _TO_PROBS(SMALL, scalars)
    assert probs.shape == (*shape, 25) and probs.dtype == jnp.float32
    expected = [reference.two_hot(x, *reference.bins(SMALL)) for x in np.ravel(scalars)]
    np.testing.assert_allclose(probs.reshape(-1, 25), expected, atol=1e-4)
    decoded = _FROM_LOGITS(SMALL, _log(probs))
    assert decoded.shape == shape and SMALL.saturates(scalars).shape == shape
    rows = [
        reference.scalar_of(np.asarray(row), -5.0, 7.0, 0.03)
        for row in np.reshape(_log(probs), (-1, 25))
    ]
    np.testing.assert_allclose(np.ravel(decoded), rows, rtol=1e-4, atol=1e-4)


def test_half_precision_and_integers_are_computed_in_float32():
    logits = jnp.zeros((2, 601), jnp.bfloat16).at[:, 310].set(20.0)
    values = _FROM_LOGITS(PAPER, logits)
    assert values.dtype == jnp.float32
    np.testing.assert_allclose(values, reference.unsquash(10.0, 0.01), rtol=1e-3)
    np.testing.assert_array_equal(
        _TO_PROBS(PAPER, np.asarray([3, -3])), _TO_PROBS(PAPER, np.asarray([3.0, -3.0]))
    )


def test_flat_logits_mean_zero():
    assert abs(float(_FROM_LOGITS(PAPER, jnp.zeros(601)))) < 1e-3


def test_gradients_are_finite():
    noise = jax.random.normal(jax.random.key(0), (601,))
    logits = jnp.stack([0.0 * noise, noise, 1e4 * noise])
    scalars = jnp.asarray([0.0, 1.0, -7.5, 17_044.0, 1e6, -1e6])

    def cross_entropy(row, scalar):
        return -jnp.sum(_TO_PROBS(PAPER, scalar) * jax.nn.log_softmax(row))

    gradient = jax.vmap(jax.vmap(jax.grad(cross_entropy), (None, 0)), (0, None))(logits, scalars)
    expected = jax.nn.softmax(logits)[:, None] - _TO_PROBS(PAPER, scalars)
    np.testing.assert_allclose(gradient, expected, atol=1e-5)
    assert np.all(np.isfinite(jax.vmap(jax.grad(lambda x: _FROM_LOGITS(PAPER, x)))(logits)))
    assert np.all(np.isfinite(jax.vmap(jax.grad(lambda x: _TO_PROBS(PAPER, x) @ noise))(scalars)))
