"""The value-equivalence audit: how well a learned model predicts the values of every stored past
policy.

For a state s_j of a held-out game and a stored head i, the truth is the Monte-Carlo return of π_i
from s_j in the real environment.  Predictions of it:

    k = 0     v_i(z⁰), z⁰ represents s_j itself: how wrong the head is where no model is used
    k = 1..K  v_i(zᵏ), zᵏ after k imagined steps from s_{j−k} by the taken actions: head and model
    V-trace   the target that the past-policy loss gives the head there: how wrong that is

Latents are those of the search average, the model that plans; policies and V-trace targets use the
target average, as in training.  Where the environment is random, no model that is asked from
s_{j−k} can know s_j: the excess of k > 0 over k = 0 is then the model's error *and* that of not
knowing.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from muzero.model import unroll
from muzero.observation import stack_history, stack_trajectory
from muzero.past_policies import head_targets
from muzero.types import Trajectory
from scripts.inspection.arithmetic import HeadAudit, audit_head, complete
from scripts.inspection.heldout import HeldOut
from scripts.inspection.rollouts import PolicyRollouts
from scripts.inspection.stored import Stored
from scripts.inspection.windows import Window, stacked, window


def run(
    stored: Stored,
    states: list[HeldOut],
    heads: list[int],
    *,
    num_rollouts: int,
    tail: float,
    seed: int,
    on_done: Callable[[int], None],
) -> list[HeadAudit]:
    """Returns the audit of every head.

    Args:
      stored: the checkpoint.
      states: held-out states, N.
      heads: numbers of updates of the heads.
      num_rollouts: R, a state and head.
      tail: rollouts are cut at γⁿ < `tail`.
      seed: of the rollouts and of the intervals.
      on_done: called with the count of rollouts that ended.
    """
    predict, vtrace = make_predictions(stored, states), make_vtrace_targets(stored, states)
    rollouts = PolicyRollouts(stored, num_parallel=len(states) * num_rollouts, tail=tail)
    group, audits = np.array([state.game for state in states]), []
    for push_update in heads:
        head = stored.head(push_update)
        total, remaining = rollouts.returns(
            head, states, num_rollouts, (seed, push_update), on_done
        )
        audited = audit_head(
            predict(head), vtrace(head), complete(total, remaining), group, seed=seed
        )
        audits.append(HeadAudit(push_update, audited, float(np.mean(remaining > 0))))
    rollouts.close()
    return audits


def starts(state: HeldOut, num_unroll_steps: int) -> list[Window]:
    """Returns the windows of the states k = 0..K before a held-out one; the k-th has the k actions
    taken since.
    """
    return [window(state.trajectory, state.index - k, k) for k in range(num_unroll_steps + 1)]


def make_predictions(stored: Stored, states: list[HeldOut]) -> Callable[..., np.ndarray]:
    """Returns `predict(head_params) -> v(zᵏ) [K+1, N]`."""
    model, support, params = stored.model, stored.support, stored.search_average
    stack = functools.partial(stack_history, num_actions=stored.spec.num_actions)

    @jax.jit
    def imagine(windows: Window):
        # One state at a time: a deep stack of all of them would not fit.
        def last(w):
            return unroll(model, params, stack(w.frames, w.actions, w.is_first), w.taken).latent[-1]

        return jax.lax.map(last, windows)

    @jax.jit
    def predict(head_params, latents):
        _, logits = jax.vmap(jax.vmap(model.predict, (None, 0)), (None, 0))(head_params, latents)
        return support.from_logits(logits)

    by_state = [starts(state, stored.config.loss.num_unroll_steps) for state in states]
    latents = jnp.stack(
        [imagine(stacked(list(windows))) for windows in zip(*by_state, strict=True)]
    )
    return lambda head_params: np.asarray(predict(head_params, latents), np.float64)


def make_vtrace_targets(stored: Stored, states: list[HeldOut]) -> Callable[..., np.ndarray]:
    """Returns `targets(head_params) -> [N]`, the V-trace targets of training in the audited
    states.
    """
    model, loss = stored.model, stored.config.loss
    length, num_actions = stored.config.actors.sequence_length, stored.spec.num_actions
    index = np.array([state.index for state in states])
    trajectories: Trajectory = jax.tree.map(
        lambda *rows: np.stack(rows), *[state.trajectory for state in states]
    )

    @jax.jit
    def represent(batch: Trajectory):
        def stacks(trajectory):
            return stack_trajectory(trajectory, num_actions, jnp.arange(length))

        one = jax.vmap(functools.partial(model.represent, stored.target_average.representation))
        return jax.lax.map(lambda trajectory: one(stacks(trajectory)), batch)

    @jax.jit
    def targets(head_params, latents):
        one = functools.partial(head_targets, model, stored.support, loss, head_params)
        return jax.vmap(one)(latents, trajectories).vs[np.arange(len(index)), index]

    latents = represent(trajectories)
    return lambda head_params: np.asarray(targets(head_params, latents), np.float64)
