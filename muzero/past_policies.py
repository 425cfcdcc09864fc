"""The past-policy loss of *Proper Value Equivalence*: what the stored heads ask of the model's latents.

Once for a sequence, the V-trace targets of every stored head; then, for any of its start states, the cross-entropy of
the head's values along the imagined latents against them.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from muzero import value_buffer
from muzero.model import Model
from muzero.step_losses import StepLosses, step_losses, step_weights
from muzero.support import Support
from muzero.targets import Targets, importance_ratio, real_mask, vtrace_targets
from muzero.types import Array, PyTree, Trajectory
from muzero.value_buffer import ValueBuffer


class PastTargets(NamedTuple):
    """What the heads of a value buffer make of one sequence; M slots."""

    vs: Array  # [M, T+1], V-trace targets, no gradient
    push_update: Array  # [M], of the heads behind them
    sums: dict[str, Array]  # diagnostics, the mean over heads of sums over decisions
    counts: dict[str, Array]  # what those have to be divided by


class HeadTargets(NamedTuple):
    """What one stored head makes of one sequence."""

    policy: Array  # [T, A], π_i in the states of the decisions
    target_prob: Array  # [T], π_i of the actions taken
    value: Array  # [T+1], v_i
    vs: Array  # [T+1], V-trace targets, no gradient


def head_targets(
    model: Model,
    support: Support,
    head_params: PyTree,
    state_latents: Array,
    trajectory: Trajectory,
    *,
    discount_factor: float,
    td_lambda: float,
    clip_threshold: float,
) -> HeadTargets:
    """Returns policy, values and V-trace targets of one stored head.

    Args:
      model, support: the networks and their categorical support.
      head_params: the stored head; its owner stops the gradient.
      state_latents: [T+1, ...] latents of the real states, no gradient.
      trajectory: one sequence.
      discount_factor, td_lambda, clip_threshold: γ, λ and the V-trace clip.
    """
    policy_logits, value_logits = jax.vmap(model.predict, (None, 0))(head_params, state_latents)
    policy = jax.nn.softmax(policy_logits[:-1])
    target_prob = jnp.take_along_axis(policy, trajectory.action[:, None], axis=1)[:, 0]
    value = support.from_logits(value_logits)
    vs = vtrace_targets(
        value,
        target_prob,
        trajectory.behaviour_prob,
        trajectory.reward,
        trajectory.discount,
        real_mask(trajectory.is_first),
        discount_factor=discount_factor,
        td_lambda=td_lambda,
        clip_threshold=clip_threshold,
    )
    return HeadTargets(policy, target_prob, value, vs)


def past_targets(
    model: Model,
    support: Support,
    buffer: ValueBuffer,
    state_latents: Array,
    trajectory: Trajectory,
    *,
    chunk_size: int,
    clip_threshold: float,
    **factors: float,
) -> PastTargets:
    """Returns the V-trace targets of every stored head on one sequence, and how its policy compares with the actor's.

    Args:
      model, support, state_latents, trajectory, clip_threshold: as of `head_targets`.
      buffer: the ring of heads.
      chunk_size: heads evaluated at a time.
      factors: `discount_factor` and `td_lambda`.
    """
    real = real_mask(trajectory.is_first)

    def one_head(head_params):
        head = head_targets(
            model, support, head_params, state_latents, trajectory, clip_threshold=clip_threshold, **factors
        )
        ratio = head.target_prob / trajectory.behaviour_prob
        diagnostics = {
            "rho_mean": importance_ratio(head.target_prob, trajectory.behaviour_prob, clip_threshold),
            "rho_clipped_fraction": ratio > clip_threshold,
            "overlap": policy_overlap(head.policy, trajectory),
            "target_square": head.vs[:-1] ** 2,
            "target_mean": head.vs[:-1],
            "error_square": (head.vs - head.value)[:-1] ** 2,
        }
        return head.vs, {f"value_buffer/{name}": jnp.sum(real * x) for name, x in diagnostics.items()}

    vs, rows = value_buffer.over_heads(one_head, buffer, chunk_size)
    num_real = value_buffer.filled_mask(buffer) * jnp.sum(real)
    sums, counts = value_buffer.mean_over_filled((rows, dict.fromkeys(rows, num_real)), buffer)
    for age, slot in zip(("newest", "oldest"), value_buffer.newest_and_oldest(buffer), strict=True):
        sums[f"value_buffer/overlap_{age}"] = rows["value_buffer/overlap"][slot]
        counts[f"value_buffer/overlap_{age}"] = num_real[slot]
    return PastTargets(vs, buffer.push_update, sums, counts)


def past_losses(
    model: Model,
    support: Support,
    buffer: ValueBuffer,
    mask: Array,
    latents: Array,
    vs: Array,
    targets: Targets,
    chunk_size: int,
) -> StepLosses:
    """Returns Σ_t Σ_k w_k CE(vs^i_{t+k}, v_i(zᵏ)), the mean over the stored heads (Grimm et al., section 5, A.4).

    Args:
      model, support: the networks and their categorical support.
      buffer: the ring of heads.
      mask: [M], 1 for the heads that count; exactly 0 with none.
      latents: [S, K+1, ...] imagined latents of the online network: the gradient flows into these.
      vs: [M, S, K+1] targets of every head.
      targets: the masks of these start states.
      chunk_size: heads evaluated at a time.
    """
    weights = step_weights(vs.shape[-1] - 1)

    def one_head(head_params, latents, vs):
        probs = support.to_probs(vs * (1.0 - targets.absorbed_mask))
        _, logits = jax.vmap(jax.vmap(model.predict, (None, 0)), (None, 0))(head_params, latents)
        losses = step_losses(logits, probs, targets.value_mask, weights)
        return losses.loss, losses

    loss, losses = value_buffer.mean_loss_over_heads(one_head, buffer, mask, chunk_size, latents, vs)
    return losses._replace(loss=loss, weights=weights)  # theirs are a mean too, 0 while the buffer is empty


def policy_overlap(policy: Array, trajectory: Trajectory) -> Array:
    """Returns Σ_a min(μ, π) [T] of a policy [T, A] and the search policy μ, whatever temperature acts."""
    return jnp.sum(jnp.minimum(policy, trajectory.search_policy[:-1]), axis=-1)
