"""One sequence → its summed loss: MuZero's unroll and the past-policy loss of *Proper Value Equivalence*.

`make_loss` fixes everything but parameters and data; the learner vmaps the result, sums and divides by the number of
weighted start states of the global batch.  Cross-entropies are reported as KL (minus target entropy).
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from muzero import value_buffer
from muzero.model import Model, unroll
from muzero.observation import stack_trajectory
from muzero.past_policies import overlap_by_age, past_head_loss
from muzero.step_losses import step_losses, step_weights, tagged
from muzero.support import Support
from muzero.targets import Targets, make_targets, windows
from muzero.types import Array, ModelOutput, Params, Trajectory, Tree
from muzero.value_buffer import ValueBuffer


class LossOutput(NamedTuple):
    """Sums over the start states of one sequence (or of a batch, after a sum)."""

    loss: Array  # []
    num_starts: Array  # [] weighted start states
    sums: dict[str, Array]  # metric → sum over start states
    weights: dict[str, Array]  # metric → what that sum has to be divided by


LossFn = Callable[[Params, Tree, ValueBuffer, Trajectory], LossOutput]


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


def make_loss(model: Model, support: Support, **settings) -> LossFn:
    """Returns `loss(params, target_representation, value_buffer, trajectory) -> LossOutput` for one sequence.

    `settings` are the fields of `LossSettings`. With `past_weight` 0 the past heads are not evaluated at all:
    plain MuZero.
    """
    return functools.partial(sequence_loss, model, support, LossSettings(**settings))


def sequence_loss(
    model: Model,
    support: Support,
    settings: LossSettings,
    params: Params,
    target_representation: Tree,
    buffer: ValueBuffer,
    trajectory: Trajectory,
) -> LossOutput:
    """Returns the loss of one sequence, summed over its start states, and diagnostics.

    Args:
      model, support, settings: fixed by `make_loss`.
      params: what the gradient is taken of.
      target_representation: the target average's representation, for the latents of the real states.
      buffer: the stored heads.
      trajectory: one sequence.
    """
    targets = make_targets(
        trajectory,
        num_starts=settings.num_starts,
        num_unroll_steps=settings.num_unroll_steps,
        discount_factor=settings.discount_factor,
        td_lambda=settings.td_lambda,
    )
    stacks = stack_trajectory(trajectory, settings.num_actions, trajectory.is_first.shape[0])
    actions = windows(trajectory.action, settings.num_starts, settings.num_unroll_steps)
    output = jax.vmap(functools.partial(unroll, model, params))(stacks[: settings.num_starts], actions)
    total, sums, counts = base_loss(support, settings, output, targets)
    if settings.past_weight > 0:
        representation = target_representation if settings.past_latents == "target" else params.representation
        state_latents = jax.lax.stop_gradient(jax.vmap(model.represent, (None, 0))(representation, stacks))

        def one_head(head_params):
            return past_head_loss(
                model,
                support,
                head_params,
                output.latent,
                state_latents,
                trajectory,
                targets,
                discount_factor=settings.discount_factor,
                td_lambda=settings.td_lambda,
                clip_threshold=settings.past_clip,
            )

        rows = value_buffer.over_heads(one_head, buffer, settings.chunk_size)
        past = value_buffer.mean_over_filled(rows, buffer)
        total += settings.past_weight * past.loss
        overlaps, num_states = overlap_by_age(rows, buffer)
        sums = sums | past.sums | overlaps
        counts = counts | past.counts | num_states
    return LossOutput(total, jnp.sum(targets.value_mask[:, 0]), sums, counts)


def base_loss(
    support: Support, settings: LossSettings, output: ModelOutput, targets: Targets
) -> tuple[Array, dict[str, Array], dict[str, Array]]:
    """Returns MuZero's loss summed over start states, diagnostics as sums, and their divisors.

    Args:
      support, settings: as in `sequence_loss`.
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
