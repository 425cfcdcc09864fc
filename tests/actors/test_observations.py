"""Observations of environments that keep to what they promise, and of those that do not."""

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces

from actors.observations import ArrayObservation, channels_first


class Says(gymnasium.Env):
    """Returns what it is told to, whatever that is."""

    action_space = spaces.Discrete(2)

    def __init__(self, observation_space, *, reset, step=None):
        self.observation_space, self._reset, self._step = observation_space, reset, step

    def reset(self, *, seed=None, options=None):
        return self._reset

    def step(self, action):
        return self._step


IMAGE = spaces.Box(0, 255, (20, 20, 3), np.uint8)
BLACK = np.zeros((20, 20, 3), np.uint8)
VECTOR = spaces.Box(-1, 1, (2,), np.float32)


@pytest.mark.parametrize(
    ("space", "observation", "message"),
    [
        (IMAGE, np.full((20, 20, 3), 0.5), r"array \(20, 20, 3\) of float64 from 0.5 to 0.5"),
        (IMAGE, np.full((20, 20, 3), 300), "from 300 to 300"),
        (IMAGE, np.full((20, 20, 3), -1), "from -1 to -1"),
        (IMAGE, np.zeros((3, 20, 20), np.uint8), r"array \(3, 20, 20\) .*allowed: Box"),
        (VECTOR, np.array([0.0, np.nan]), "from nan to nan"),
        (VECTOR, np.zeros(3, np.float32), r"array \(3,\)"),
        (VECTOR, None, r"array \(\) of object"),
        (spaces.MultiBinary(2), None, "observation space MultiBinary"),
        (spaces.Discrete(3), 3, r"the observation 3, allowed: Discrete\(3\)"),
        (spaces.Discrete(3), 0.5, "the observation 0.5"),
        (spaces.Box(0, 1, (2, 1, 1), np.bool_), np.full((2, 1, 1), 2), "from 2 to 2"),
    ],
)
def test_an_observation_that_its_space_does_not_hold_is_refused(space, observation, message):
    with pytest.raises(ValueError, match=message):
        ArrayObservation(Says(space, reset=(observation, {}))).reset(seed=0)


@pytest.mark.parametrize(
    ("result", "message"),
    [
        ((BLACK, 0.0, False, {}), "a tuple of ndarray, float, bool, dict, allowed: .observation"),
        ((BLACK, 0.0, False, False, None), "a tuple of ndarray, float, bool, bool, NoneType"),
        ((BLACK, np.zeros(1), False, False, {}), r"the reward array\(\[0.\]\), allowed: one"),
        ((BLACK, float("nan"), False, False, {}), "the reward nan"),
        (BLACK, "step returned array"),
    ],
)
def test_a_decision_that_gymnasium_does_not_allow_is_refused(result, message):
    env = ArrayObservation(Says(IMAGE, reset=(BLACK, {}), step=result))
    env.reset(seed=0)
    with pytest.raises(ValueError, match=message):
        env.step(0)


@pytest.mark.parametrize("result", [BLACK, (BLACK, None), (BLACK, {}, 1)])
def test_a_reset_that_gymnasium_does_not_allow_is_refused(result):
    with pytest.raises(ValueError, match="reset returned .*allowed: .observation, info dict"):
        ArrayObservation(Says(IMAGE, reset=result)).reset(seed=0)


def test_whole_numbers_of_another_type_are_taken():
    pixels = np.full((20, 20, 3), 255, np.int64)
    observation, _ = ArrayObservation(Says(IMAGE, reset=(pixels, {}))).reset(seed=0)
    assert observation.dtype == np.uint8 and (observation == 255).all()


@pytest.mark.parametrize(
    ("shape", "expected"),
    [((3, 40, 40), True), ((1, 84, 84), True), ((40, 40, 3), False), ((10, 10, 4), False)],
)
def test_images_with_channels_first_are_noticed(shape, expected):
    assert channels_first(shape) is expected
