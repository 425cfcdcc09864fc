"""The past-policy loss of *Proper Value Equivalence*: what stored heads ask of the model's latents.

Once for a sequence, the V-trace targets of every stored head; then, for any of its start states,
the cross-entropy of the head's values along the imagined latents against them.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from configs.schema import LossConfig
from muzero import value_buffer
from muzero.model import Model
from muzero.step_losses import StepLosses, step_losses, step_weights
from muzero.support import Support
from muzero.targets import Targets, importance_ratio, real_mask, vtrace_targets
from muzero.types import Array, PyTree, Trajectory
from muzero.value_buffer import ValueBuffer

_TAG = "value_buffer/"  # of the diagnostics


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
    settings: LossConfig,
    head_params: PyTree,
    state_latents: Array,
    trajectory: Trajectory,
) -> HeadTargets:
    """Returns policy, values and V-trace targets of one stored head.

    Args:
      model, support: the networks and their categorical support.
      settings: γ, λ and the V-trace clip.
      head_params: the stored head; its owner stops the gradient.
      state_latents: [T+1, ...] latents of the real states, no gradient.
      trajectory: one sequence.
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
        discount_factor=settings.discount_factor,
        td_lambda=settings.td_lambda,
        clip_threshold=settings.past_clip,
    )
    return HeadTargets(policy, target_prob, value, vs)


def past_targets(
    model: Model,
    support: Support,
    settings: LossConfig,
    buffer: ValueBuffer,
    state_latents: Array,
    trajectory: Trajectory,
    *,
    chunk_size: int,
) -> PastTargets:
    """Returns every stored head's V-trace targets, and how its policy compares with the actor's.

    Args:
      model, support, settings, state_latents, trajectory: as of `head_targets`.
      buffer: the ring of heads.
      chunk_size: heads evaluated at a time.
    """
    real = real_mask(trajectory.is_first)

    def one_head(head_params):
        head = head_targets(model, support, settings, head_params, state_latents, trajectory)
        diagnostics = _head_diagnostics(head, trajectory, settings.past_clip)
        return head.vs, {_TAG + name: jnp.sum(real * x) for name, x in diagnostics.items()}

    vs, rows = value_buffer.over_heads(one_head, buffer, chunk_size)
    num_real = value_buffer.filled_mask(buffer) * jnp.sum(real)
    sums, counts = value_buffer.mean_over_filled((rows, dict.fromkeys(rows, num_real)), buffer)
    for age, slot in zip(("newest", "oldest"), value_buffer.newest_and_oldest(buffer), strict=True):
        sums[f"{_TAG}overlap_{age}"] = rows[f"{_TAG}overlap"][slot]
        counts[f"{_TAG}overlap_{age}"] = num_real[slot]
    return PastTargets(vs, buffer.push_update, sums, counts)


def _head_diagnostics(
    head: HeadTargets, trajectory: Trajectory, clip_threshold: float
) -> dict[str, Array]:
    """Returns what is reported of one stored head on one sequence, decision by decision [T]."""
    ratio = head.target_prob / trajectory.behaviour_prob
    return {
        "rho_mean": importance_ratio(head.target_prob, trajectory.behaviour_prob, clip_threshold),
        "rho_clipped_fraction": ratio > clip_threshold,
        "overlap": policy_overlap(head.policy, trajectory),
        "target_square": head.vs[:-1] ** 2,
        "target_mean": head.vs[:-1],
        "error_square": (head.vs - head.value)[:-1] ** 2,
    }


def with_explained_variance(means: dict[str, Array]) -> dict[str, Array]:
    """Returns the means of `PastTargets.sums`, three of them replaced by the explained variance.

    It is 1 − E[(vs − v)²] / Var[vs] over decisions and heads, 0 while the buffer is empty. Metrics
    of plain MuZero come back as they are.
    """
    if f"{_TAG}target_mean" not in means:
        return means
    rest = dict(means)
    mean = rest.pop(f"{_TAG}target_mean")
    square = rest.pop(f"{_TAG}target_square")
    error = rest.pop(f"{_TAG}error_square")
    variance = jnp.maximum(square - mean**2, 1e-8)
    explained = jnp.where(square > 0, 1.0 - error / variance, 0.0)
    return rest | {f"{_TAG}explained_variance": explained}


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
    """Returns Σ_t Σ_k w_k CE(vs^i_{t+k}, v_i(zᵏ)), the mean over the stored heads i.

    Source: Grimm et al., section 5 and appendix A.4.

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

    loss, losses = value_buffer.mean_loss_over_heads(
        one_head, buffer, mask, chunk_size, latents, vs
    )
    # Theirs are a mean too, 0 while the buffer is empty.
    return losses._replace(loss=loss, weights=weights)


def policy_overlap(policy: Array, trajectory: Trajectory) -> Array:
    """Returns Σ_a min(μ, π) [T] of a policy [T, A] and the search policy μ.

    The temperature of what acted does not enter.
    """
    return jnp.sum(jnp.minimum(policy, trajectory.search_policy[:-1]), axis=-1)
