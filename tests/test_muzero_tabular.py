"""Exact MDPs, their operators, the worlds and the losses, against slow NumPy sums and against theory."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from muzero.tabular import mdp, policies, value_equivalence, worlds

GAMMA = 0.9
# One compilation a shape: eager control flow is compiled anew at every call.
bellman = jax.jit(mdp.bellman, static_argnums=3)
policy_value, policy_values = jax.jit(mdp.policy_value), jax.jit(jax.vmap(mdp.policy_value, in_axes=(None, 0)))
optimal_policy, optimal_value = jax.jit(mdp.optimal_policy), jax.jit(mdp.optimal_value)
planning_value, garnet = jax.jit(mdp.planning_value), jax.jit(worlds.garnet, static_argnums=(1, 2, 3))
loss_of = jax.jit(value_equivalence.value_equivalence_loss, static_argnums=2)


@pytest.fixture(autouse=True)
def exact():
    """Everything here is float64, and only here."""
    with jax.enable_x64(True):
        yield


def random_world(seed=0, num_states=5, num_actions=3):
    return garnet(jax.random.key(seed), num_states, num_actions, 3, GAMMA)


def random_pair(seed=1, num_states=5, num_actions=3):
    policy = policies.stochastic_policy(jax.random.key(seed), num_actions, num_states)
    return policy, jax.random.normal(jax.random.key(seed + 1), (num_states,))


def bellman_by_loops(world, policy, value):
    transition, reward = np.asarray(world.transition), np.asarray(world.reward)
    new = np.zeros(len(value))
    for action, state in itertools.product(*map(range, reward.shape)):
        expected = sum(transition[action, state, then] * value[then] for then in range(len(value)))
        new[state] += policy[action, state] * (reward[action, state] + GAMMA * expected)
    return new


def test_the_operator_is_the_papers_sum_and_its_power_repeats_it():
    world, (policy, value) = random_world(), random_pair()
    expected = np.asarray(value)
    for order in range(4):
        np.testing.assert_allclose(bellman(world, policy, value, order), expected, rtol=0, atol=1e-14)
        expected = bellman_by_loops(world, np.asarray(policy), expected)


def test_the_value_is_the_fixed_point_and_the_limit():
    world, (policy, value) = random_world(), random_pair()
    fixed = policy_value(world, policy)
    np.testing.assert_allclose(bellman(world, policy, fixed), fixed, rtol=0, atol=1e-13)
    np.testing.assert_allclose(bellman(world, policy, value, 400), fixed, rtol=0, atol=1e-13)


def test_policy_iteration_finds_the_best_of_all_deterministic_policies():
    world = random_world(num_states=4)
    everyone = policies.all_deterministic_policies(3, 4)
    assert len(everyone) == 81
    values = policy_values(world, everyone)
    np.testing.assert_allclose(optimal_value(world), values.max(axis=0), rtol=0, atol=1e-12)
    np.testing.assert_allclose(planning_value(world, world), values.max(axis=0), rtol=0, atol=1e-12)


def test_a_batch_of_worlds_is_solved_as_each_alone():
    many = [random_world(seed) for seed in range(4)]
    batch = jax.tree.map(lambda *leaves: jnp.stack(leaves), *many)
    together = jax.vmap(mdp.optimal_value)(batch)
    np.testing.assert_allclose(together, [optimal_value(world) for world in many], rtol=0, atol=1e-12)


def test_planning_in_a_wrong_model_is_worse():
    world = random_world()
    wrong = world._replace(reward=-world.reward)
    loss = optimal_value(world) - planning_value(world, wrong)
    assert loss.min() >= -1e-12 and loss.max() > 0.1


def test_the_stationary_distribution_stays():
    world, (policy, _) = random_world(), random_pair()
    weight = mdp.stationary_distribution(world, policy)
    np.testing.assert_allclose(weight @ mdp.policy_transition(world, policy), weight, rtol=0, atol=1e-14)
    assert weight.sum() == pytest.approx(1.0) and weight.min() > 0


def test_precision_is_that_of_the_arguments():
    assert optimal_value(random_world()).dtype == np.float64
    with jax.enable_x64(False):
        assert mdp.optimal_value(random_world()).dtype == np.float32


def test_four_rooms_is_the_papers():
    world = worlds.four_rooms()
    assert world.transition.shape == (4, 104, 104) and world.reward.shape == (4, 104)
    np.testing.assert_allclose(world.transition.sum(axis=-1), 1.0, rtol=0, atol=1e-14)
    squares = [tuple(square) for square in np.argwhere(worlds.four_rooms_map())]
    corner, below, middle = squares.index((1, 11)), squares.index((2, 11)), squares.index((3, 3))
    up, down, right, left = range(4)
    # Only the upper-right square pays, from wherever it is entered; walls hold.
    assert {int(state) for state in np.flatnonzero(np.asarray(world.reward).max(axis=0))} == {
        corner, below, squares.index((1, 10))
    }  # fmt: skip
    assert world.reward[up, below] == pytest.approx(0.8) and world.reward[down, below] == pytest.approx(0.2 / 3)
    assert world.reward[up, corner] == pytest.approx(0.8 + 0.2 / 3)  # up or right into the wall
    assert world.transition[left, middle, squares.index((3, 2))] == pytest.approx(0.8)
    assert world.transition[left, middle, squares.index((4, 3))] == pytest.approx(0.2 / 3)
    assert optimal_policy(world)[:, squares.index((8, 11))].argmax() == left  # to the door, not into the wall


def test_a_ring_and_its_false_ring_agree_after_whole_turns_only():
    reward = jax.random.normal(jax.random.key(0), (6,))
    true, false = worlds.ring(reward, GAMMA), worlds.false_ring(reward, GAMMA)
    policy, value = jnp.ones((1, 6)), jax.random.normal(jax.random.key(1), (6,))
    apart = [np.abs(bellman(true, policy, value, k) - bellman(false, policy, value, k)).max() for k in range(13)]
    assert max(apart[0], apart[6], apart[12]) < 1e-13
    assert min(apart[1:6] + apart[7:12]) > 1e-3


def test_the_dithering_model_is_right_for_deterministic_policies_only():
    environment, model = worlds.dithering(GAMMA)
    gap = lambda policy: np.abs(policy_value(environment, policy) - policy_value(model, policy)).max()
    assert max(map(gap, policies.all_deterministic_policies(2, 3))) < 1e-14
    assert gap(jnp.full((2, 3), 0.5)) > 0.1


def test_a_garnet_branches_as_asked():
    world = random_world(num_states=7)
    assert ((np.asarray(world.transition) > 0).sum(axis=-1) == 3).all()
    np.testing.assert_allclose(world.transition.sum(axis=-1), 1.0, rtol=0, atol=1e-14)


def test_slow_policy_iteration_improves_until_it_starts_again():
    world = random_world()
    chain = policies.improvement_policies(jax.random.key(0), world, 60, fraction=0.5)
    mean = np.asarray(policy_values(world, chain).mean(axis=1))
    falls = np.flatnonzero(np.diff(mean) < -1e-12)
    assert 1 < len(falls) < 20
    np.testing.assert_allclose(mean[falls], optimal_value(world).mean(), rtol=0, atol=1e-12)


@pytest.mark.parametrize("deterministic", [True, False])
def test_noise_changes_some_states_to_the_asked_kind(deterministic):
    policy = policies.deterministic_policy(jax.random.key(0), 4, 2000)
    noisy = policies.perturbed_policy(jax.random.key(1), policy, deterministic=deterministic)
    changed = np.asarray((noisy != policy).any(axis=0))
    assert changed.mean() == pytest.approx(0.075 if deterministic else 0.1, abs=0.025)
    assert set(np.unique(noisy[:, changed])) == ({0.0, 1.0} if deterministic else {0.25})


def test_the_loss_is_zero_for_the_environment_and_the_mean_of_squares_else():
    world, model = random_world(), random_world(9)
    policy = jnp.stack([random_pair(seed)[0] for seed in (1, 2)])
    value = jnp.stack([random_pair(seed)[1] for seed in (1, 2)])
    batch = value_equivalence.order_k_batch(world, policy, value, 3)
    assert loss_of(world, batch, 3) < 1e-26
    wrong = np.array([bellman(model, *pair, 3) - bellman(world, *pair, 3) for pair in zip(policy, value, strict=True)])
    loss = loss_of(model, batch, 3)
    assert loss == pytest.approx((wrong**2).sum(axis=1).mean(), rel=1e-12)


@pytest.mark.parametrize("order", [1, 4])
def test_a_proper_batch_asks_for_values_at_any_order(order):
    world = random_world()
    batch = value_equivalence.proper_batch(world, policies.all_deterministic_policies(3, 5)[:7])
    assert loss_of(world, batch, order) < 1e-26
    assert loss_of(random_world(9), batch, order) > 1e-2


@pytest.mark.parametrize("rank", [None, 1, 2])
def test_a_model_has_stochastic_rows_of_the_asked_rank(rank):
    params = value_equivalence.init_params(jax.random.key(0), 3, 6, rank)
    model = value_equivalence.to_mdp(params, GAMMA)
    np.testing.assert_allclose(model.transition.sum(axis=-1), 1.0, rtol=0, atol=1e-14)
    assert set(np.linalg.matrix_rank(model.transition)) == {rank or 6}
    assert params.reward.shape == (3, 6) and np.abs(params.reward).max() <= 1
    assert 3 < max(np.abs(logits).max() for logits in params.logits) <= 5
