"""Any discrete-action environment behind one interface: an endless stream of states.

    state        0      1      2      3*     4      5         3*: final (terminated or truncated)
    decision     0      1      2      3      4      5
    is_first     .      .      .      .      yes    .         of the state a decision leads to
    real         yes    yes    yes    no     yes    yes       decision 3 resets the environment

A final observation is a state like any other and is never replaced by the next game's first one
(Gymnasium's NEXT_STEP autoreset), so a truncated game can bootstrap from it.

Environments that start together stay in one phase of their games for long, and so do the batches.
With a spread a stream starts in the middle of a game, after a random number of random decisions
that nobody sees or counts.
"""

import importlib
import json
import sys
from collections.abc import Sequence
from typing import Any, NamedTuple

import gymnasium
import numpy as np
from gymnasium import spaces

from actors import atari, states
from actors.observations import ArrayObservation, array_space
from configs.schema import EnvConfig
from muzero.types import Array, Episode

# Decisions, Atari's 108,000 frames: a greedy policy may run into a wall for ever
LONGEST_SCORED_GAME = 27_000


class EnvironmentSpec(NamedTuple):
    """What the networks and the statistics need to know of an environment."""

    observation_shape: tuple[int, ...]  # [length] or [height, width, channels]
    observation_dtype: str  # "uint8", "bool" or "float32"
    num_actions: int
    frames_per_step: int  # emulator frames per decision, 1 without an emulator


class Step(NamedTuple):
    """What a decision led to."""

    observation: Array  # of the next state
    reward: float  # clipped if the stream clips
    discount: float  # 0 on termination or a signalled life loss, else 1
    is_first: bool  # the environment was reset: the decision was not real
    episode: Episode | None  # the game that ended in the next state


def resolve_name(name: str) -> str:
    """Returns the canonical name: "ALE/MsPacman-v5" for an Atari game in any usual spelling, else a
    Gymnasium id.

    Args:
      name: an Atari game or a Gymnasium id; an id may carry the module that registers it
        ("module:id") and may leave out its version (the highest is taken).

    Raises:
      ValueError: no such environment; the message suggests near names.
      ImportError: a MinAtar game, and MinAtar is not installed.
    """
    module, _, env_id = name.rpartition(":")
    if module:
        _import_module(module, name)
    if env_id.lower().startswith("minatar/"):
        _register_minatar()
    spec = gymnasium.registry.get(env_id)
    if spec is not None and spec.entry_point != atari.EMULATOR_ENTRY_POINT:
        return name
    if game := atari.find_game(env_id):
        return game.id
    versions = [
        spec.version
        for spec in gymnasium.registry.values()
        if spec.id == f"{env_id}-v{spec.version}"
    ]
    if versions:
        return f"{name}-v{max(versions)}"
    near = " or ".join(atari.near_ids(env_id))
    own = "" if module else f"; an own one is module:{env_id}"
    raise ValueError(
        f"unknown environment {name!r}" + (f": did you mean {near}?" if near else "") + own
    )


def make_environment(settings: EnvConfig, *, training: bool, render: bool = False) -> gymnasium.Env:
    """Returns an environment whose observations are uint8, bool or float32 arrays.

    It is ready for a `Stream`, which clips the rewards.

    Args:
      settings: for the name see `resolve_name`.
      training: with `settings.terminate_on_life_loss`, `info["life_lost"]` reports a lost life, and
        the game goes on. Without `training`, lives are ignored, and a game that has no limit of its
        own ends after `LONGEST_SCORED_GAME` decisions.
      render: whether `render()` returns RGB frames, [height, width, 3] uint8.

    Raises ValueError for an unknown environment or spaces that `environment_spec` refuses, else as
    `resolve_name`.
    """
    env_id = resolve_name(settings.name)
    kwargs = keyword_arguments(settings.kwargs)
    if not env_id.startswith("ALE/"):
        return _make_gymnasium(env_id, kwargs, training, render)
    if kwargs:
        raise ValueError(f"env.kwargs = {settings.kwargs}: Atari games have fields of their own")
    return atari.AtariGame(
        atari.find_game(env_id).kwargs["game"],
        settings,
        signal_life_loss=training and settings.terminate_on_life_loss,
        render=render,
    )


def environment_spec(env: gymnasium.Env) -> EnvironmentSpec:
    """Describes an environment made by `make_environment`.

    Raises ValueError if actions are not 0 to A − 1, or observations no uint8, bool or float32
    vectors or images.
    """
    actions, observations = env.action_space, env.observation_space
    if not isinstance(actions, spaces.Discrete) or actions.start != 0:
        raise ValueError(f"{env}: action space {actions}, allowed: Discrete from 0")
    if array_space(observations) is not observations:
        raise ValueError(
            f"{env}: observation space {observations} needs the conversion of make_environment"
        )
    return EnvironmentSpec(
        observation_shape=observations.shape,
        observation_dtype=observations.dtype.name,
        num_actions=int(actions.n),
        frames_per_step=env.unwrapped.action_repeat
        if isinstance(env.unwrapped, atari.AtariGame)
        else 1,
    )


