"""Models learned in expectation: losses against sums over states and actions, and where learning
ends.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from muzero.tabular import mdp, model_learning, worlds

A, S, GAMMA = 2, 3, 0.9


def _random(seed):
    rng = np.random.default_rng(seed)
    environment = mdp.MDP(rng.dirichlet(np.ones(S), (A, S)), rng.normal(size=(A, S)), GAMMA)
    policy = rng.dirichlet(np.ones(A), S).T
    return environment, policy, rng.normal(size=(A, S, S)), rng.normal(size=S)


def _expected_square(p, e, policy, value, b, weight):
    """Mean over (s, a) of (E_p V − E T^b V)² + weight · Var_p V, in loops."""
    total = 0.0
    for a in range(A):
        for s in range(S):
            after = [value[y] if b == 0 else sum(
                policy[k, y] * (e.reward[k, y] + GAMMA * e.transition[k, y] @ value)
                for k in range(A))
                for y in range(S)]  # fmt: skip
            mean = sum(p[a, s, y] * value[y] for y in range(S))
            variance = sum(p[a, s, y] * (value[y] - mean) ** 2 for y in range(S))
            total += (mean - e.transition[a, s] @ after) ** 2 + weight * variance
    return total / (A * S)


@pytest.mark.parametrize("b, weight", [(0, 1.0), (1, 0.0), (1, 0.5)])
def test_value_aware_losses_are_sums_over_states_and_actions(b, weight):
    environment, policy, logits, value = _random(b)
    p = np.exp(logits) / np.exp(logits).sum(axis=-1, keepdims=True)
    with jax.enable_x64(True):
        loss = model_learning.value_aware_loss(b, weight)(
            *map(jnp.asarray, (logits, value, value)), environment, policy
        )
    np.testing.assert_allclose(
        loss, _expected_square(p, environment, policy, value, b, weight), rtol=1e-12
    )


@pytest.mark.parametrize("weight", [0.0, 1.0])
def test_the_rooted_loss_adds_td_on_the_state_without_a_gradient_through_its_target(weight):
    environment, policy, logits, value = _random(2)
    flow = np.einsum("as,ast->st", policy, environment.transition)
    error = value - (policy * environment.reward).sum(axis=0) - GAMMA * flow @ value
    with jax.enable_x64(True):
        rooted, alone = (
            jax.value_and_grad(loss, argnums=(0, 1))(
                *map(jnp.asarray, (logits, value, value)), environment, policy
            )
            for loss in (
                model_learning.rooted_loss(weight),
                model_learning.value_aware_loss(1, weight),
            )
        )
    added = jax.tree.map(lambda with_term, without: with_term - without, rooted, alone)
    np.testing.assert_allclose(added[0], np.mean(error**2), rtol=1e-10)
    np.testing.assert_allclose(added[1][0], 0.0, atol=1e-12)
    np.testing.assert_allclose(added[1][1], 2 * error / S, rtol=1e-10)


def test_the_likelihood_is_greatest_at_the_true_transitions():
    environment, policy, logits, value = _random(4)
    slope = jax.grad(model_learning.likelihood_loss)(
        jnp.log(environment.transition), value, value, environment, policy
    )
    np.testing.assert_allclose(slope, 0.0, atol=1e-7)


@functools.partial(jax.jit, static_argnums=0)
def _learned(name):
    world = worlds.tempered_garnet(
        jax.random.key(3), 6, branching=3, temperature=1.0, discount=GAMMA
    )
    policy = jnp.ones((1, 6))
    params = model_learning.init_params(jax.random.key(4), 1, 6, 6)
    schedule = dict(num_rounds=1, num_updates=1500, learning_rate=0.02)
    params, _ = model_learning.learn(
        model_learning.LEARNERS[name], world, policy, params, **schedule
    )
    return model_learning.measure(params, world, policy, mdp.policy_value(world, policy))


def test_the_calibrated_loss_learns_values_and_the_uncalibrated_one_a_model_without_variance():
    calibrated, usual = (
        jax.device_get(_learned(name)) for name in ("itervaml-calibrated", "itervaml")
    )
    assert calibrated["value_error"] < 0.01 and calibrated["model_error"] < 0.01
    assert usual["value_error"] > 10 * calibrated["value_error"]
    assert usual["entropy"] < 0.2 < calibrated["entropy"]


@pytest.mark.usefixtures("quick_compilation")
def test_with_a_certain_next_state_the_loss_is_linear_in_the_model_and_descent_finds_that_state():
    """Σ_j p_j (V_j − V_s')², for any V: least at s', with no other place where it is flat. The
    learner descends on it although its values are still wrong; with two equally likely next states
    it is not linear, and its minimum is another model.
    """
    value = jnp.array([0.3, -1.0, 2.0])
    certain = mdp.MDP(jnp.roll(jnp.eye(S), 1, axis=1)[None], jnp.zeros((1, S)), GAMMA)
    torn = (certain.transition + jnp.eye(S)) / 2
    learner, policy = model_learning.LEARNERS["itervaml-free"], jnp.ones((1, S))
    logits = model_learning.free_params(jax.random.key(0), 1, S).left

    def loss(logits, world=certain):
        return learner.loss(logits, value, value, world, policy)

    expected = jax.nn.softmax(logits[0]) * (value - jnp.roll(value, -1)[:, None]) ** 2
    np.testing.assert_allclose(loss(logits), expected.sum(axis=1).mean(), rtol=1e-5)

    @jax.jit
    @jax.vmap
    def error(transition):
        world = certain._replace(transition=transition)
        step = jax.grad(loss)
        last = jax.lax.fori_loop(0, 2000, lambda _, x: x - S * step(x, world), logits)
        return jnp.abs((jax.nn.softmax(last) - transition) @ value).max()

    errors = error(jnp.stack([certain.transition, torn]))
    assert errors[0] < 0.01 and errors[1] > 0.1


def test_the_term_of_the_state_sees_a_wrong_value_that_the_unrolled_loss_accepts():
    """Two states, either next with chance 1/2, rewards 1 and -1: v_π = (1, -1). V = -v_π has the
    expectations 0 that the unrolled loss asks for and misses T V = v_π by 2 in each state.
    """
    logits, half = jnp.zeros((1, 2, 2)), jnp.full((1, 2, 2), 0.5)
    world = mdp.MDP(half, jnp.array([[1.0, -1.0]]), GAMMA)
    value = jnp.array([-1.0, 1.0])
    arguments = logits, value, value, world, jnp.ones((1, 2))
    assert model_learning.LEARNERS["muzero-calibrated"].loss(*arguments) == 0.0
    assert model_learning.LEARNERS["muzero-root-calibrated"].loss(*arguments) == 4.0


@pytest.mark.parametrize("name, rests", [("calibrated", True), ("", False)])
def test_muzero_rests_at_the_environment_and_its_values_only_if_calibrated(name, rests):
    learner = model_learning.LEARNERS["-".join(filter(None, ("muzero-root", name)))]
    environment, policy, _, _ = _random(6)
    with jax.enable_x64(True):
        environment, policy = jax.tree.map(jnp.asarray, (environment, policy))
        value = mdp.policy_value(environment, policy)
        logits = jnp.log(environment.transition)
        slopes = jax.grad(learner.loss, argnums=(0, 1))(logits, value, value, environment, policy)
    for slope in slopes:
        assert (np.abs(slope).max() < 1e-12) == rests


@pytest.mark.usefixtures("quick_compilation")
@pytest.mark.parametrize("period, copied", [(1, [0, 1, 2, 3, 4]), (2, [0, 0, 2, 2, 4])])
def test_the_target_is_the_value_of_some_updates_ago(period, copied):
    """A tape of both: the target of an update is the value that the last multiple of the period
    saw; a loss that asks for more than the target moves the value at every update.
    """
    environment, policy, _, _ = jax.tree.map(jnp.float32, _random(7))
    seen = []

    def rising(logits, value, target, environment, policy):
        jax.debug.callback(lambda *both: seen.append(np.array(both)), value, target, ordered=True)
        return jnp.sum(jnp.square(value - target - 1))

    learner = model_learning.Learner(rising, backs_up=False, target_period=period)
    params = model_learning.init_params(jax.random.key(0), A, S, 2)
    settings = dict(num_rounds=1, num_updates=5, learning_rate=0.1)
    model_learning.learn(learner, environment, policy, params, **settings)
    jax.effects_barrier()
    value, target = np.stack(seen).swapaxes(0, 1)
    assert len(np.unique(value[:, 0])) == 5
    np.testing.assert_array_equal(target, value[copied])


def test_rounds_hand_the_improved_policy_on():
    """A tape: each round sees what the last `next_policy` returned, and so does the caller."""
    environment, policy, _, _ = _random(5)
    environment = jax.tree.map(jnp.float32, environment)
    params = model_learning.init_params(jax.random.key(0), A, S, 2)
    seen = []

    def flip(params, environment, policy):
        jax.debug.callback(lambda p: seen.append(np.array(p)), policy, ordered=True)
        return policy[::-1]

    settings = dict(num_rounds=3, num_updates=1, learning_rate=0.1, next_policy=flip)
    learner = model_learning.LEARNERS["muzero"]
    _, last = model_learning.learn(learner, environment, jnp.float32(policy), params, **settings)
    jax.effects_barrier()
    np.testing.assert_array_equal(seen, np.float32([policy, policy[::-1], policy]))
    np.testing.assert_array_equal(last, np.float32(policy[::-1]))


@pytest.mark.parametrize("temperature, largest", [(0.001, 1.0), (1000.0, 1 / 4)])
def test_the_temperature_of_a_garnet_runs_from_certain_to_uniform(temperature, largest):
    garnet = worlds.tempered_garnet(
        jax.random.key(1), 9, branching=4, temperature=temperature, discount=GAMMA
    )
    transition = np.asarray(garnet.transition[0])
    np.testing.assert_allclose(transition.sum(axis=1), 1.0, rtol=1e-5)
    np.testing.assert_allclose(transition.max(axis=1), largest, atol=2e-3)
    assert (transition > 0).sum(axis=1).max() <= 4


def test_the_cliff_walk_by_hand():
    """Without noise: six steps of 0.1 from the start to the goal; right of the start is the cliff;
    the goal is free.
    """
    walk = worlds.cliff_walk(1e-3, GAMMA)
    value = np.asarray(mdp.optimal_value(walk))
    np.testing.assert_allclose(value[20], -0.1 * sum(GAMMA**k for k in range(6)), rtol=1e-5)
    np.testing.assert_allclose(value[[19, 24]], [-0.1, 0.0], atol=1e-6)
    assert walk.reward[2, 20] == -1.0 and walk.transition[2, 20, 20] == 1.0
    noisy = worlds.cliff_walk(1.0, GAMMA)
    np.testing.assert_allclose(np.asarray(noisy.transition).sum(axis=-1), 1.0, rtol=1e-6)
    fall = 1 / (np.e + 3)  # up from above the cliff, with one of the three other moves: down
    np.testing.assert_allclose(
        [noisy.reward[0, 17], noisy.transition[0, 17, 20]], [-0.1 - 0.9 * fall, fall], rtol=1e-5
    )
