"""Playing whole games with stored parameters: shared by training and `evaluate.py`.

Two protocols, both on fresh games with lives ignored, searched without root noise:

    greedy    the most probable action of the search's policy, ties broken at random
    sampled   drawn as in training: with `visits` from visits ** (1 / search.temperature), with
              `gumbel` from the improved policy. `gumbel_halving` draws by its root noise alone, so
              that its improved policy, the one it learns, stands in for that.
"""

import dataclasses
import functools
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from gymnasium.wrappers import TimeLimit

from actors import agent
from actors.agent import Agent, Decision
from actors.environments import EnvironmentSpec, Stream, make_environment
from actors.evaluator import Game, play
from actors.scores import human_normalised, standard_error
from configs.schema import Config, ConfigError
from learner.records.checkpoint import CheckpointError, restore_params
from learner.records.checkpoint_files import complete_slots
from learner.records.episodes import finished_episodes
from learner.records.run_directory import RunDirectory, write_atomically, writing
from muzero.search import SearchFn
from muzero.types import Params
from scripts.playing.watch import Watch
from scripts.program.assemble import build_search, env_spec

# Seeds of fresh games: training draws below 2**30, evaluation in 2**29 above, selection of the best
# above those; all fit a C int.
_EVALUATION_SEEDS, _SELECTION_SEEDS = 2**30, 3 * 2**29
_MAX_PARALLEL_GAMES = 32
PROTOCOLS = {"greedy": agent.greedy, "sampled": agent.sampled}


def require_checkpoint(directory: RunDirectory, checkpoint: int | str) -> None:
    """Raises `ConfigError` if there is no best, `CheckpointError` if there is no such number or
    none at all; reads no weights.
    """
    if checkpoint == "best" and not complete_slots(directory.checkpoints / "best"):
        raise ConfigError(
            f"checkpoint = best: {directory.path} has none, since nothing was evaluated while it "
            f"trained "
            "(log.evaluation_interval_minutes); use latest or a number of updates"
        )
    stored_steps = complete_slots(directory.checkpoints)
    if not stored_steps:
        raise CheckpointError(f"no checkpoint in {directory.checkpoints} yet")
    if isinstance(checkpoint, int) and checkpoint not in stored_steps:
        raise CheckpointError(
            f"no checkpoint {checkpoint} in {directory.checkpoints}; there are {stored_steps}"
        )


def load_params(directory: RunDirectory, checkpoint: int | str) -> tuple[Params, int]:
    """Returns the search average of a checkpoint and its number of updates; raises like
    `require_checkpoint`.
    """
    require_checkpoint(directory, checkpoint)
    stored = restore_params(directory.checkpoints, checkpoint, fields=["search_average"])
    return Params(**stored.state["search_average"]), stored.step


def make_agent(
    config: Config, params: Params, *, num_environments: int, seed: int, protocol: str = "greedy"
) -> Agent:
    """Returns an agent for `num_environments` games of the run's environment; `protocol`: see the
    module.
    """
    spec = env_spec(config.env)
    return Agent(
        _scored_search(config, spec, protocol),
        params,
        spec=spec,
        history_length=config.network.history_length,
        num_environments=num_environments,
        seed=seed,
        choose=PROTOCOLS[protocol],
    )


@functools.cache  # JAX compiles a function anew that is made anew
def _scored_search(config: Config, spec: EnvironmentSpec, protocol: str) -> SearchFn:
    if protocol == "sampled" and config.search.policy == "gumbel_halving":
        config = dataclasses.replace(
            config, search=dataclasses.replace(config.search, policy="gumbel")
        )
    return build_search(config, spec, root_noise=False)


def evaluation_stream(
    config: Config, seed: int, *, render: bool = False, max_decisions: int | None = None
) -> tuple[Stream, Any]:
    """Returns a fresh stream of the run's environment as evaluated (lives ignored), and the
    environment itself.

    Args:
      config: of the run.
      seed: of the games.
      render: whether the environment can be rendered.
      max_decisions: a game is cut off after so many; None leaves it to the environment's own limit.
    """
    env = make_environment(config.env, training=False, render=render)
    if max_decisions is not None:
        env = TimeLimit(env, max_decisions)
    return Stream(env, seed=seed, reward_clip=None), env