class Stream:
    """An endless stream of states of one environment, game after game; see the diagram of the
    module.

    `is_whole`: the present game, or the one that has just ended, was played from its start; a
    spread hides the start of the first.
    """

    def __init__(
        self, env: gymnasium.Env, *, seed: int, reward_clip: float | None, start_spread: int = 0
    ):
        """Takes over `env`; `reset` comes before the first `step`.

        Args:
          env: an environment made by `make_environment`.
          seed: 0 to 2**32 − 1, of everything random in the environment; some take 31 bits only.
          reward_clip: rewards are clipped to ± this; None keeps them.
          start_spread: most decisions that `reset` plays before the first state; their number is
            drawn uniformly.

        Raises ValueError if `environment_spec` refuses `env`, or the seed is out of range.
        """
        if not 0 <= seed < 2**32:
            raise ValueError(f"seed is {seed}, allowed: 0 to 2**32 - 1")
        self.spec = environment_spec(env)
        self._env, self._seed, self._start_spread = env, seed, start_spread
        self._reward_limit = float("inf") if reward_clip is None else float(reward_clip)

    def reset(self) -> Array:
        """Seeds the environment, starts the first game, plays the spread and returns the first
        observation.
        """
        observation = self._start_game(seed=self._seed)
        rng = np.random.default_rng((self._seed, 1))  # not the environment's own stream
        for _ in range(rng.integers(self._start_spread + 1)):
            observation = self.step(int(rng.integers(self.spec.num_actions))).observation
        if self._is_final:
            observation = self._start_game(seed=None)
        self.is_whole = self._num_steps == 0
        return observation

    def step(self, action: int) -> Step:
        """Takes one decision; in a final observation `action` is ignored and the next game
        starts.
        """
        if self._is_final:
            return Step(
                self._start_game(seed=None), reward=0.0, discount=1.0, is_first=True, episode=None
            )
        observation, reward, terminated, truncated, info = self._env.step(int(action))
        self._return += float(reward)
        self._num_steps += 1
        self._is_final = bool(terminated or truncated)
        return Step(
            observation,
            reward=min(max(float(reward), -self._reward_limit), self._reward_limit),
            discount=0.0 if terminated or info.get("life_lost", False) else 1.0,
            is_first=False,
            episode=self._finished_episode(info) if self._is_final else None,
        )

    def save(self) -> states.Arrays:
        """Returns the state of the stream between two decisions.

        Raises ValueError if `states.why_not_saved`.
        """
        game = np.array([self._is_final, self._return, self._num_steps, self.is_whole], np.float64)
        return {"game": game} | states.nested("env", states.save_environment(self._env))

    def load(self, arrays: states.Arrays) -> None:
        """Goes on where the saved stream was, in place of the first `reset`."""
        is_final, self._return, num_steps, *is_whole = arrays["game"].tolist()
        self._is_final, self._num_steps = bool(is_final), int(num_steps)
        self.is_whole = is_whole != [0.0]  # states of before there was a spread do not say
        states.load_environment(self._env, states.part("env", arrays))

    def close(self) -> None:
        """Closes the environment."""
        self._env.close()

    def _start_game(self, seed: int | None) -> Array:
        self._is_final, self.is_whole, self._return, self._num_steps = False, True, 0.0, 0
        return self._env.reset(seed=seed)[0]

    def _finished_episode(self, info: dict) -> Episode:
        # Only the emulator knows its frames exactly: no-ops, and a last repeat that was cut short.
        return Episode(
            self._return, self._num_steps, num_frames=info.get("episode_frames", self._num_steps)
        )


def _import_module(module: str, name: str) -> None:
    # The current directory comes last, and only now: a folder `scripts` or `configs` of the user's
    # there is not ours, and ours are imported already.
    if "" not in sys.path:
        sys.path.append("")
    try:
        importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise ValueError(
            f"environment {name!r}: module {module!r} cannot be imported: {error}"
        ) from error


def _register_minatar() -> None:
    try:
        from minatar import gym as minatar_gym
    except ModuleNotFoundError as error:
        raise ImportError(
            f"MinAtar games need the extra `minatar`: pip install .[minatar] ({error})"
        ) from error
    if "MinAtar/Breakout-v1" not in gymnasium.registry:
        minatar_gym.register_envs()


def keyword_arguments(pairs: Sequence[str]) -> dict[str, Any]:
    """Returns the keyword arguments that `("size=5", "map=small")` stand for.

    Raises ValueError for what is no `name=value`, and for a name that stands twice.
    """
    arguments: dict[str, Any] = {}
    for pair in pairs:
        name, is_pair, value = pair.partition("=")
        if not is_pair or not name.isidentifier() or name in arguments:
            raise ValueError(f"env.kwargs: {pair!r}, allowed: name=value, each name once")
        try:
            arguments[name] = json.loads(value)
        except ValueError:
            arguments[name] = value
    return arguments


def _make_gymnasium(env_id: str, kwargs: dict, training: bool, render: bool) -> gymnasium.Env:
    # Without Gymnasium's checker: ArrayObservation refuses what matters of what it would warn of.
    options = kwargs | dict(disable_env_checker=True)
    if render:  # a constructor that knows no `render_mode` can do without, else
        options["render_mode"] = "rgb_array"
    if not training and gymnasium.spec(env_id.rpartition(":")[2]).max_episode_steps is None:
        options["max_episode_steps"] = LONGEST_SCORED_GAME
    env = ArrayObservation(gymnasium.make(env_id, **options))
    environment_spec(env)
    return env
