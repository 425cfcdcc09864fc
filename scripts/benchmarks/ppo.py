"""PPO of stable-baselines3 on this project's environments, one core: what a common agent learns
from the same frames.

Hyperparameters are those that rl-baselines3-zoo publishes for Atari (hyperparams/ppo.yml, `atari`,
commit 00128b5), the library's own where that is silent: the convolutions of DQN's Nature paper, γ
0.99, λ 0.95. Frames, their size, the stack of them, clipped rewards and lost lives that end an
episode are the preset's, and so is the spread of starts. The learning rate falls to 0 over the
budget.
"""

import dataclasses
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import stable_baselines3
import torch
from gymnasium import spaces
from stable_baselines3.common.vec_env import VecEnv, VecFrameStack

from actors.agent import Decision
from actors.environments import Stream
from actors.evaluator import play
from configs.presets import PRESETS
from configs.schema import Config, ConfigError
from muzero.types import Episode
from scripts.experiments import results, trials
from scripts.playing import baselines, evaluation
from scripts.program import assemble, commands

ARM = "ppo"
NUM_ENVIRONMENTS = 8
PUBLISHED = dict(n_steps=128, n_epochs=4, batch_size=256, vf_coef=0.5, ent_coef=0.01)
LEARNING_RATE, CLIP_RANGE = 2.5e-4, 0.1  # both fall to 0 linearly
ROLLOUT = NUM_ENVIRONMENTS * PUBLISHED["n_steps"]
SMALLEST_IMAGE = 36  # pixels a side that the convolutions leave something of
_BASELINES = (baselines.evaluate_constant, baselines.evaluate_randomly)


class StreamVecEnv(VecEnv):
    """Streams as stable-baselines3 takes them: a game that has ended is started anew at once.

    A lost life ends an episode too, and the game goes on.
    """

    def __init__(self, streams: Sequence[Stream]):
        """Takes over `streams`, all of one environment."""
        spec = streams[0].spec
        self._streams, self._frames_per_step, self._actions = streams, spec.frames_per_step, None
        self.num_frames = 0  # emulator frames consumed
        self.episodes: list[
            tuple[int, Episode]
        ] = []  # whole games, with the frames consumed when they ended
        pixels = spaces.Box(0, 255, spec.observation_shape, np.uint8)
        super().__init__(len(streams), pixels, spaces.Discrete(spec.num_actions))

    def reset(self) -> np.ndarray:
        """Returns the first observations [N, height, width, 1]."""
        return np.stack([stream.reset() for stream in self._streams])

    def step_async(self, actions: np.ndarray) -> None:
        """Takes the actions [N] of the next `step_wait`."""
        self._actions = actions

    def step_wait(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[dict]]:
        """Returns observations [N, ...], rewards [N], dones [N] and what stood at the end of
        episodes that are over.
        """
        self.num_frames += self.num_envs * self._frames_per_step
        steps = [
            self._step(stream, int(action))
            for stream, action in zip(self._streams, self._actions, strict=True)
        ]
        observation, reward, done, info = zip(*steps, strict=True)
        return np.stack(observation), np.array(reward, np.float32), np.array(done), list(info)

    def _step(self, stream: Stream, action: int) -> tuple[np.ndarray, float, bool, dict]:
        step = stream.step(action)
        if step.episode is None and step.discount > 0:
            return step.observation, step.reward, False, {}
        info = {"terminal_observation": step.observation, "TimeLimit.truncated": step.discount > 0}
        if step.episode is None:  # a lost life
            return step.observation, step.reward, True, info
        if stream.is_whole:
            self.episodes.append((self.num_frames, step.episode))
        return stream.step(0).observation, step.reward, True, info

    def close(self) -> None:
        """Closes the environments."""
        for stream in self._streams:
            stream.close()

    def get_attr(self, attr_name: str, indices=None) -> list[Any]:
        """Returns None for every environment: streams have nothing that PPO asks for."""
        return [None] * self.num_envs

    def set_attr(self, attr_name: str, value: Any, indices=None) -> None:
        """Raises NotImplementedError."""
        raise NotImplementedError

    def env_method(self, method_name: str, *arguments, indices=None, **settings) -> list[Any]:
        """Raises NotImplementedError."""
        raise NotImplementedError

    def env_is_wrapped(self, wrapper_class: type, indices=None) -> list[bool]:
        """Returns False for every environment."""
        return [False] * self.num_envs


class PpoAgent:
    """Plays N games with a trained policy; an `actors.evaluator.Player`."""

    def __init__(self, model: stable_baselines3.PPO, history_length: int, *, is_greedy: bool):
        """Takes the most probable actions if `is_greedy`, else draws them."""
        self._model, self._length, self._is_greedy, self._stack = (
            model,
            history_length,
            is_greedy,
            None,
        )

    def decide(self, observation: np.ndarray, is_first: np.ndarray) -> Decision:
        """Returns the actions for `observation` [N, height, width, 1]; `is_first` [N] marks the
        first of a game.
        """
        if self._stack is None:
            self._stack = np.repeat(np.zeros_like(observation), self._length, axis=-1)
        self._stack[is_first] = 0
        self._stack = np.concatenate([self._stack[..., 1:], observation], axis=-1)
        action, _ = self._model.predict(self._stack, deterministic=self._is_greedy)
        return Decision(action, None, None)


