"""What values pin down of a model, in Four Rooms and where they do not."""

import jax
import numpy as np

from muzero.tabular import pinning, worlds


def _values(transition, reward, discount, action):
    """Returns v_π [N, S] of deterministic policies [N, S], in float64."""
    states = np.arange(action.shape[1])
    flow = np.eye(len(states)) - discount * transition[action, states]
    return np.linalg.solve(flow, reward[action, states][..., None])[..., 0]


def _policies(rng, num_policies, num_actions, num_states):
    return rng.integers(0, num_actions, (num_policies, num_states))


def test_the_values_of_deterministic_policies_in_four_rooms_have_one_model():
    """Rank 103 of 104 for each of the 416 (s, a): see the argument at `difference_ranks`.

    The null direction is checked as well: it is that of the Bellman equation, so the rank cannot be
    104.  Fewer policies, some 50 with an action, leave the rank lower.
    """
    with jax.enable_x64(True):
        transition, reward, _ = map(np.asarray, worlds.four_rooms(discount=0.99))
    action = _policies(np.random.default_rng(0), 600, *reward.shape)
    value = _values(transition, reward, 0.99, action)
    assert np.all(pinning.difference_ranks(value, action, 4) == 103)
    residual = value[:, 0] - 0.99 * (transition[action[:, 0], 0] * value).sum(axis=1)
    np.testing.assert_allclose(residual, reward[action[:, 0], 0], atol=1e-9)
    few = pinning.difference_ranks(value[:200], action[:200], 4)
    assert few.max() < 103


def test_states_that_no_value_tells_apart_are_not_pinned_down():
    """Two states that pay and lead alike: the rank is S − 2."""
    rng = np.random.default_rng(1)
    transition, reward = rng.dirichlet(np.ones(5), (2, 5)), rng.normal(size=(2, 5))
    action = _policies(rng, 200, 2, 5)
    whole = pinning.difference_ranks(_values(transition, reward, 0.9, action), action, 2)
    assert np.all(whole == 4)
    transition[:, 4], reward[:, 4], action[:, 4] = transition[:, 3], reward[:, 3], action[:, 3]
    twins = pinning.difference_ranks(_values(transition, reward, 0.9, action), action, 2)
    assert np.all(twins == 3)


def test_an_action_that_no_policy_takes_has_no_rank():
    action = np.zeros((3, 2), int)
    ranks = pinning.difference_ranks(np.random.default_rng(2).normal(size=(3, 2)), action, 2)
    assert np.all(ranks[1] == -1) and np.all(ranks[0] == 2)


def test_the_dimension_of_a_class_is_that_of_what_its_equations_leave_free():
    """By the rank of all equations at once, in the unknown rewards and transitions of every row."""
    rng = np.random.default_rng(3)
    transition, reward = rng.dirichlet(np.ones(4), (2, 4)), rng.normal(size=(2, 4))
    action = _policies(rng, 3, 2, 4)
    action[:, 0] = 1  # nobody takes action 0 in state 0
    value = _values(transition, reward, 0.9, action)
    equations = [np.kron(np.eye(8)[row], np.r_[0.0, np.ones(4)]) for row in range(8)]
    for v, pi in zip(value, action, strict=True):
        equations += [np.kron(np.eye(8)[4 * pi[s] + s], np.r_[1.0, 0.9 * v]) for s in range(4)]
    free = 8 * 5 - np.linalg.matrix_rank(np.array(equations))
    assert 0 < pinning.class_dimension(value, action, 2) == free < 32


def test_directions_are_those_of_the_differences_and_keep_the_sum_of_a_row():
    value = np.random.default_rng(4).normal(size=(3, 6))
    found = pinning.directions(value)
    np.testing.assert_allclose(found @ found.T, np.eye(5), atol=1e-12)
    np.testing.assert_allclose(found.sum(axis=1), 0.0, atol=1e-12)
    between = value - value.mean(axis=0)
    assert np.abs(between @ found[:2].T).max() > 0.1
    np.testing.assert_allclose(between @ found[2:].T, 0.0, atol=1e-12)
    assert pinning.directions(value[:0]).shape == (5, 6)
