"""Whole games → returns."""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

import numpy as np

from actors.agent import Decision
from actors.environments import Step, Stream
from muzero.types import Episode

Watch = Callable[[int], None]  # takes in how many games have ended


class Game(NamedTuple):
    """One scored game."""

    episode: Episode
    is_finished: bool  # False: a limit of the environment cut it off, its return so far counts


class Player(Protocol):
    """What plays N environments at once, `actors.agent.Agent` say."""

    def decide(self, observation: np.ndarray, is_first: np.ndarray) -> Decision:
        """Returns the decisions for `observation` [N, ...]; `is_first` [N] marks the first of a
        game.
        """


def play(
    agent: Player,
    streams: Sequence[Stream],
    *,
    num_episodes: int,
    on_decision: Callable[[Decision], None] = lambda decision: None,
    watch: Watch = lambda num_ended: None,
) -> list[Game]:
    """Returns `num_episodes` games of `agent`, its N environments being `streams`.

    Every stream plays the same number of games (short games are not preferred); surplus ones are
    dropped from the last streams.

    Args:
      agent: plays len(streams) environments.
      streams: fresh streams, lives ignored.
      num_episodes: games wanted.
      on_decision: called after every decision, for a video say.
      watch: likewise, with the number of games that have ended.
    """
    per_stream = math.ceil(num_episodes / len(streams))
    games: list[list[Game]] = [[] for _ in streams]
    observation = np.stack([stream.reset() for stream in streams])
    is_first = np.ones(len(streams), bool)
    while min(len(rows) for rows in games) < per_stream:
        decision = agent.decide(observation, is_first)
        on_decision(decision)
        watch(sum(map(len, games)))
        for n, stream in enumerate(streams):
            if len(games[n]) == per_stream:
                continue  # done; its last state is searched on, for nothing
            step = stream.step(decision.action[n])
            observation[n], is_first[n] = step.observation, step.is_first
            games[n] += _ended(step)
    return [rows[i] for i in range(per_stream) for rows in games][:num_episodes]


def play_blindly(
    stream: Stream,
    next_action: Callable[[], int],
    *,
    num_episodes: int,
    watch: Watch = lambda num_ended: None,
) -> list[Game]:
    """Returns `num_episodes` games of a player who looks at nothing.

    Args:
      stream: a fresh stream, lives ignored.
      next_action: returns the action of every decision.
      num_episodes: games wanted.
      watch: called after every decision with the number of games that have ended.
    """
    games: list[Game] = []
    stream.reset()
    while len(games) < num_episodes:
        games += _ended(stream.step(next_action()))
        watch(len(games))
    return games


def play_randomly(
    stream: Stream, *, num_episodes: int, seed: int, watch: Watch = lambda num_ended: None
) -> list[Game]:
    """Returns `num_episodes` games of the uniformly random policy; `watch`: see `play_blindly`."""
    rng = np.random.default_rng(seed)
    return play_blindly(
        stream,
        lambda: int(rng.integers(stream.spec.num_actions)),
        num_episodes=num_episodes,
        watch=watch,
    )


def _ended(step: Step) -> list[Game]:
    """Returns the game that has ended with `step`, if one has; without lost lives a discount of 0
    is its own end.
    """
    return [] if step.episode is None else [Game(step.episode, is_finished=step.discount == 0.0)]
