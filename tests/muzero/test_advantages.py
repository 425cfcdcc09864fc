"""The loss of taken actions against its gradient by hand, its expectation, and the running unit of
advantages.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from muzero import advantages
from muzero.advantages import return_losses
from muzero.step_losses import step_losses
from muzero.targets import TakenActions

NUM_STARTS, NUM_STEPS, NUM_ACTIONS = 5, 3, 4
WEIGHTS = np.array([1.0, 0.5, 0.25], np.float32)


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def _random(rng):
    shape = (NUM_STARTS, NUM_STEPS)
    logits = rng.normal(size=(*shape, NUM_ACTIONS)).astype(np.float32)
    taken = TakenActions(
        action=rng.integers(NUM_ACTIONS, size=shape),
        behaviour_prob=rng.uniform(0.05, 1.0, shape).astype(np.float32),
        advantage=(3.0 * rng.normal(size=shape)).astype(np.float32),
    )
    return logits, taken, (rng.random(shape) < 0.7).astype(np.float32)


def _softmax(logits):
    exp = np.exp(logits - logits.max(-1, keepdims=True))
    return exp / exp.sum(-1, keepdims=True)


def _clipped(taken, logits, scale, clip):
    prob = np.take_along_axis(_softmax(logits), taken.action[..., None], -1)[..., 0]
    ratio = np.minimum(1.0, prob / taken.behaviour_prob)
    return ratio * np.clip(taken.advantage / scale, -clip, clip)


def test_the_gradient_is_that_of_the_signed_target(rng):
    """CE(p) + return loss has the gradient π − [p + ρ Â (1_a − π)], weighted and masked."""
    logits, taken, mask = _random(rng)
    search_policy = rng.dirichlet([1.0] * NUM_ACTIONS, (NUM_STARTS, NUM_STEPS)).astype(np.float32)

    def total(logits):
        policy = step_losses(logits, search_policy, mask, WEIGHTS)
        return (
            policy.loss
            + return_losses(logits, mask, WEIGHTS, taken=taken, scale=2.0, clip=1.5).loss
        )

    gradient = jax.grad(total)(jnp.asarray(logits))
    pi = _softmax(logits)
    one_hot = np.eye(NUM_ACTIONS)[taken.action]
    pushed = _clipped(taken, logits, 2.0, 1.5)[..., None] * (one_hot - pi)
    expected = (pi - search_policy - pushed) * (mask * WEIGHTS)[..., None]
    np.testing.assert_allclose(gradient, expected, atol=1e-6)
    assert np.abs(pushed[mask > 0]).max() > 0.1


def test_its_expectation_moves_each_action_by_its_advantage_over_the_mean(rng):
    logits = rng.normal(size=NUM_ACTIONS).astype(np.float32)
    pi, advantage = _softmax(logits), rng.normal(size=NUM_ACTIONS).astype(np.float32)

    def loss(logits, action):
        taken = TakenActions(
            np.array([[action]]), pi[action][None, None], advantage[action][None, None]
        )
        ones = jnp.ones((1, 1))
        losses = return_losses(
            logits[None, None], ones, jnp.ones(1), taken=taken, scale=1.0, clip=100.0
        )
        return losses.loss

    gradients = [jax.grad(loss)(jnp.asarray(logits), action) for action in range(NUM_ACTIONS)]
    expectation = sum(p * g for p, g in zip(pi, gradients, strict=True))
    np.testing.assert_allclose(expectation, -pi * (advantage - pi @ advantage), atol=1e-6)


def test_an_action_that_the_policy_has_left_hardly_counts():
    logits = jnp.array([[[0.0, -20.0]]])
    taken = TakenActions(np.array([[1]]), np.array([[0.5]]), np.array([[-1.0]]))
    ones = jnp.ones((1, 1))

    def loss(x):
        return return_losses(x, ones, jnp.ones(1), taken=taken, scale=1.0, clip=3.0).loss

    gradient = jax.grad(loss)(logits)
    assert np.abs(gradient).max() < 1e-7


def test_masked_steps_have_no_loss(rng):
    logits, taken, mask = _random(rng)
    other = taken._replace(advantage=np.where(mask > 0, taken.advantage, 1e6))
    some, same = (
        return_losses(logits, mask, WEIGHTS, taken=x, scale=1.0, clip=3.0) for x in (taken, other)
    )
    np.testing.assert_array_equal(some.loss, same.loss)
    np.testing.assert_array_equal(some.count, mask.sum(0))


def test_entropy_is_held_by_its_loss(rng):
    logits, _, mask = _random(rng)
    losses = advantages.negative_entropies(logits, mask, WEIGHTS)
    pi = _softmax(logits.astype(np.float64))
    expected = np.sum(mask * WEIGHTS * np.sum(pi * np.log(pi), -1))
    np.testing.assert_allclose(losses.loss, expected, rtol=1e-5)


def test_the_unit_is_a_mean_at_first_and_then_forgets():
    statistics, squares = advantages.init_statistics(), [4.0, 2.0, 9.0]
    assert advantages.advantage_scale(statistics) == 1.0
    for n, square in enumerate(squares):
        statistics = advantages.advance_statistics(statistics, square, n)
    np.testing.assert_allclose(advantages.advantage_scale(statistics), np.sqrt(5.0), rtol=1e-6)
    later = advantages.advance_statistics(statistics, 105.0, 5_000)
    np.testing.assert_allclose(advantages.advantage_scale(later) ** 2, 5.0 + 0.01 * 100, rtol=1e-5)


def test_the_unit_has_a_floor():
    still = {"advantage": {"mean_square": jnp.zeros(())}}
    assert advantages.advantage_scale(still) == pytest.approx(1e-3)
