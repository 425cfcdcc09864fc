"""A stored policy in the real environment, from saved states: its Monte-Carlo returns.

The policy is the stored head on latents of the *target* network, sampled, no search.  A fixed
number of environments plays; one that is done takes the next rollout, so that the network always
sees a full batch.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterator

import jax
import numpy as np

from actors.environments import make_environment
from actors.forks import ForkableStream
from actors.history import History
from muzero.observation import stack_history
from muzero.types import Array, PyTree
from scripts.inspection.heldout import HeldOut
from scripts.inspection.stored import Stored
from scripts.inspection.windows import window

_MAX_PARALLEL = 128
_NO_LIMIT = 0  # of emulator frames: where time runs out is no end of what a value stands for


@dataclasses.dataclass
class _Rollout:
    """One rollout under way."""

    state: int
    number: int
    rng: np.random.Generator  # its own: no result depends on which environments play beside it
    total: float = 0.0
    weight: float = 1.0  # γⁿ


class PolicyRollouts:
    """Plays stored policies from held-out states.

    Args:
      stored: the checkpoint.
      num_parallel: environments, at most 128 are made.
      tail: a rollout is cut at γⁿ < `tail`.
    """

    def __init__(self, stored: Stored, *, num_parallel: int, tail: float):
        config, self._tail = stored.config, tail
        endless = dataclasses.replace(config.env, max_episode_frames=_NO_LIMIT)

        def make():
            return make_environment(endless, training=True)

        clip, size = config.env.reward_clip, min(num_parallel, _MAX_PARALLEL)
        self._streams = [ForkableStream(make(), seed=0, reward_clip=clip) for _ in range(size)]
        self._history = History(stored.spec, config.network.history_length, size)
        self._observation = np.zeros(
            (size, *stored.spec.observation_shape), stored.spec.observation_dtype
        )
        self._discount_factor = config.loss.discount_factor
        self._policy = functools.partial(make_policy(stored), stored.target_average.representation)

    def returns(
        self,
        head_params: PyTree,
        states: list[HeldOut],
        num_rollouts: int,
        seed: tuple[int, ...],
        on_done: Callable,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Returns the discounted rewards [N, R] of `num_rollouts` from every state, and γⁿ [N, R]
        where cut, else 0.

        Args:
          head_params: of the stored head.
          states: N.
          num_rollouts: R.
          seed: of actions and chances, with state and number of the rollout.
          on_done: called with the count of rollouts that ended.
        """
        self._states = states
        total, remaining = np.zeros((2, len(states), num_rollouts))
        pairs = ((n, r) for n in range(len(states)) for r in range(num_rollouts))
        waiting = (_Rollout(n, r, np.random.default_rng((*seed, n, r))) for n, r in pairs)
        running = [self._begin(slot, waiting) for slot in range(len(self._streams))]
        while any(running):
            actions = self._draw(head_params, running)
            self._history.act(actions)
            ended = [
                slot
                for slot, job in enumerate(running)
                if job and self._step(slot, job, actions[slot])
            ]
            self._history.observe(self._observation, np.zeros(len(running), bool))
            for slot in ended:
                job = running[slot]
                total[job.state, job.number], remaining[job.state, job.number] = (
                    job.total,
                    job.weight,
                )
                running[slot] = self._begin(slot, waiting)
            if ended:
                on_done(len(ended))
        return total, remaining

    def close(self) -> None:
        """Closes the environments."""
        for stream in self._streams:
            stream.close()

    def _begin(self, slot: int, waiting: Iterator[_Rollout]) -> _Rollout | None:
        job = next(waiting, None)
        if job is not None:
            state = self._states[job.state]
            self._streams[slot].thaw(state.frozen, seed=int(job.rng.integers(2**31)))
            self._history.put(slot, *window(state.trajectory, state.index, 0)[:3])
        return job

    def _draw(self, head_params: PyTree, running: list[_Rollout | None]) -> np.ndarray:
        """Returns an action [slots] of the policy in every slot, by inverting its distribution
        function.
        """
        probs = np.asarray(self._policy(head_params, *self._history.inputs()), np.float64)
        chance = np.array([job.rng.random() if job else 0.0 for job in running])
        upper = np.cumsum(probs, axis=1)
        return np.argmax(upper > chance[:, None] * upper[:, -1:], axis=1)

    def _step(self, slot: int, job: _Rollout, action: int) -> bool:
        """Takes one decision of a rollout; returns whether it was the last.

        An end that counts leaves weight 0.
        """
        step = self._streams[slot].step(int(action))
        self._observation[slot] = step.observation
        job.total += job.weight * step.reward
        job.weight *= self._discount_factor * step.discount
        if step.episode is not None and step.discount > 0:
            raise RuntimeError("a rollout was truncated although all time limits were lifted")
        return job.weight < self._tail


def make_policy(stored: Stored) -> Callable[..., Array]:
    """Returns the compiled `policy(representation, head_params, frames, actions, is_first) ->
    probabilities [n, A]`.
    """
    model, stack = (
        stored.model,
        functools.partial(stack_history, num_actions=stored.spec.num_actions),
    )

    def policy(representation, head_params, frames, actions, is_first):
        def predict(*history):
            return model.predict(head_params, model.represent(representation, stack(*history)))[0]

        return jax.nn.softmax(jax.vmap(predict)(frames, actions, is_first))

    return jax.jit(policy)
