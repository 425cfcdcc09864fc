"""The observation histories of N environments, as a search takes them."""

import numpy as np

from actors.environments import EnvironmentSpec


class History:
    """The last H observations and the H − 1 actions between them; before the first state everything
    is masked.

    Args:
      spec: the environment.
      history_length: H.
      num_environments: N.
    """

    def __init__(self, spec: EnvironmentSpec, history_length: int, num_environments: int):
        shape = (num_environments, history_length)
        self._frames = np.zeros((*shape, *spec.observation_shape), spec.observation_dtype)
        self._actions = np.zeros(shape, np.int32)  # one more than is searched with: H may be 1
        self._is_first = np.ones(shape, bool)

    def observe(self, observation: np.ndarray, is_first: np.ndarray) -> None:
        """Appends `observation` [N, ...]; `is_first` [N] marks the first of a game.

        Raises `ValueError` for observations of another shape than the environment's of the spec.
        """
        expected = self._frames[:, -1].shape
        if np.shape(observation) != expected:
            raise ValueError(
                f"observations {np.shape(observation)}, this agent plays {expected}; see env in "
                f"its config.json"
            )
        for history, newest in ((self._frames, observation), (self._is_first, is_first)):
            history[:, :-1] = history[:, 1:]
            history[:, -1] = newest

    def act(self, action: np.ndarray) -> None:
        """Appends the actions [N] taken in the newest states."""
        self._actions[:, :-1] = self._actions[:, 1:]
        self._actions[:, -1] = action

    def put(self, n: int, frames: np.ndarray, actions: np.ndarray, is_first: np.ndarray) -> None:
        """Replaces the history of environment `n` by `frames` [H, ...], `actions` [H-1] and
        `is_first` [H].
        """
        self._frames[n], self._actions[n, 1:], self._is_first[n] = frames, actions, is_first

    def inputs(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Returns frames [N, H, ...], actions [N, H-1] and is_first [N, H]; they change with the
        history.
        """
        return self._frames, self._actions[:, 1:], self._is_first
