"""Exact MDPs, their operators, the worlds and the losses, against slow NumPy sums and against
theory.
"""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend.core import jaxprs_in_params

from muzero.tabular import fast_losses, mdp, policies, value_equivalence, worlds

GAMMA = 0.9
# One compilation a shape: eager control flow is compiled anew at every call.
bellman = jax.jit(mdp.bellman, static_argnums=3)
policy_value, policy_values = (
    jax.jit(mdp.policy_value),
    jax.jit(jax.vmap(mdp.policy_value, in_axes=(None, 0))),
)
optimal_policy, optimal_value = jax.jit(mdp.optimal_policy), jax.jit(mdp.optimal_value)
planning_value = jax.jit(mdp.planning_value)
loss_of = jax.jit(value_equivalence.value_equivalence_loss, static_argnums=2)


@pytest.fixture(autouse=True)
def exact():
    """Everything here is float64, and only here."""
    with jax.enable_x64(True):
        yield


def random_world(seed=0, num_states=4, num_actions=3):
    """NumPy's numbers: every shape that JAX draws is compiled for a second."""
    rng = np.random.default_rng(seed)
    transition = rng.dirichlet(np.full(num_states, 0.5), (num_actions, num_states))
    return mdp.MDP(transition, rng.uniform(size=(num_actions, num_states)), GAMMA)


def random_pair(seed=1, num_states=4, num_actions=3):
    rng = np.random.default_rng(seed)
    return rng.dirichlet(np.ones(num_actions), num_states).T, rng.normal(size=num_states)


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
        np.testing.assert_allclose(
            bellman(world, policy, value, order), expected, rtol=0, atol=1e-14
        )
        expected = bellman_by_loops(world, np.asarray(policy), expected)


def test_the_value_is_the_fixed_point_and_the_limit():
    world, (policy, value) = random_world(), random_pair()
    fixed = policy_value(world, policy)
    np.testing.assert_allclose(bellman(world, policy, fixed), fixed, rtol=0, atol=1e-13)
    np.testing.assert_allclose(bellman(world, policy, value, 400), fixed, rtol=0, atol=1e-13)


def test_policy_iteration_finds_the_best_of_all_deterministic_policies():
    world = random_world()
    everyone = policies.all_deterministic_policies(3, 4)
    assert len(everyone) == 81
    values = policy_values(world, everyone)
    np.testing.assert_allclose(optimal_value(world), values.max(axis=0), rtol=0, atol=1e-12)
    np.testing.assert_allclose(planning_value(world, world), values.max(axis=0), rtol=0, atol=1e-12)


def test_a_batch_of_worlds_is_solved_as_each_alone():
    many = [random_world(seed) for seed in range(4)]
    batch = jax.tree.map(lambda *leaves: np.stack(leaves), *many)
    together = jax.vmap(mdp.optimal_value)(batch)
    np.testing.assert_allclose(
        together, [optimal_value(world) for world in many], rtol=0, atol=1e-12
    )


def test_planning_in_a_wrong_model_is_worse():
    world = random_world()
    wrong = world._replace(reward=-world.reward)
    loss = optimal_value(world) - planning_value(world, wrong)
    assert loss.min() >= -1e-12 and loss.max() > 0.1


def test_corollary_3_of_approximate_value_equivalence_needs_its_denominator():
    """One state, two actions, true values: by the text's 2 (ε + 2 γ^k ε') at most 1.02 could be
    lost, and 10 is.
    """
    stays = np.ones((2, 1, 1))
    world = mdp.MDP(stays, np.array([[1.0], [0.0]]), GAMMA)
    model = mdp.MDP(stays, np.array([[0.5], [0.51]]), GAMMA)
    tolerance = 0.51  # |T̃_π v − T_π v| of the second action, that of the first is 0.5
    lost = float(optimal_value(world)[0] - policy_value(world, optimal_policy(model))[0])
    assert lost == pytest.approx(10.0)
    assert 2 * tolerance < lost < 2 * tolerance / (1 - GAMMA)


def test_the_stationary_distribution_stays():
    world, (policy, _) = random_world(), random_pair()
    weight = mdp.stationary_distribution(world, policy)
    np.testing.assert_allclose(
        weight @ mdp.policy_transition(world, policy), weight, rtol=0, atol=1e-14
    )
    assert weight.sum() == pytest.approx(1.0) and weight.min() > 0


def test_precision_is_that_of_the_arguments():
    assert optimal_value(random_world()).dtype == np.float64
    with jax.enable_x64(False):
        assert optimal_value(random_world()).dtype == np.float32


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
    assert world.reward[up, below] == pytest.approx(0.8) and world.reward[
        down, below
    ] == pytest.approx(0.2 / 3)
    assert world.reward[up, corner] == pytest.approx(0.8 + 0.2 / 3)  # up or right into the wall
    assert world.transition[left, middle, squares.index((3, 2))] == pytest.approx(0.8)
    assert world.transition[left, middle, squares.index((4, 3))] == pytest.approx(0.2 / 3)
    # To the door, not into the wall
    assert optimal_policy(world)[:, squares.index((8, 11))].argmax() == left


