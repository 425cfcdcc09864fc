"""Streams that can be put back to an earlier state, as often as wanted, and go on from there by
chance.

A fork lives in memory only. Where `states` can write a state down, it is that; a MinAtar game, all
plain Python objects, is copied whole. What is random *within* a game is drawn anew after a fork
(MinAtar's sticky actions and spawns): rollouts that repeated one draw would average over nothing.
The emulator and CartPole draw nothing there.
"""

import copy
import math
from typing import Any

import gymnasium

from actors import states
from actors.environments import Stream


def why_not_forked(env: gymnasium.Env) -> str | None:
    """Returns the reason why `env` cannot be put back to an earlier state, None if it can."""
    reason = states.why_not_saved(env)
    return None if _is_minatar(env) else reason


class ForkableStream(Stream):
    """A stream whose state can be taken, and put into any other stream of the same environment.

    Raises ValueError where `why_not_forked`.
    """

    def __init__(self, env: gymnasium.Env, *, seed: int, reward_clip: float | None):
        """Takes over `env`; arguments as of `Stream`."""
        if reason := why_not_forked(env):
            raise ValueError(reason)
        super().__init__(env, seed=seed, reward_clip=reward_clip)

    def freeze(self) -> Any:
        """Returns the state of the game between two decisions, not of its end, in memory."""
        return copy.deepcopy(self._env.unwrapped.game) if _is_minatar(self._env) else self.save()

    def thaw(self, frozen: Any, seed: int) -> None:
        """Goes on from a state that `freeze` returned, with fresh chances of `seed`, no time limit
        counting.
        """
        if _is_minatar(self._env):
            self.reset()
            game = copy.deepcopy(frozen)
            game.seed(seed)
            self._env.unwrapped.game = game
        else:
            self.load(frozen)
        lift_time_limits(self._env)


def lift_time_limits(env: gymnasium.Env) -> None:
    """Has Gymnasium's wrappers of `env` truncate no game; an emulator's limit is a setting of its
    own.
    """
    for limit in states.time_limits(env):
        limit._max_episode_steps = math.inf


def _is_minatar(env: gymnasium.Env) -> bool:
    return type(env.unwrapped).__module__ == "minatar.gym"
