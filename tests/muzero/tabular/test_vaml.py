"""(m, b)-VAML losses: enumeration of every rollout, the sampled against the expected forms, what
each loss prefers.
"""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from muzero.tabular import vaml

S, GAMMA = 3, 0.9
ORDERS = [(1, 0), (2, 0), (1, 1), (2, 1), (1, 2), (0, 1), (0, 0)]


def chain(rng, size=S):
    return rng.dirichlet(np.ones(size), size=size)


def problem(seed):
    rng = np.random.default_rng(seed)
    return dict(
        model=chain(rng),
        env=chain(rng),
        **{k: rng.normal(size=S) for k in ("reward", "value", "target")},
    )


def rollouts(transition, start, length):
    """Yields (probability, states) of every path of `length` steps."""
    for path in itertools.product(range(S), repeat=length):
        states = (start, *path)
        yield np.prod([transition[x, y] for x, y in itertools.pairwise(states)] or [1.0]), states


def sampled_target(p, states, m, b):
    rewards = sum(GAMMA**j * p["reward"][states[m + j]] for j in range(b))
    return rewards + GAMMA**b * p["target"][states[m + b]]


def enumerated_loss(p, start, m, b, num_samples):
    """The expectation of the sampled loss as a sum over every path of every rollout."""
    total = 0.0
    for target_prob, states in rollouts(p["env"], start, m + b):
        target = sampled_target(p, states, m, b)
        for draws in itertools.product(list(rollouts(p["model"], start, m)), repeat=num_samples):
            probability = target_prob * np.prod([prob for prob, _ in draws])
            total += (
                probability * (np.mean([p["value"][path[-1]] for _, path in draws]) - target) ** 2
            )
    return total


def expected(p, m, b, weight):
    with jax.enable_x64(True):
        target = vaml.target_moments(p["env"], p["reward"], jnp.asarray(p["target"]), m, b, GAMMA)
        loss = vaml.expected_loss(
            jnp.asarray(p["model"]), jnp.asarray(p["value"]), target.mean, m, weight
        )
        return np.asarray(loss), np.asarray(target.variance)


@pytest.mark.parametrize("num_samples", [1, 2])
@pytest.mark.parametrize("m, b", ORDERS)
def test_the_expected_loss_is_the_sum_over_every_rollout(m, b, num_samples):
    p = problem(10 * m + b)
    loss, target_variance = expected(p, m, b, 1 / num_samples)
    oracle = [enumerated_loss(p, start, m, b, num_samples) for start in range(S)]
    np.testing.assert_allclose(loss + target_variance, oracle, rtol=1e-12)


def windows(p, start, m, b, size, rng):
    cumulative = np.cumsum(p["env"], axis=1)
    states = [np.full(size, start)]
    for _ in range(m + b):
        states.append(
            (rng.random(size)[:, None] > cumulative[states[-1]]).sum(axis=1).clip(max=S - 1)
        )
    reward = np.stack([p["reward"][x] for x in states[:-1]], axis=1)
    return vaml.Windows(states[0], np.zeros((size, m + b), int), reward, states[-1])


def tabular(p):
    """The functions of a tabular model and value: what an agent's networks are for latents."""
    log_model, value, target = (
        jnp.asarray(x) for x in (np.log(p["model"]), p["value"], p["target"])
    )

    def step(key, state, action):
        return jax.random.categorical(key, log_model[state])

    return step, lambda state: value[state], lambda state: target[state]


@pytest.mark.parametrize(
    "error_fn, weight", [(vaml.squared_error, 1 / 2), (vaml.calibrated_error, 0.0)]
)
@pytest.mark.parametrize("m, b", [(1, 0), (2, 1)])
def test_the_sampled_losses_have_their_expectations(m, b, error_fn, weight):
    p, size = problem(3), 40_000
    batch = windows(p, 1, m, b, size, np.random.default_rng(5))
    step, value, target = tabular(p)
    prediction = vaml.predicted_values(step, value, batch, m, 2, jax.random.key(0))
    errors = np.asarray(
        error_fn(prediction, vaml.bootstrapped_target(batch, target, m, GAMMA)), np.float64
    )
    loss, variance = expected(p, m, b, weight)
    standard_error = errors.std() / size**0.5
    assert abs(errors.mean() - (loss + variance)[1]) < 4 * standard_error
    other = expected(p, m, b, 1 / 2 - weight)[0] + variance
    assert abs(errors.mean() - other[1]) > 20 * standard_error  # the two losses are told apart