def test_a_ring_and_its_false_ring_agree_after_whole_turns_only():
    reward, value = np.random.default_rng(0).normal(size=(2, 6))
    true, false = (
        worlds.ring(jnp.asarray(reward), GAMMA),
        worlds.false_ring(jnp.asarray(reward), GAMMA),
    )
    policy = jnp.ones((1, 6))
    apart = [
        np.abs(bellman(true, policy, value, k) - bellman(false, policy, value, k)).max()
        for k in range(13)
    ]
    assert max(apart[0], apart[6], apart[12]) < 1e-13
    assert min(apart[1:6] + apart[7:12]) > 1e-3


def test_the_dithering_model_is_right_for_deterministic_policies_only():
    environment, model = worlds.dithering(GAMMA)
    everyone = jnp.append(
        policies.all_deterministic_policies(2, 3), jnp.full((1, 2, 3), 0.5), axis=0
    )
    gap = np.abs(policy_values(environment, everyone) - policy_values(model, everyone)).max(axis=1)
    assert gap[:-1].max() < 1e-14 and gap[-1] > 0.1


def test_a_garnet_branches_as_asked():
    world = worlds.garnet(jax.random.key(0), 7, 3, 3, GAMMA)
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
    policy, value = map(np.stack, zip(*map(random_pair, (1, 2)), strict=True))
    batch = value_equivalence.order_k_batch(world, policy, value, 3)
    assert loss_of(world, batch, 3) < 1e-26
    wrong = np.array(
        [
            bellman(model, *pair, 3) - bellman(world, *pair, 3)
            for pair in zip(policy, value, strict=True)
        ]
    )
    loss = loss_of(model, batch, 3)
    assert loss == pytest.approx((wrong**2).sum(axis=1).mean(), rel=1e-12)


@pytest.mark.parametrize("order", [1, 4])
def test_a_proper_batch_asks_for_values_at_any_order(order):
    world = random_world()
    batch = value_equivalence.proper_batch(world, policies.all_deterministic_policies(3, 4)[:7])
    assert loss_of(world, batch, order) < 1e-26
    assert loss_of(random_world(9), batch, order) > 1e-2


@pytest.mark.parametrize("rank", [None, 2])
def test_a_model_has_stochastic_rows_of_the_asked_rank(rank):
    params = value_equivalence.init_params(jax.random.key(0), 3, 6, rank)
    model = value_equivalence.to_mdp(params, GAMMA)
    np.testing.assert_allclose(model.transition.sum(axis=-1), 1.0, rtol=0, atol=1e-14)
    assert set(np.linalg.matrix_rank(model.transition)) == {rank or 6}
    assert params.reward.shape == (3, 6) and np.abs(params.reward).max() <= 1
    assert 3 < max(np.abs(logits).max() for logits in params.logits) <= 5


@pytest.mark.parametrize("rank, order", [(None, 1), (None, 3), (2, 1), (2, 3)])
def test_the_fast_loss_and_its_gradient_are_the_plain_ones(rank, order):
    rng = np.random.default_rng(0)
    shapes = [(3, 4, 4)] if rank is None else [(3, 4, rank), (3, rank, 4)]
    params = value_equivalence.ModelParams(
        rng.normal(size=(3, 4)), tuple(rng.normal(size=shape) for shape in shapes)
    )
    policy, value = map(np.stack, zip(*map(random_pair, range(5)), strict=True))
    batch = value_equivalence.Equations(policy, value, rng.normal(size=value.shape))

    def plain(p):
        return value_equivalence.value_equivalence_loss(
            value_equivalence.to_mdp(p, GAMMA), batch, order
        )

    def fast(p):
        return fast_losses.fast_loss(p, GAMMA, batch, order)

    ours, expected = jax.jit(lambda p: (jax.value_and_grad(fast)(p), jax.value_and_grad(plain)(p)))(
        params
    )
    jax.tree.map(
        lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-12, atol=1e-13), ours, expected
    )
    assert all(np.abs(leaf).max() > 1e-3 for leaf in jax.tree.leaves(ours))


def product_flops(jaxpr):
    """Returns the operations of all matrix products of a program, those of a loop as often as it
    goes round.
    """
    total = 0
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            (contracted, _), _ = equation.params["dimension_numbers"]
            inner = [equation.invars[0].aval.shape[axis] for axis in contracted]
            total += 2 * math.prod([*equation.outvars[0].aval.shape, *inner])
        parts = sum(product_flops(part) for part in jaxprs_in_params(equation.params))
        total += parts * equation.params.get("length", 1)
    return total


@pytest.mark.parametrize("rank, order", [(None, 1), (None, 7), (3, 1), (3, 4)])
def test_the_operations_of_an_update_are_those_of_its_program(rank, order):
    params = value_equivalence.init_params(jax.random.key(0), 2, 6, rank)
    batch = value_equivalence.Equations(np.ones((5, 2, 6)), np.ones((5, 6)), np.ones((5, 6)))
    gradient = jax.make_jaxpr(jax.grad(lambda p: fast_losses.fast_loss(p, GAMMA, batch, order)))(
        params
    )
    assert product_flops(gradient.jaxpr) == fast_losses.update_flops(2, 6, rank, 5, order)