def train(config: Config, num_decisions: int) -> tuple[stable_baselines3.PPO, StreamVecEnv, float]:
    """Returns the trained model, its environments, closed, and the seconds it took.

    Args:
      config: env, history length, spread of starts and seed are read.
      num_decisions: of all environments together, a multiple of `ROLLOUT`.
    """
    torch.set_num_threads(1)
    environments = StreamVecEnv(assemble.build_streams(config, config.seed, NUM_ENVIRONMENTS))
    model = stable_baselines3.PPO(
        "CnnPolicy",
        VecFrameStack(environments, config.network.history_length),
        learning_rate=lambda left: LEARNING_RATE * left,
        clip_range=lambda left: CLIP_RANGE * left,
        seed=config.seed,
        device="cpu",
        **PUBLISHED,
    )
    started = time.monotonic()
    model.learn(num_decisions)
    environments.close()
    return model, environments, time.monotonic() - started


def score(
    config: Config,
    model: stable_baselines3.PPO,
    protocol: str,
    *,
    num_episodes: int,
    max_decisions: int,
) -> dict:
    """Returns the result of fresh games, `sampled` or `greedy`, with the seeds that a run's agent
    is scored on.
    """
    first = evaluation.evaluation_seed(config.seed)
    streams = [
        evaluation.evaluation_stream(config, first + n, max_decisions=max_decisions)[0]
        for n in range(num_episodes)
    ]
    agent = PpoAgent(model, config.network.history_length, is_greedy=protocol == "greedy")
    games = play(agent, streams, num_episodes=num_episodes)
    for stream in streams:
        stream.close()
    return evaluation.scored(config, games, protocol=protocol, checkpoint=None)


def run_trial(config: Config, options: dict[str, Any]) -> list[results.Row]:
    """Trains and scores one trial and prints its scores; returns its rows of the results."""
    num_decisions, num_episodes = options["decisions"], options["episodes"]
    model, environments, seconds = train(config, num_decisions)
    found = [
        score(
            config,
            model,
            protocol,
            num_episodes=num_episodes,
            max_decisions=options["max_decisions"],
        )
        for protocol in ("sampled", "greedy")
    ]
    if options["baselines"]:
        found += [evaluate(config, num_episodes=num_episodes) for evaluate in _BASELINES]
    frames = environments.num_frames
    values = trials.as_played(frames, frames, seconds, environments.episodes)
    for result in found:
        print(
            f"{config.env.name}, seed {config.seed}, {result['protocol']}: {result['mean']:.1f}",
            flush=True,
        )
        values.append(trials.whole_games(result["protocol"], frames, seconds, result))
    return [results.Row(ARM, config.env.name, ARM, config.seed, *rest) for rest in values]


def run(out: Path, **options: Any) -> None:
    """Runs the trials that do not stand in `out`/results.csv yet, and adds each to it when it is
    over.

    Args:
      out: directory of the results.
      options: the others of `scripts/ppo.py`.

    Raises `ConfigError` for what cannot be trained on, and for a directory of other options.
    """
    options |= {"decisions": options["decisions"] // ROLLOUT * ROLLOUT}
    configs = [
        _config(options["preset"], game, seed)
        for seed in options["seeds"]
        for game in options["games"]
    ]
    _check(configs, options)
    commands.make_folder("--out", out)
    comment, file = _comment(options), out / "results.csv"
    rows = _finished(file, comment)
    for config in configs:
        if (config.env.name, config.seed) not in {(row.game, row.seed) for row in rows}:
            rows += run_trial(config, options)
            results.write(file, results.Results((comment,), tuple(rows)))
    print(f"results: {file}")


def _config(preset: str, game: str, seed: int) -> Config:
    if preset not in PRESETS:
        raise ConfigError(f"--preset {preset}: must be one of {', '.join(PRESETS)}")
    config = PRESETS[preset]
    return dataclasses.replace(config, env=dataclasses.replace(config.env, name=game), seed=seed)


def _check(configs: list[Config], options: dict[str, Any]) -> None:
    for name, least in (("decisions", ROLLOUT), ("episodes", 1), ("max_decisions", 1)):
        if options[name] < least:
            raise ConfigError(f"--{name.replace('_', '-')}: must be at least {least}")
    if not configs:
        raise ConfigError("--games, --seeds: give at least one of each")
    for config in configs:
        spec = commands.check_environment(config)
        if spec.observation_dtype != "uint8" or min(spec.observation_shape[:2]) < SMALLEST_IMAGE:
            raise ConfigError(
                f"--games {config.env.name}: observations {spec.observation_dtype} "
                f"{spec.observation_shape}, "
                f"must be uint8 images of at least {SMALLEST_IMAGE} pixels a side"
            )


def _comment(options: dict[str, Any]) -> str:
    """Returns what must be the same for all trials of a file, and the versions behind it."""
    kept = {name: value for name, value in options.items() if name not in ("games", "seeds")}
    versions = f"stable-baselines3 {stable_baselines3.__version__}, torch {torch.__version__}"
    return f"ppo: {json.dumps(kept)}; {versions}"


def _finished(file: Path, comment: str) -> list[results.Row]:
    if not file.exists():
        return []
    found = results.read(file)
    if found.comments != (comment,):
        raise ConfigError(
            f"{file}: of other options ({'; '.join(found.comments)}); choose another directory"
        )
    return list(found.rows)