def test_the_loss_of_a_batch_is_the_mean_of_its_errors():
    p = problem(4)
    batch = windows(p, 0, 1, 2, 64, np.random.default_rng(1))
    step, value, target = tabular(p)
    settings = dict(m=1, discount=GAMMA, num_samples=3, error_fn=vaml.calibrated_error)
    loss, metrics = vaml.vaml_loss(step, value, target, batch, jax.random.key(2), **settings)
    prediction = np.asarray(
        vaml.predicted_values(step, value, batch, 1, 3, jax.random.key(2)), np.float64
    )
    goal = (
        batch.reward[:, 1] + GAMMA * batch.reward[:, 2] + GAMMA**2 * p["target"][batch.final_state]
    )
    oracle = (prediction.mean(axis=1) - goal) ** 2 - prediction.var(axis=1, ddof=1) / 3
    np.testing.assert_allclose(loss, oracle.mean(), rtol=1e-5)
    np.testing.assert_allclose(metrics["target"], goal.mean(), rtol=1e-5)


def test_two_calibrated_samples_multiply():
    """(mean − y)² − var / 2 = (v₁ − y)(v₂ − y): 3·1 − 5 = −2 and so on, by hand."""
    prediction, target = jnp.array([[3.0, 7.0], [2.0, 2.0]]), jnp.array([5.0, 5.0])
    np.testing.assert_allclose(vaml.calibrated_error(prediction, target), [-4.0, 9.0])
    np.testing.assert_allclose(vaml.squared_error(prediction, target), [0.0, 9.0])


def test_one_sample_cannot_be_calibrated():
    with pytest.raises(ValueError, match="at least 2 sampled predictions, got 1"):
        vaml.calibrated_error(jnp.zeros((4, 1)), jnp.zeros(4))


def test_no_gradient_reaches_the_target_and_td_is_the_case_of_no_model_step():
    """(0, 1): gradient 2 (V(x) − r − γ V(x')) at x alone, although the target is the same table."""
    table, batch = (
        jnp.array([1.0, 2.0, 4.0]),
        vaml.Windows(*map(jnp.asarray, ([0], [[0]], [[0.5]], [2]))),
    )

    def loss(value):
        def fn(state):
            return value[state]

        settings = dict(m=0, discount=GAMMA, num_samples=1, error_fn=vaml.squared_error)
        return vaml.vaml_loss(None, fn, fn, batch, jax.random.key(0), **settings)[0]

    np.testing.assert_allclose(
        jax.grad(loss)(table), [2 * (1.0 - 0.5 - GAMMA * 4.0), 0.0, 0.0], rtol=1e-6
    )


def test_gradients_pass_a_differentiable_model():
    batch = vaml.Windows(jnp.ones((2, 1)), jnp.zeros((2, 1)), jnp.zeros((2, 1)), jnp.zeros((2, 1)))

    def loss(slope):
        def step(key, state, action):
            return slope * state + jax.random.normal(key, state.shape)

        def value(state):
            return state[:, 0]

        settings = dict(m=1, discount=1.0, num_samples=4, error_fn=vaml.calibrated_error)
        return vaml.vaml_loss(step, value, value, batch, jax.random.key(0), **settings)[0]

    slope, step = 0.7, 1e-2
    numeric = (loss(slope + step) - loss(slope - step)) / (2 * step)
    np.testing.assert_allclose(jax.grad(loss)(slope), numeric, rtol=1e-3)


def test_a_true_model_has_no_calibrated_loss_and_an_uncalibrated_one_of_its_variance():
    p = problem(8)
    p["model"], p["value"] = p["env"], p["target"]
    exact = p["env"] @ p["value"] ** 2 - (p["env"] @ p["value"]) ** 2
    np.testing.assert_allclose(expected(p, 1, 0, 0.0)[0], 0.0, atol=1e-28)
    np.testing.assert_allclose(expected(p, 1, 0, 1.0)[0], exact, rtol=1e-12)
