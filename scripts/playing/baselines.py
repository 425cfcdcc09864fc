"""What a score has to beat: players that look at nothing,
on games as a run's agent is scored on.
"""

import numpy as np

from actors.evaluator import Game, play_blindly, play_randomly
from configs.schema import Config
from scripts.playing.evaluation import (
    action_names,
    evaluation_seed,
    evaluation_stream,
    scored,
    selection_seed,
)
from scripts.playing.watch import Watch
from scripts.program.assemble import env_spec

NUM_CHOOSING = 5  # games of every action, from which the best constant action is chosen


def evaluate_randomly(config: Config, *, num_episodes: int) -> dict:
    """Returns the result of the uniformly random policy."""
    stream, _ = evaluation_stream(config, evaluation_seed(config.seed))
    watch = Watch("random", num_episodes)
    games = play_randomly(stream, num_episodes=num_episodes, seed=config.seed, watch=watch)
    watch.close()
    stream.close()
    return scored(config, games, protocol="random", checkpoint=None)


def evaluate_constant(config: Config, *, num_episodes: int) -> dict:
    """Returns the result of the best constant action: one button, held for whole games.

    Every action of the environment plays `NUM_CHOOSING` games; the one with the highest mean (the
    first of equals) is scored, on other games. A game is cut off after
    `log.constant_max_decisions`: with some actions it never ends. The result names the action
    (`action`, `action_name`) and has the means of all (`action_means`).
    """

    def hold(action: int, seed: int, count: int) -> list[Game]:
        stream, _ = evaluation_stream(config, seed, max_decisions=config.log.constant_max_decisions)
        watch = Watch(f"constant, action {action}", count)
        games = play_blindly(stream, lambda: action, num_episodes=count, watch=watch)
        watch.close()
        stream.close()
        return games

    means = [
        _mean_return(hold(action, selection_seed(config.seed, 0), NUM_CHOOSING))
        for action in range(env_spec(config.env).num_actions)
    ]
    best = int(np.argmax(means))
    games = hold(best, evaluation_seed(config.seed), num_episodes)
    chosen = {"action": best, "action_name": _names(config)[best], "action_means": means}
    return scored(config, games, protocol="constant", checkpoint=None) | chosen


def _mean_return(games: list[Game]) -> float:
    return float(np.mean([game.episode.episode_return for game in games]))


def _names(config: Config) -> list[str]:
    stream, env = evaluation_stream(config, seed=0)
    stream.close()
    return action_names(env, stream.spec.num_actions)
