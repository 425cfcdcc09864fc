"""A trained agent that plays: search without root noise, most visited action, ties broken at random.

With 16 simulations over 18 actions ties are common: the first of them, every time, would be a policy nobody trained.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np

from actors.environments import EnvironmentSpec
from muzero.types import Params


class Decision(NamedTuple):
    """What the agent thought of each of its N environments."""

    action: np.ndarray  # [N] int32, the most visited
    policy: np.ndarray  # [N, A] visit distribution
    value: np.ndarray  # [N] root value of the search


class GreedyAgent:
    """Plays N environments at once, with the observation histories kept here.

    Args:
      search_fn: a search built without root noise.
      params: the parameters to search with.
      spec: the environment.
      history_length: H.
      num_environments: N.
      seed: seed of the search's tie breaks.
    """

    def __init__(
        self,
        search_fn: Callable,
        params: Params,
        *,
        spec: EnvironmentSpec,
        history_length: int,
        num_environments: int = 1,
        seed: int = 0,
    ):
        self._search, self._params = jax.jit(search_fn), jax.device_put(params)
        self._rng_key = jax.random.key(seed)
        self._tie_rng = np.random.default_rng(seed)
        shape = (num_environments, history_length)
        self._frames = np.zeros((*shape, *spec.observation_shape), spec.observation_dtype)
        self._actions = np.zeros((num_environments, history_length), np.int32)
        self._is_first = np.ones(shape, bool)
        self._starts = np.ones(num_environments, bool)

    def reset(self) -> None:
        """Forgets the histories: the next observations are the first of new games."""
        self._starts[:] = True

    def act(self, observation: np.ndarray) -> int:
        """Returns the action for one observation of a single environment (N = 1)."""
        decision = self.decide(np.asarray(observation)[None], self._starts.copy())
        return int(decision.action[0])

    def decide(self, observation: np.ndarray, is_first: np.ndarray) -> Decision:
        """Returns the decisions for `observation` [N, ...]; `is_first` [N] marks the first of a game."""
        for history, newest in ((self._frames, observation), (self._is_first, is_first)):
            history[:, :-1] = history[:, 1:]
            history[:, -1] = newest
        self._starts[:] = False
        self._rng_key, key = jax.random.split(self._rng_key)
        out = jax.device_get(self._search(self._params, key, self._frames, self._actions[:, 1:], self._is_first))
        action = most_visited(out.policy, self._tie_rng)
        self._actions[:, :-1] = self._actions[:, 1:]
        self._actions[:, -1] = action
        return Decision(action, out.policy, out.value)


def most_visited(policy: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Returns an action [N] of highest probability in every row of `policy` [N, A], uniform among equals."""
    best = policy >= policy.max(axis=-1, keepdims=True)
    return np.argmax(best * rng.uniform(0.5, 1.0, policy.shape), axis=-1).astype(np.int32)
