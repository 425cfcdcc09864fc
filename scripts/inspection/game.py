"""One greedy game of a seed: what the agent saw, did and got, with the ends that learning sees."""

from typing import NamedTuple

import numpy as np

from actors.agent import Agent
from actors.environments import Stream, make_environment
from scripts.inspection.stored import Stored
from scripts.playing.evaluation import action_names, evaluation_seed, make_agent


class Game(NamedTuple):
    """The first T decisions of a game; rewards as learned from (clipped), discount 0 where a life
    is lost.
    """

    observation: np.ndarray  # [T+1, ...]
    action: np.ndarray  # [T]
    reward: np.ndarray  # [T]
    discount: np.ndarray  # [T]
    is_over: bool
    agent: Agent  # has seen all but the last observation
    action_names: list[str]


def play(stored: Stored, *, seed: int, num_decisions: int) -> Game:
    """Returns at most `num_decisions` of the greedy game of `seed`,
    one that training never played.
    """
    config = stored.config
    env = make_environment(config.env, training=True)
    stream = Stream(env, seed=evaluation_seed(seed), reward_clip=config.env.reward_clip)
    agent = make_agent(config, stored.search_average, num_environments=1, seed=seed)
    observations, steps, actions = [stream.reset()], [], []
    while len(steps) < num_decisions and not (steps and steps[-1].episode):
        actions.append(int(agent.decide(observations[-1][None], np.array([not steps])).action[0]))
        steps.append(stream.step(actions[-1]))
        observations.append(steps[-1].observation)
    names = action_names(env, stored.spec.num_actions)
    stream.close()
    return Game(
        np.stack(observations),
        np.array(actions, np.int32),
        np.array([step.reward for step in steps]),
        np.array([step.discount for step in steps]),
        bool(steps and steps[-1].episode),
        agent,
        names,
    )
