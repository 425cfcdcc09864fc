"""Environments unrolled with one batched search a step: plain Python, no Ray.

context (H-1)   | state 0 ... overlap-1 | overlap ...          T
carried over    | carried over          | new: step, then search
                  the search of the last carried state is kept, not repeated

With two groups the emulator works while a device searches:

    host     | step A | step B     | step A       | step B
    device            | search A   | search B     | search A

A frame is written to the sequence that will be sent and goes to the device once; the frames of its
history are there.
"""

from collections.abc import Callable, Iterator, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from actors import states
from actors.environments import Stream
from actors.tape import Tape
from configs.schema import ActorsConfig
from muzero.types import (
    Array,
    Episode,
    Params,
    PublishedParams,
    RolloutResult,
    SearchOutput,
    Trajectory,
)


class _Group:
    """Environments that are searched together, and what is on the device for them."""

    def __init__(self, rows: slice):
        self.rows = rows
        self.past_frames: Array = None  # [n, H-1, ...] of the states before the one to search
        self.searched: SearchOutput | None = None  # of the state `index`; it may still be computed
        self.index = 0


class Rollout:
    """Endless overlapping sequences from `streams`; one instance per worker.

    Args:
      streams: N environments as endless streams of states.
      search_fn: `search(params, rng_key, frames, actions, is_first) -> SearchOutput` (jitted here).
      settings: length and overlap of the sequences.
      num_actions: A.
      history_length: H.
      seed: seed of the searches and of the actions drawn where a decision is not real.
      num_groups: groups of environments, searched in turn; 2 where searches run on a device of
        their own.
    """

    def __init__(
        self,
        streams: Sequence[Stream],
        search_fn: Callable,
        settings: ActorsConfig,
        *,
        num_actions: int,
        history_length: int,
        seed: int,
        num_groups: int = 1,
    ):
        self._streams = streams
        self._search = _with_frames_on_device(search_fn)
        self._num_actions = num_actions
        self._length = settings.sequence_length
        self._overlap = settings.sequence_overlap
        self._history = history_length
        self._rng_key = jax.random.key(seed)
        self._np_rng = np.random.default_rng(seed)
        self._num_searches = 0
        self._tape: Tape | None = None
        self._at_final = np.zeros(len(streams), bool)  # the current state is a final observation
        self._published = PublishedParams(-1, None)
        bounds = np.linspace(0, len(streams), num_groups + 1).astype(int).tolist()
        self._groups = [_Group(slice(*pair)) for pair in zip(bounds, bounds[1:], strict=False)]

    def run(self, published: PublishedParams) -> RolloutResult:
        """Returns the next sequence of every environment, acted with `published`."""
        self._load(published)
        is_new, self._stats = self._tape is None, []
        self._tape = self._empty_tape() if is_new else self._next_tape(self._tape)
        first = 0 if is_new else self._overlap
        self._put_histories(first)
        num_steps, episodes = 0, []
        for t in range(first, self._length):
            for group in self._groups:
                self._finish_search(group)
                if is_new and t == 0:
                    self._reset(group)
                else:
                    num_steps += int(np.sum(~self._at_final[group.rows]))
                    episodes += self._step(group, t)
                self._start_search(group, t)
        for group in self._groups:
            self._finish_search(group)
        return RolloutResult(
            trajectory=self._trajectory(),
            episodes=episodes,
            search_stats={
                n: float(np.mean(np.concatenate([row[n] for row in self._stats])))
                for n in self._stats[0]
            },
            num_steps=num_steps,
            num_frames=num_steps * self._streams[0].spec.frames_per_step,
        )

    def save(self) -> states.Arrays:
        """Returns all that the next sequence depends on, the parameters apart; there must have been
        one before.
        """
        saved = {
            "num_searches": np.array(self._num_searches),
            "rng_key": np.asarray(jax.random.key_data(self._rng_key)),
            "at_final": self._at_final.copy(),
        }
        saved |= states.nested("generator", states.save_generator(self._np_rng))
        saved |= states.nested("tape", self._tape._asdict())
        for n, stream in enumerate(self._streams):
            saved |= states.nested(f"stream{n}", stream.save())
        return saved

    def load(self, arrays: states.Arrays) -> None:
        """Goes on where the saved rollout was; its environments and settings must be the same."""
        self._num_searches = int(arrays["num_searches"])
        self._rng_key = jax.random.wrap_key_data(arrays["rng_key"])
        self._at_final = arrays["at_final"].copy()
        self._np_rng = states.load_generator(states.part("generator", arrays))
        self._tape = Tape(**states.part("tape", arrays))
        for n, stream in enumerate(self._streams):
            stream.load(states.part(f"stream{n}", arrays))

    def close(self) -> None:
        """Closes the environments."""
        for stream in self._streams:
            stream.close()

    def _load(self, published: PublishedParams) -> None:
        if published.version != self._published.version:
            self._published = PublishedParams(published.version, jax.device_put(published.params))

    def _empty_tape(self) -> Tape:
        spec, num_streams = self._streams[0].spec, len(self._streams)
        shape = (num_streams, self._history - 1 + self._length)

        def frames(length: int) -> np.ndarray:
            return np.zeros((num_streams, length, *spec.observation_shape), spec.observation_dtype)

        def zeros(dtype: type, *more: int) -> np.ndarray:
            return np.zeros((*shape, *more), dtype)

        return Tape(
            observation=frames(self._length),
            history_observation=frames(self._history - 1),
            is_first=zeros(bool),
            action=zeros(np.int32),
            reward=zeros(np.float32),
            discount=zeros(np.float32),
            behaviour_prob=zeros(np.float32),
            search_policy=zeros(np.float32, self._num_actions),
            search_value=zeros(np.float32),
            params_version=zeros(np.int32),
        )

    def _next_tape(self, old: Tape) -> Tape:
        """Returns fresh arrays that begin with the context and the overlap of `old`."""
        shift, kept = self._length - self._overlap, self._history - 1 + self._overlap
        new = self._empty_tape()
        new.observation[:, : self._overlap] = old.observation[:, shift:]
        for n, frames in enumerate(self._frames_before(shift, old)):
            new.history_observation[n] = frames
        for name in Tape._fields[2:]:
            getattr(new, name)[:, :kept] = getattr(old, name)[:, shift : shift + kept]
        return new

    def _frames_before(self, t: int, tape: Tape) -> Iterator[np.ndarray]:
        """Yields the H − 1 frames before state `t` of every environment."""
        first = max(0, t - (self._history - 1))
        for context, frames in zip(tape.history_observation, tape.observation, strict=True):
            yield np.concatenate([context[t:], frames[first:t]])

    def _put_histories(self, t: int) -> None:
        """Moves the frames before state `t` to the device."""
        frames = np.stack(list(self._frames_before(t, self._tape)))
        for group in self._groups:
            group.past_frames = jnp.array(frames[group.rows])

    def _reset(self, group: _Group) -> None:
        for n in range(*group.rows.indices(len(self._streams))):
            self._tape.observation[n, 0] = self._streams[n].reset()
        self._tape.is_first[group.rows, self._history - 1] = True

    def _step(self, group: _Group, t: int) -> list[Episode]:
        """Takes the decision of state `t - 1` in every environment of the group and writes state
        `t`.
        """
        tape, index, episodes = self._tape, self._history - 1 + t, []
        for n in range(*group.rows.indices(len(self._streams))):
            step = self._streams[n].step(int(tape.action[n, index - 1]))
            tape.observation[n, t] = step.observation
            tape.is_first[n, index] = step.is_first
            tape.reward[n, index - 1] = step.reward
            tape.discount[n, index - 1] = step.discount
            self._at_final[n] = step.episode is not None
            if step.episode is not None and self._streams[n].is_whole:
                episodes.append(step.episode)
        return episodes

    def _start_search(self, group: _Group, t: int) -> None:
        """Has the device search state `t` of the group's environments."""
        tape, rows, index = self._tape, group.rows, self._history - 1 + t
        group.index = index
        group.searched, group.past_frames = self._search(
            self._published.params,
            self._rng_key,
            self._num_searches,
            group.past_frames,
            tape.observation[rows, t],
            tape.action[rows, t:index],
            tape.is_first[rows, t : index + 1],
        )
        self._num_searches += 1

    def _finish_search(self, group: _Group) -> None:
        """Waits for the search of the group, if there is one,
        and writes the decisions it leads to.
        """
        if group.searched is None:
            return
        out, group.searched = jax.device_get(group.searched), None
        tape, place, at_final = self._tape, (group.rows, group.index), self._at_final[group.rows]
        # A final observation is searched for its value only. A constant action there would be the
        # only one to learn absorption.
        uniform = self._np_rng.integers(self._num_actions, size=len(at_final))
        tape.action[place] = np.where(at_final, uniform, out.action)
        tape.behaviour_prob[place] = np.where(at_final, 1.0 / self._num_actions, out.behaviour_prob)
        tape.search_policy[place] = out.policy
        tape.search_value[place] = out.value
        tape.params_version[place] = self._published.version
        self._stats.append(out.stats)

    def _trajectory(self) -> Trajectory:
        context = self._history - 1
        tape = self._tape

        def states(x: np.ndarray) -> np.ndarray:
            return x[:, context:]

        def decisions(x: np.ndarray) -> np.ndarray:
            return x[:, context:-1]

        return Trajectory(
            observation=tape.observation,
            is_first=states(tape.is_first),
            search_policy=states(tape.search_policy),
            search_value=states(tape.search_value),
            params_version=states(tape.params_version),
            action=decisions(tape.action),
            reward=decisions(tape.reward),
            discount=decisions(tape.discount),
            behaviour_prob=decisions(tape.behaviour_prob),
            history_observation=tape.history_observation,
            history_action=tape.action[:, :context],
            history_is_first=tape.is_first[:, :context],
        )


def _with_frames_on_device(search_fn: Callable) -> Callable:
    """Returns the jitted search that takes the newest frame [n, ...] and keeps the others where
    they are.

    It derives the key of search `number` itself: outside of the program that costs milliseconds.
    """

    def search(
        params: Params,
        rng_key: Array,
        number: int,
        past_frames: Array,
        frame: Array,
        actions: Array,
        is_first: Array,
    ) -> tuple[SearchOutput, Array]:
        frames = jnp.concatenate([past_frames, frame[:, None]], axis=1)
        return search_fn(
            params, jax.random.fold_in(rng_key, number), frames, actions, is_first
        ), frames[:, 1:]

    return jax.jit(search, donate_argnums=3)
