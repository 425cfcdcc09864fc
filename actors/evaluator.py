"""Whole games → returns."""

import math
from collections.abc import Callable, Sequence

import numpy as np

from actors.agent import Decision, GreedyAgent
from actors.environments import Stream
from muzero.types import Episode


def play(
    agent: GreedyAgent,
    streams: Sequence[Stream],
    *,
    num_episodes: int,
    on_decision: Callable[[Decision], None] = lambda decision: None,
) -> list[Episode]:
    """Returns `num_episodes` whole games of `agent`, its N environments being `streams`.

    Every stream plays the same number of games (short games are not preferred); surplus ones are dropped
    from the last streams.

    Args:
      agent: plays len(streams) environments.
      streams: fresh streams, lives ignored.
      num_episodes: games wanted.
      on_decision: called after every decision, for a video say.
    """
    per_stream = math.ceil(num_episodes / len(streams))
    episodes: list[list[Episode]] = [[] for _ in streams]
    observation = np.stack([stream.reset() for stream in streams])
    is_first = np.ones(len(streams), bool)
    while min(len(rows) for rows in episodes) < per_stream:
        decision = agent.decide(observation, is_first)
        on_decision(decision)
        for n, stream in enumerate(streams):
            if len(episodes[n]) == per_stream:
                continue  # done; its last state is searched on, for nothing
            step = stream.step(decision.action[n])
            observation[n], is_first[n] = step.observation, step.is_first
            if step.episode is not None:
                episodes[n].append(step.episode)
    return [rows[i] for i in range(per_stream) for rows in episodes][:num_episodes]


def play_randomly(stream: Stream, *, num_episodes: int, seed: int) -> list[Episode]:
    """Returns `num_episodes` whole games of the uniformly random policy."""
    rng = np.random.default_rng(seed)
    episodes: list[Episode] = []
    stream.reset()
    while len(episodes) < num_episodes:
        step = stream.step(int(rng.integers(stream.spec.num_actions)))
        if step.episode is not None:
            episodes.append(step.episode)
    return episodes
