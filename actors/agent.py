"""A trained agent that plays: search without root noise, then an action chosen from what the search
found.

`greedy` takes the action of highest probability in its policy, ties broken at random: with 16
simulations over 18 actions they are common, and the first of them, every time, would be a policy
nobody trained. `sampled` takes the action that the search has drawn.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np

from actors.environments import EnvironmentSpec
from actors.history import History
from muzero.types import Params, SearchOutput

# What a search found -> actions [N] int32
Choose = Callable[[SearchOutput, np.random.Generator], np.ndarray]


class Decision(NamedTuple):
    """What the agent thought of each of its N environments."""

    action: np.ndarray  # [N] int32, as chosen
    policy: np.ndarray  # [N, A] of the search: visit distribution, or Gumbel's improved policy
    value: np.ndarray  # [N] root value of the search


def greedy(out: SearchOutput, rng: np.random.Generator) -> np.ndarray:
    """Returns the most probable actions [N] of the search's policy."""
    return most_probable(out.policy, rng)


def sampled(out: SearchOutput, rng: np.random.Generator) -> np.ndarray:
    """Returns the actions [N] that the search has drawn, as actors do; see `muzero/search.py` for
    the law of each.
    """
    del rng  # the search has a key of its own
    return out.action


class Agent:
    """Plays N environments at once, with the observation histories kept here.

    Args:
      search_fn: a search built without root noise.
      params: the parameters to search with.
      spec: the environment.
      history_length: H.
      num_environments: N.
      seed: of the search, and of ties between equally probable actions.
      choose: `greedy` or `sampled`.
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
        choose: Choose = greedy,
    ):
        self._choose = choose
        self._search, self._params = jax.jit(search_fn), jax.device_put(params)
        self._rng_key = jax.random.key(seed)
        self._tie_rng = np.random.default_rng(seed)
        self._history = History(spec, history_length, num_environments)
        self._starts = np.ones(num_environments, bool)

    def reset(self) -> None:
        """Forgets the histories: the next observations are the first of new games."""
        self._starts[:] = True

    def act(self, observation: np.ndarray) -> int:
        """Returns the action for one observation of a single environment (N = 1)."""
        return int(self.think(observation).action)

    def think(self, observation: np.ndarray) -> Decision:
        """Returns action [], policy [A] and value [] for one observation (N = 1)."""
        decision = self.decide(np.asarray(observation)[None], self._starts.copy())
        return Decision(*(part[0] for part in decision))

    def decide(self, observation: np.ndarray, is_first: np.ndarray) -> Decision:
        """Returns the decisions for `observation` [N, ...]; `is_first` [N] marks the first of a
        game.
        """
        out = jax.device_get(self._search(self._params, *self.observe(observation, is_first)))
        action = self._choose(out, self._tie_rng)
        self._history.act(action)
        return Decision(action, out.policy, out.value)

    def observe(self, observation: np.ndarray, is_first: np.ndarray) -> tuple:
        """Takes in the next observations and returns what they are searched with: key and
        histories.

        `decide` does so; by itself it is for those who search in another way.
        """
        self._history.observe(observation, is_first)
        self._starts[:] = False
        self._rng_key, key = jax.random.split(self._rng_key)
        return key, *self._history.inputs()


def most_probable(policy: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Returns an action [N] of highest probability in every row of `policy` [N, A], uniform among
    equals.
    """
    best = policy >= policy.max(axis=-1, keepdims=True)
    return np.argmax(best * rng.uniform(0.5, 1.0, policy.shape), axis=-1).astype(np.int32)