def action_names(env: gymnasium.Env, num_actions: int) -> list[str]:
    """Returns what the environment calls its actions, their numbers if it does not say."""
    if hasattr(env.unwrapped, "get_action_meanings"):
        return [str(name) for name in env.unwrapped.get_action_meanings()]
    return [f"action {action}" for action in range(num_actions)]


def evaluate_params(
    config: Config,
    params: Params,
    *,
    num_episodes: int,
    seed: int,
    checkpoint: int,
    protocol: str = "greedy",
    max_decisions: int | None = None,
    on_decision: Callable[[Decision], None] = lambda decision: None,
) -> dict:
    """Returns the result of `num_episodes` games.

    Args:
      config: of the run.
      params: the search average.
      num_episodes: games.
      seed: first seed of the games.
      checkpoint: number of updates behind `params`, for the record.
      protocol: `greedy` or `sampled`, see the module.
      max_decisions: a game is cut off after so many; None leaves it to the environment's own limit.
      on_decision: called after every decision; what it raises ends the games.
    """
    # Every environment plays as many games: the fewest environments play the fewest in vain.
    games_each = math.ceil(num_episodes / _MAX_PARALLEL_GAMES)
    num_environments = math.ceil(num_episodes / games_each)
    streams = [
        evaluation_stream(config, seed + n, max_decisions=max_decisions)[0]
        for n in range(num_environments)
    ]
    player = make_agent(
        config, params, num_environments=num_environments, seed=seed, protocol=protocol
    )
    watch = Watch(protocol, num_episodes)
    games = play(player, streams, num_episodes=num_episodes, on_decision=on_decision, watch=watch)
    watch.close()
    for stream in streams:
        stream.close()
    return scored(config, games, protocol=protocol, checkpoint=checkpoint)


def scored(config: Config, games: list[Game], *, protocol: str, checkpoint: int | None) -> dict:
    """Returns the JSON record of scored games, with the number of those that a limit cut off
    (`num_unfinished`).
    """
    returns = [game.episode.episode_return for game in games]
    record = summarise(config, returns, protocol=protocol, checkpoint=checkpoint)
    return record | {"num_unfinished": sum(not game.is_finished for game in games)}


def summarise(
    config: Config, returns: list[float], *, protocol: str, checkpoint: int | None
) -> dict:
    """Returns the JSON record of some games: returns, mean, standard error,
    human-normalised mean.
    """
    mean = float(np.mean(returns))
    return {
        "environment": config.env.name,
        "protocol": protocol,
        "checkpoint": checkpoint,
        "mean": mean,
        "standard_error": standard_error(returns),
        "human_normalised": human_normalised(config.env.name, mean),
        "returns": [float(x) for x in returns],
    }


def evaluation_seed(seed: int) -> int:
    """Returns the first seed of the games that a run is scored on."""
    return _EVALUATION_SEEDS + (seed * 1000) % (
        _SELECTION_SEEDS - _EVALUATION_SEEDS - _MAX_PARALLEL_GAMES
    )


def selection_seed(seed: int, num_updates: int) -> int:
    """Returns the first seed of the games that select the best checkpoint: never those of its
    score.
    """
    return _SELECTION_SEEDS + (seed * 1000 + num_updates * 101) % 2**28


def score_final_episodes(config: Config, directory: RunDirectory, count: int) -> dict:
    """Returns the paper's score: the last `count` whole games of the actors, as played while
    training.

    Raises `ConfigError` if the run has finished no game yet.
    """
    episodes = [episode for _, episode in finished_episodes(directory.path)[-count:]]
    if not episodes:
        raise ConfigError(
            f"{directory.path}: no finished game to score yet; train longer or use --protocol "
            f"greedy"
        )
    returns = [episode.episode_return for episode in episodes]
    return summarise(config, returns, protocol=f"training-final-{count}", checkpoint=None)


def write_result(folder: Path, result: dict, *, name: str, out: Path | None = None) -> Path:
    """Writes a result to `out`, or to `evaluations/<name>.json` in the folder of a run or an
    exported agent; returns the path.

    Raises NotWritten.
    """
    path = out or folder / "evaluations" / f"{name}.json"
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, json.dumps(result, indent=2) + "\n")
    return path
