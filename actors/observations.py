"""Observations as the networks take them: arrays of the promised shape, type and range.

Nothing that an environment says is taken on trust: a float picture cast to uint8 would be black, a
reshaped one scrambled, and the agent would learn from it without a word.
"""

import math
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

SMALLEST_RENDER_SIDE = 160


class ArrayObservation(gymnasium.ObservationWrapper):
    """Observations as fresh arrays that the networks take; rendered frames as a video takes them.

    `reset` and `step` raise ValueError, which says what the environment returned and what its space
    or Gymnasium's interface allows.
    """

    def __init__(self, env: gymnasium.Env):
        """Raises ValueError if the observations of `env` cannot become arrays of one or three
        axes.
        """
        super().__init__(env)
        self.observation_space = array_space(env.observation_space)

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple:
        """Returns the first observation and an info; see the class."""
        result = self.env.reset(seed=seed, options=options)
        if not (isinstance(result, tuple) and len(result) == 2 and isinstance(result[1], dict)):
            raise self._fault(f"reset returned {_kind(result)}", "(observation, info dict)")
        return self.observation(result[0]), result[1]

    def step(self, action: Any) -> tuple:
        """Returns observation, reward, terminated, truncated and info; see the class."""
        result = self.env.step(action)
        if not (isinstance(result, tuple) and len(result) == 5 and isinstance(result[4], dict)):
            allowed = "(observation, reward, terminated, truncated, info dict)"
            raise self._fault(f"step returned {_kind(result)}", allowed)
        observation, reward, terminated, truncated, info = result
        if np.ndim(reward) != 0 or not math.isfinite(reward):
            raise self._fault(f"step returned the reward {reward!r}", "one finite number")
        return self.observation(observation), float(reward), terminated, truncated, info

    def observation(self, observation) -> np.ndarray:
        """Returns a copy, since an environment may go on writing to its own array."""
        source, target = self.env.observation_space, self.observation_space
        if isinstance(source, spaces.Discrete):
            if observation not in source:
                raise self._fault(f"the observation {observation!r}", source)
            return (np.arange(source.n) == observation - source.start).astype(target.dtype)
        array = np.asarray(observation)
        if array.shape != source.shape or not _holds(array, target.dtype):
            raise self._fault(f"an observation: {_kind(array)}", source)
        return np.array(array, target.dtype).reshape(target.shape)

    def render(self) -> np.ndarray:
        """Returns [height, width, 3] uint8, tiny frames (MinAtar's 10×10) enlarged by a whole
        factor.

        Raises ValueError if the environment was made without `render`.
        """
        if self.render_mode is None:
            raise ValueError("the environment was made with render=False")
        frame = np.asarray(self.env.render())
        frame = frame if frame.dtype == np.uint8 else np.rint(255 * frame).astype(np.uint8)
        factor = -(-SMALLEST_RENDER_SIDE // min(frame.shape[:2]))
        return frame.repeat(factor, axis=0).repeat(factor, axis=1)

    def _fault(self, what: str, allowed: Any) -> ValueError:
        return ValueError(f"{self.env.unwrapped}: {what}, allowed: {allowed}")


def array_space(space: spaces.Space) -> spaces.Box:
    """Returns the Box of arrays that stands for `space`, `space` itself where nothing has to
    change.

    Raises ValueError if there is none.
    """
    if isinstance(space, spaces.Discrete):
        return spaces.Box(0.0, 1.0, (int(space.n),), np.float32)
    if not isinstance(space, spaces.Box) or len(space.shape) not in (1, 2, 3):
        raise ValueError(f"observation space {space}, allowed: Discrete, or Box of 1 to 3 axes")
    shape = (*space.shape, 1) if len(space.shape) == 2 else space.shape
    dtype = space.dtype if space.dtype in (np.uint8, np.bool_) else np.dtype(np.float32)
    if (shape, dtype) == (space.shape, space.dtype):
        return space
    low, high = (bound.reshape(shape).astype(dtype) for bound in (space.low, space.high))
    return spaces.Box(low, high, dtype=dtype)


def channels_first(shape: tuple[int, ...]) -> bool:
    """Returns whether an image shape looks like [channels, height, width], which is learned from as
    [height, width, channels].
    """
    return len(shape) == 3 and shape[0] <= 4 < min(shape[1:])


def _holds(array: np.ndarray, dtype: np.dtype) -> bool:
    """Returns whether `dtype` holds all of `array`; floats may lose digits."""
    if dtype == np.float32:
        return array.dtype.kind in "biu" or (
            array.dtype.kind == "f" and bool(np.isfinite(array).all())
        )
    if array.dtype == dtype:
        return True
    largest = 1 if dtype == np.bool_ else 255
    return array.dtype.kind in "biu" and bool(((array >= 0) & (array <= largest)).all())


def _kind(value: Any) -> str:
    """Returns what a value is, in a few words."""
    if isinstance(value, np.ndarray):
        if not value.size or value.dtype.kind not in "biuf":
            return f"array {value.shape} of {value.dtype}"
        return f"array {value.shape} of {value.dtype} from {value.min()} to {value.max()}"
    if isinstance(value, tuple):
        return f"a tuple of {', '.join(type(part).__name__ for part in value)}"
    return type(value).__name__
