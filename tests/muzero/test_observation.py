"""Observation stacks: a slow walk back from every state, literal markers, shapes."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from muzero.observation import stack_history, stack_shape, stack_trajectory
from muzero.types import Trajectory
from tests import reference

NUM_ACTIONS, NUM_DECISIONS = 5, 9
KINDS = ["image", "planes", "vector", "counts"]


def _frames(rng, kind, length):
    if kind == "image":
        return rng.integers(0, 256, (length, 4, 3, 1), np.uint8)
    if kind == "planes":
        return rng.random((length, 2, 3, 3)) < 0.5
    if kind == "counts":  # integers that are no image: not scaled
        return rng.integers(0, 256, (length, 4), np.int32)
    return rng.normal(size=(length, 4)).astype(np.float32)


def _trajectory(seed, kind, history, reset_prob=0.25):
    """Returns a trajectory of which only the fields of the stack are filled."""
    rng = np.random.default_rng(seed)
    context, states = history - 1, NUM_DECISIONS + 1
    fields = dict.fromkeys(Trajectory._fields)
    frames, is_first = (
        _frames(rng, kind, context + states),
        rng.random(context + states) < reset_prob,
    )
    actions = rng.integers(NUM_ACTIONS, size=context + NUM_DECISIONS).astype(np.int32)
    fields |= dict(
        observation=frames[context:], is_first=is_first[context:], action=actions[context:]
    )
    fields |= dict(history_observation=frames[:context], history_is_first=is_first[:context])
    return Trajectory(**fields | dict(history_action=actions[:context]))


@functools.partial(jax.jit, static_argnums=(1, 2))
def _stacks_of_first(trajectory, num_actions, num_states):
    return stack_trajectory(trajectory, num_actions, jnp.arange(num_states))


@pytest.mark.parametrize("history", [1, 2, 4])
@pytest.mark.parametrize("kind", KINDS)
def test_stacks_equal_a_walk_back_from_every_state(kind, history):
    resets = 0
    for seed in range(6):
        trajectory = _trajectory(seed, kind, history)
        resets += trajectory.is_first.sum()
        expected = reference.stacked_trajectory(trajectory, NUM_ACTIONS)
        stacks = _stacks_of_first(trajectory, NUM_ACTIONS, NUM_DECISIONS + 1)
        assert stacks.dtype == np.float32
        assert stacks.shape == (
            NUM_DECISIONS + 1,
            *stack_shape(trajectory.observation.shape[1:], history),
        )
        np.testing.assert_allclose(stacks, expected, rtol=1e-6, atol=1e-7)
    assert resets > 5


def test_only_the_first_states_are_stacked_when_asked():
    trajectory = _trajectory(0, "vector", 3)
    all_states = _stacks_of_first(trajectory, NUM_ACTIONS, NUM_DECISIONS + 1)
    np.testing.assert_array_equal(_stacks_of_first(trajectory, NUM_ACTIONS, 4), all_states[:4])


def test_the_actor_sees_the_stack_that_the_learner_rebuilds():
    history = 4
    trajectory = _trajectory(3, "image", history)
    frames = np.concatenate([trajectory.history_observation, trajectory.observation])
    actions = np.concatenate([trajectory.history_action, trajectory.action])
    is_first = np.concatenate([trajectory.history_is_first, trajectory.is_first])
    rebuilt = _stacks_of_first(trajectory, NUM_ACTIONS, NUM_DECISIONS + 1)
    for t in range(NUM_DECISIONS + 1):
        window = slice(t, t + history)
        acted = stack_history(
            frames[window], actions[t : t + history - 1], is_first[window], NUM_ACTIONS
        )
        np.testing.assert_array_equal(rebuilt[t], acted)


@pytest.mark.parametrize(
    "is_first, expected",
    [
        # three frames of two numbers, then the actions 0 and 3 of 4 as (a + 1) / 4
        ([False, False, False], [1, 2, 3, 4, 5, 6, 0.25, 1.0]),
        ([True, False, False], [1, 2, 3, 4, 5, 6, 0.25, 1.0]),  # the reset itself is this game's
        (
            [False, True, False],
            [0, 0, 3, 4, 5, 6, 0.0, 1.0],
        ),  # the action before a reset is gone with its frame
        ([True, True, False], [0, 0, 3, 4, 5, 6, 0.0, 1.0]),
        ([False, False, True], [0, 0, 0, 0, 5, 6, 0.0, 0.0]),
        ([True, True, True], [0, 0, 0, 0, 5, 6, 0.0, 0.0]),
    ],
)
def test_literal_stack_of_three_frames(is_first, expected):
    frames = np.array([[1, 2], [3, 4], [5, 6]], np.float32)
    stack = stack_history(frames, np.array([0, 3], np.int32), np.array(is_first), 4)
    assert stack.tolist() == expected


def test_an_image_marker_lands_in_its_place():
    frames = np.zeros((3, 2, 2, 2), np.uint8)
    frames[1, 0, 1, 1] = 255  # middle frame, row 0, column 1, second channel
    frames[2, 1, 0, 0] = 51
    stack = np.array(stack_history(frames, np.array([-1, 1], np.int32), np.zeros(3, bool), 4))
    assert stack.shape == (2, 2, 3 * 2 + 2)
    assert stack[0, 1, 1 * 2 + 1] == 1.0 and stack[1, 0, 2 * 2 + 0] == pytest.approx(0.2)
    assert (
        stack[:, :, 6].tolist() == [[0.0, 0.0]] * 2 and stack[:, :, 7].tolist() == [[0.5, 0.5]] * 2
    )
    assert np.count_nonzero(stack) == 1 + 1 + 4


@pytest.mark.parametrize(
    "observation_shape, history, expected",
    [
        ((96, 96, 1), 32, (96, 96, 63)),  # the paper's network: 32 frames and 31 actions
        ((96, 96, 3), 4, (96, 96, 15)),
        ((10, 10, 4), 1, (10, 10, 4)),
        ((4,), 1, (4,)),
        ((4,), 3, (14,)),
    ],
)
def test_shape_formula(observation_shape, history, expected):
    assert stack_shape(observation_shape, history) == expected

    def shape(dtype, *dims):
        return jax.ShapeDtypeStruct(dims, dtype)

    arguments = (
        shape("uint8", history, *observation_shape),
        shape("int32", history - 1),
        shape("bool", history),
    )
    assert jax.eval_shape(lambda *args: stack_history(*args, 4), *arguments).shape == expected
