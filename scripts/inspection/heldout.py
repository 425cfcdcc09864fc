"""States of held-out episodes: games of seeds that training never draws, played as training plays.

Search with root noise and sampled actions, so that the probabilities with which actions were drawn
are there for V-trace; sequences of the length and overlap of training; every real state of a game
in exactly one place:

    state      0 ... K ... t ... j ... S + K − 1 ... T
                     └──── audited states ────┘

    S = states less overlap: where the next sequence begins
"""

import collections
from typing import Any, NamedTuple

import jax
import numpy as np

from actors.environments import make_environment
from actors.forks import ForkableStream, why_not_forked
from configs.schema import Config, ConfigError
from muzero.types import PublishedParams, Trajectory
from scripts.inspection.stored import Stored
from scripts.playing.evaluation import evaluation_seed
from scripts.program.assemble import make_rollout, num_starts

_NUM_GAMES = 16  # at a time: the groups of the bootstrap
_MAX_DECISIONS = 5000  # of each


class HeldOut(NamedTuple):
    """One audited state."""

    frozen: Any  # the environment in that state, see `ForkableStream`
    trajectory: Trajectory  # the sequence that holds it
    index: int  # j, of the state in the sequence
    game: int  # which environment it comes from


class _Recorder(ForkableStream):
    """Keeps the last `length` states of the environment."""

    def __init__(self, env, *, length: int, **kwargs):
        super().__init__(env, **kwargs)
        self.frozen = collections.deque(maxlen=length)

    def reset(self):
        observation = super().reset()
        self.frozen.append(self.freeze())
        return observation

    def step(self, action: int):
        step = super().step(action)
        self.frozen.append(self.freeze())
        return step


def check(config: Config) -> None:
    """Raises `ConfigError` for a run whose past policies or whose environment cannot be brought
    back.
    """
    if config.loss.past_latents != "target":
        raise ConfigError(
            f"loss.past_latents = {config.loss.past_latents}: cannot be audited: its stored heads "
            f"act on other latents "
            "than those of the target average, with which they are audited"
        )
    env = make_environment(config.env, training=True)
    reason = why_not_forked(env)
    env.close()
    if reason is not None:
        raise ConfigError(f"env.name = {config.env.name}: cannot be audited: {reason}")


def candidates(
    is_first: np.ndarray, discount: np.ndarray, *, num_unroll_steps: int, num_starts: int
) -> np.ndarray:
    """Returns the states j that are audited if drawn, of one sequence.

    The K decisions before j and the one in j are real and ended no learning episode: all of zᵏ, k =
    0..K, lead there, so that every k is judged by the same states and returns. States sooner after
    a start than K are left out.

    Args:
      is_first: [T+1].
      discount: [T].
      num_unroll_steps: K.
      num_starts: S.
    """
    k, num_decisions = num_unroll_steps, len(discount)
    follows = np.append(~is_first[1:], False)  # the decision in a state is real
    goes_on = follows[:-1] & (discount > 0)
    last = min(num_starts + k, num_decisions)
    return np.array([j for j in range(k, last) if follows[j] and goes_on[j - k : j].all()], int)


def collect(stored: Stored, *, num_states: int, seed: int) -> list[HeldOut]:
    """Returns `num_states` states, drawn uniformly from games that go on until each environment has
    ended one.

    Raises `ConfigError` if so many states do not come up.
    """
    config, rng = stored.config, np.random.default_rng(seed)
    recorders = _recorders(config, min(_NUM_GAMES, num_states), evaluation_seed(seed))
    rollout = make_rollout(config, recorders, seed)
    published = PublishedParams(stored.num_updates, stored.search_average)
    length, starts = config.actors.sequence_length, num_starts(config)
    has_ended, num_seen, chosen = np.zeros(len(recorders), bool), 0, []
    for _ in range(_MAX_DECISIONS // starts):
        batch = rollout.run(published).trajectory
        for game, recorder in enumerate(recorders):
            trajectory = jax.tree.map(lambda x, game=game: x[game].copy(), batch)
            found = candidates(
                trajectory.is_first,
                trajectory.discount,
                num_unroll_steps=config.loss.num_unroll_steps,
                num_starts=starts,
            )
            assert len(recorder.frozen) == length
            for j in found:
                _keep(
                    chosen,
                    HeldOut(recorder.frozen[j], trajectory, int(j), game),
                    num_states,
                    num_seen,
                    rng,
                )
                num_seen += 1
        has_ended |= batch.is_first[:, 1:].any(axis=1)
        if has_ended.all() and num_seen >= num_states:
            break
    rollout.close()
    if len(chosen) < num_states:
        raise ConfigError(
            f"--num-states = {num_states}: {len(chosen)} came up in {_MAX_DECISIONS} decisions a "
            f"game"
        )
    return chosen


def _keep(chosen: list, state: HeldOut, size: int, num_seen: int, rng: np.random.Generator) -> None:
    """Keeps a uniform sample of `size` of all states so far: reservoir sampling."""
    if len(chosen) < size:
        chosen.append(state)
    elif (place := int(rng.integers(num_seen + 1))) < size:
        chosen[place] = state


def _recorders(config: Config, num_games: int, first_seed: int) -> list[_Recorder]:
    length, clip = config.actors.sequence_length, config.env.reward_clip
    return [
        _Recorder(
            make_environment(config.env, training=True),
            seed=first_seed + n,
            reward_clip=clip,
            length=length,
        )
        for n in range(num_games)
    ]
