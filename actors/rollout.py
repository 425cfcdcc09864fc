"""A group of environments unrolled with one batched search a step: plain Python, no Ray.

context (H-1)   | state 0 ... overlap-1 | overlap ...          T
carried over    | carried over          | new: step, then search
                  the search of the last carried state is kept, not repeated
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import numpy as np

from actors.environments import Stream
from muzero.types import Episode, PublishedParams, RolloutResult, Trajectory


class _Tape(NamedTuple):
    """The sequence being written; time is the second axis, the first `H - 1` entries are context."""

    observation: np.ndarray  # [N, H-1 + T+1, ...]
    is_first: np.ndarray  # [N, H-1 + T+1]
    action: np.ndarray  # [N, H-1 + T+1], the last one is never read
    reward: np.ndarray
    discount: np.ndarray
    behaviour_prob: np.ndarray
    search_policy: np.ndarray  # [N, H-1 + T+1, A]
    search_value: np.ndarray
    params_version: np.ndarray


class Rollout:
    """Endless overlapping sequences from `streams`; one instance per worker.

    Args:
      streams: N environments as endless streams of states.
      search_fn: `search(params, rng_key, frames, actions, is_first) -> SearchOutput` (jitted here).
      num_actions: A.
      sequence_length: T + 1 states.
      sequence_overlap: states shared by neighbouring sequences.
      history_length: H.
      seed: seed of the searches and of the actions drawn where a decision is not real.
    """

    def __init__(
        self,
        streams: Sequence[Stream],
        search_fn: Callable,
        *,
        num_actions: int,
        sequence_length: int,
        sequence_overlap: int,
        history_length: int,
        seed: int,
    ):
        self._streams = streams
        self._search = jax.jit(search_fn)
        self._num_actions = num_actions
        self._length, self._overlap, self._history = sequence_length, sequence_overlap, history_length
        self._rng_key = jax.random.key(seed)
        self._np_rng = np.random.default_rng(seed)
        self._num_searches = 0
        self._tape: _Tape | None = None
        self._at_final = np.zeros(len(streams), bool)  # the current state is a final observation
        self._published = PublishedParams(-1, None)

    def run(self, published: PublishedParams) -> RolloutResult:
        """Returns the next sequence of every environment, acted with `published`."""
        self._load(published)
        stats: list[dict[str, np.ndarray]] = []
        episodes: list[Episode] = []
        if self._tape is None:
            self._tape = self._empty_tape()
            first_new = self._history  # index of state 1: state 0 is the reset
            self._reset(stats)
        else:
            self._tape = self._next_tape(self._tape)
            first_new = self._history - 1 + self._overlap
        num_steps = 0
        for index in range(first_new, self._history - 1 + self._length):
            num_steps += int(np.sum(~self._at_final))
            episodes += self._step(index)
            self._search_state(index, stats)
        return RolloutResult(
            trajectory=self._trajectory(),
            episodes=episodes,
            search_stats={name: float(np.mean([row[name] for row in stats])) for name in stats[0]},
            num_steps=num_steps,
            num_frames=num_steps * self._streams[0].spec.frames_per_step,
        )

    def close(self) -> None:
        """Closes the environments."""
        for stream in self._streams:
            stream.close()

    def _load(self, published: PublishedParams) -> None:
        if published.version != self._published.version:
            self._published = PublishedParams(published.version, jax.device_put(published.params))

    def _empty_tape(self) -> _Tape:
        spec = self._streams[0].spec
        shape = (len(self._streams), self._history - 1 + self._length)
        zeros = lambda dtype, *more: np.zeros((*shape, *more), dtype)
        return _Tape(
            observation=zeros(spec.observation_dtype, *spec.observation_shape),
            is_first=zeros(bool),
            action=zeros(np.int32),
            reward=zeros(np.float32),
            discount=zeros(np.float32),
            behaviour_prob=zeros(np.float32),
            search_policy=zeros(np.float32, self._num_actions),
            search_value=zeros(np.float32),
            params_version=zeros(np.int32),
        )

    def _next_tape(self, old: _Tape) -> _Tape:
        """Returns fresh arrays that begin with the context and the overlap of `old`."""
        shift, kept = self._length - self._overlap, self._history - 1 + self._overlap
        new = self._empty_tape()
        for source, target in zip(old, new, strict=True):
            target[:, :kept] = source[:, shift : shift + kept]
        return new

    def _reset(self, stats: list) -> None:
        index = self._history - 1
        for n, stream in enumerate(self._streams):
            self._tape.observation[n, index] = stream.reset()
        self._tape.is_first[:, index] = True
        self._search_state(index, stats)

    def _step(self, index: int) -> list[Episode]:
        """Takes the decision of state `index - 1` in every environment and writes state `index`."""
        tape, episodes = self._tape, []
        for n, stream in enumerate(self._streams):
            step = stream.step(int(tape.action[n, index - 1]))
            tape.observation[n, index] = step.observation
            tape.is_first[n, index] = step.is_first
            tape.reward[n, index - 1] = step.reward
            tape.discount[n, index - 1] = step.discount
            self._at_final[n] = step.episode is not None
            if step.episode is not None:
                episodes.append(step.episode)
        return episodes

    def _search_state(self, index: int, stats: list) -> None:
        """Searches state `index` of every environment and writes the decision it leads to."""
        tape, window = self._tape, slice(index - self._history + 1, index + 1)
        actions = tape.action[:, index - self._history + 1 : index]
        key = jax.random.fold_in(self._rng_key, self._num_searches)
        self._num_searches += 1
        out = jax.device_get(
            self._search(self._published.params, key, tape.observation[:, window], actions, tape.is_first[:, window])
        )
        # A final observation is searched for its value only. A constant action there would be the only one to
        # learn absorption.
        uniform = self._np_rng.integers(self._num_actions, size=len(self._streams))
        tape.action[:, index] = np.where(self._at_final, uniform, out.action)
        tape.behaviour_prob[:, index] = np.where(self._at_final, 1.0 / self._num_actions, out.behaviour_prob)
        tape.search_policy[:, index] = out.policy
        tape.search_value[:, index] = out.value
        tape.params_version[:, index] = self._published.version
        stats.append(out.stats)

    def _trajectory(self) -> Trajectory:
        context = self._history - 1
        states = lambda x: x[:, context:]
        decisions = lambda x: x[:, context:-1]
        tape = self._tape
        return Trajectory(
            observation=states(tape.observation),
            is_first=states(tape.is_first),
            search_policy=states(tape.search_policy),
            search_value=states(tape.search_value),
            params_version=states(tape.params_version),
            action=decisions(tape.action),
            reward=decisions(tape.reward),
            discount=decisions(tape.discount),
            behaviour_prob=decisions(tape.behaviour_prob),
            history_observation=tape.observation[:, :context],
            history_action=tape.action[:, :context],
            history_is_first=tape.is_first[:, :context],
        )
