"""Environments that number their states, a search that says what it saw, and rollouts of them."""

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
from gymnasium import spaces

from actors.environments import Stream
from actors.rollout import Rollout
from configs.schema import ActorsConfig
from muzero.types import PublishedParams, SearchOutput, Trajectory

NUM_ACTIONS = 3
LENGTH, OVERLAP = 6, 3
PER_STATE = ("observation", "is_first", "search_policy", "search_value", "params_version")
PER_DECISION = ("action", "reward", "discount", "behaviour_prob")
PLAIN, REWARDED, LOST_LIFE = (
    (0.0, False, False, False),
    (7.0, False, False, False),
    (0.0, False, False, True),
)
TERMINATED, TRUNCATED = (0.0, True, False, False), (0.0, False, True, False)


class Numbered(gymnasium.Env):
    """State s, counted over all games from 0, is observed as [s, 100 * name]; game g replays
    games[g] or the last.
    """

    observation_space = spaces.Box(0.0, np.inf, (2,), np.float32)
    action_space = spaces.Discrete(NUM_ACTIONS)

    def __init__(self, games, name=0):
        self.games, self.name, self.state, self.game, self.closed = games, name, -1, -1, False
        # by the number of the state they were taken in; those of resets are not here
        self.actions = {}

    def reset(self, *, seed=None, options=None):
        self.game, self.time = self.game + 1, 0
        return self._next(), {}

    def step(self, action):
        self.actions[self.state] = action
        reward, terminated, truncated, life_lost = self.games[min(self.game, len(self.games) - 1)][
            self.time
        ]
        self.time += 1
        return self._next(), reward, terminated, truncated, {"life_lost": life_lost}

    def close(self):
        self.closed = True

    def _next(self):
        self.state += 1
        return np.array([self.state, 100 * self.name], np.float32)


class Search:
    """A search with known answers, and the record of what it was asked.

    State s has action s mod 3, behaviour probability (1 + s mod 4) / 5, policy one-hot-ish in (s +
    1) mod 3, value s + the published parameters.
    """

    def __init__(self):
        self.asked = []  # (frames [N, H, 2], actions [N, H-1], is_first [N, H]) per search

    def __call__(self, params, rng_key, frames, actions, is_first):
        jax.debug.callback(
            lambda *inputs: self.asked.append(tuple(map(np.array, inputs))),
            frames,
            actions,
            is_first,
        )
        state = frames[:, -1, 0]
        whole = state.astype(jnp.int32)
        return SearchOutput(
            action=whole % NUM_ACTIONS,
            behaviour_prob=(1 + whole % 4) / 5,
            policy=jax.nn.one_hot((whole + 1) % NUM_ACTIONS, NUM_ACTIONS) * 0.7 + 0.1,
            value=state + params,
            stats={"state": state},
        )

    def states(self, n=0):
        """Returns the numbers of the searched states of environment `n`, in order."""
        jax.effects_barrier()
        return [int(frames[n, -1, 0]) for frames, _, _ in self.asked]


def make_rollout(
    envs, search, *, history=1, length=LENGTH, overlap=OVERLAP, seed=0, num_groups=1, spread=0
):
    return Rollout(
        [
            Stream(env, seed=5 + n, reward_clip=None, start_spread=spread)
            for n, env in enumerate(envs)
        ],
        search,
        ActorsConfig(sequence_length=length, sequence_overlap=overlap),
        num_actions=NUM_ACTIONS,
        history_length=history,
        seed=seed,
        num_groups=num_groups,
    )


def published(version=0, offset=0.0):
    return PublishedParams(version, np.float32(offset))


def numbers(trajectory, n=0):
    """Returns the numbers of the states of environment `n`."""
    return trajectory.observation[n, :, 0].astype(int).tolist()


def row(trajectory, n=0) -> Trajectory:
    return jax.tree.map(lambda x: x[n], trajectory)


ENDLESS = [PLAIN] * 500


def sampling_search(params, rng_key, frames, actions, is_first):
    """Draws uniformly: what it draws comes from the key alone."""
    shape = frames.shape[:1]
    return SearchOutput(
        action=jax.random.randint(rng_key, shape, 0, NUM_ACTIONS),
        behaviour_prob=jnp.full(shape, 1 / NUM_ACTIONS),
        policy=jnp.full((*shape, NUM_ACTIONS), 1 / NUM_ACTIONS),
        value=jax.random.uniform(rng_key, shape),
        stats={"state": frames[:, -1, 0]},
    )
