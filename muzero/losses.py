"""One sequence → its summed loss: MuZero's unroll and the past-policy loss of *Proper Value Equivalence*.

`make_loss` fixes everything but parameters and data.  Targets are prepared once for a whole sequence, the loss is taken
on any of its start states; the learner vmaps both, sums and divides by the number of weighted start states of the
global minibatch.  Cross-entropies are reported as KL (minus target entropy).
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from muzero import value_buffer
from muzero.model import Model, unroll
from muzero.observation import stack_trajectory
from muzero.past_policies import PastTargets, past_losses, past_targets
from muzero.step_losses import step_losses, step_weights, tagged
from muzero.support import Support
from muzero.targets import Targets, make_targets
from muzero.types import Array, ModelOutput, Params, PyTree, Trajectory
from muzero.value_buffer import ValueBuffer


class LossOutput(NamedTuple):
    """Sums over the start states of one sequence (or of a batch, after a sum)."""

    loss: Array  # []
    num_starts: Array  # [] weighted start states
    sums: dict[str, Array]  # metric → sum over start states
    counts: dict[str, Array]  # metric → what that sum has to be divided by


class Prepared(NamedTuple):
    """What one sequence is trained towards: made once, good for all updates that go through its start states."""

    targets: Targets  # of all S start states
    past: PastTargets | None  # None: plain MuZero


class Loss(NamedTuple):
    """The loss of one sequence in two steps; vmap for more sequences."""

    prepare: Callable[[Params, PyTree, ValueBuffer, Trajectory], Prepared]
    """(parameters, target average's representation, stored heads, sequence) → its targets, no gradient."""
    evaluate: Callable[[Params, ValueBuffer, Trajectory, Prepared, Array], LossOutput]
    """(parameters, stored heads, sequence, its targets, start states [S']) → the loss summed over those."""


class LossSettings(NamedTuple):
    """S, chunk size and the fields of `LossConfig`."""

    num_actions: int
    num_starts: int  # S, start states of a sequence: its states less the overlap
    chunk_size: int  # past heads evaluated at a time
    num_unroll_steps: int
    discount_factor: float
    td_lambda: float
    reward_weight: float
    value_weight: float
    policy_weight: float
    past_weight: float
    past_clip: float
    past_latents: str


def make_loss(model: Model, support: Support, **settings) -> Loss:
    """Returns the loss; `settings` are the fields of `LossSettings`.

    With `past_weight` 0 the past heads are not evaluated at all: plain MuZero.
    """
    fixed = (model, support, LossSettings(**settings))
    return Loss(functools.partial(prepare, *fixed), functools.partial(evaluate, *fixed))


def prepare(
    model: Model,
    support: Support,
    settings: LossSettings,
    params: Params,
    target_representation: PyTree,
    buffer: ValueBuffer,
    trajectory: Trajectory,
) -> Prepared:
    """Returns the targets of one sequence.

    Args:
      model, support, settings: fixed by `make_loss`.
      params: the online parameters, read with `past_latents = online`.
      target_representation: the target average's representation, for the latents of the real states.
      buffer: the stored heads.
      trajectory: one sequence.
    """
    factors = dict(discount_factor=settings.discount_factor, td_lambda=settings.td_lambda)
    targets = make_targets(
        trajectory, num_starts=settings.num_starts, num_unroll_steps=settings.num_unroll_steps, **factors
    )
    if settings.past_weight == 0:
        return Prepared(targets, None)
    representation = target_representation if settings.past_latents == "target" else params.representation
    stacks = stack_trajectory(trajectory, settings.num_actions, jnp.arange(trajectory.is_first.shape[0]))
    past = past_targets(
        model,
        support,
        buffer,
        jax.vmap(model.represent, (None, 0))(representation, stacks),
        trajectory,
        chunk_size=settings.chunk_size,
        clip_threshold=settings.past_clip,
        **factors,
    )
    return jax.lax.stop_gradient(Prepared(targets, past))


def evaluate(
    model: Model,
    support: Support,
    settings: LossSettings,
    params: Params,
    buffer: ValueBuffer,
    trajectory: Trajectory,
    prepared: Prepared,
    starts: Array,
) -> LossOutput:
    """Returns the loss of some start states of one sequence, summed over them, and diagnostics.

    Args:
      model, support, settings: fixed by `make_loss`.
      params: what the gradient is taken of.
      buffer: the stored heads; one that was pushed after `prepared` was made has no targets yet and is left out.
      trajectory, prepared: one sequence and its targets.
      starts: [S'], below S.
    """
    targets = jax.tree.map(lambda x: x[starts], prepared.targets)
    from_starts = lambda length: starts[:, None] + jnp.arange(length)
    stacks = stack_trajectory(trajectory, settings.num_actions, starts)
    actions = trajectory.action[from_starts(settings.num_unroll_steps)]
    output = jax.vmap(functools.partial(unroll, model, params))(stacks, actions)
    total, sums, counts = base_loss(support, settings, output, targets)
    if prepared.past is not None:
        mask = value_buffer.unchanged_mask(buffer, prepared.past.push_update)
        vs = prepared.past.vs[:, from_starts(settings.num_unroll_steps + 1)]
        past = past_losses(model, support, buffer, mask, output.latent, vs, targets, settings.chunk_size)
        total += settings.past_weight * past.loss
        past_sums, past_counts = tagged({"past": past})
        sums = sums | past_sums | prepared.past.sums
        counts = counts | past_counts | prepared.past.counts
    return LossOutput(total, jnp.sum(targets.value_mask[:, 0]), sums, counts)


def base_loss(
    support: Support, settings: LossSettings, output: ModelOutput, targets: Targets
) -> tuple[Array, dict[str, Array], dict[str, Array]]:
    """Returns MuZero's loss summed over start states, diagnostics as sums, and their divisors.

    Args:
      support, settings: as in `evaluate`.
      output: predictions of every start state, each field with a leading S.
      targets: of the same start states.
    """
    weights = step_weights(settings.num_unroll_steps)
    reward_probs, value_probs = support.to_probs(targets.reward), support.to_probs(targets.value)
    losses = {
        "reward": step_losses(output.reward_logits, reward_probs, targets.reward_mask, weights[1:]),
        "value": step_losses(output.value_logits, value_probs, targets.value_mask, weights),
        "policy": step_losses(output.policy_logits, targets.policy, targets.policy_mask, weights),
    }
    total = (
        settings.reward_weight * losses["reward"].loss
        + settings.value_weight * losses["value"].loss
        + settings.policy_weight * losses["policy"].loss
    )
    sums, counts = tagged(losses)
    sums["loss/target_saturated"] = jnp.sum(support.saturates(targets.value) * targets.value_mask)
    counts["loss/target_saturated"] = jnp.sum(targets.value_mask)
    return total, sums, counts
