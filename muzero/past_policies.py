"""The past-policy loss of *Proper Value Equivalence*: what one stored head asks of the model's latents."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from muzero import value_buffer
from muzero.model import Model
from muzero.step_losses import step_losses, step_weights, tagged
from muzero.support import Support
from muzero.targets import Targets, importance_ratio, vtrace_targets, windows
from muzero.types import Array, Trajectory, Tree
from muzero.value_buffer import ValueBuffer


class PastOutput(NamedTuple):
    """The past-policy loss of one head on one sequence, and its diagnostics as sums and divisors."""

    loss: Array
    sums: dict[str, Array]
    counts: dict[str, Array]


class HeadTargets(NamedTuple):
    """What one stored head makes of one sequence."""

    policy: Array  # [T, A], π_i in the states of the decisions
    target_prob: Array  # [T], π_i of the actions taken
    value: Array  # [T+1], v_i
    vs: Array  # [T+1], V-trace targets, no gradient


def head_targets(
    model: Model,
    support: Support,
    head_params: Tree,
    state_latents: Array,
    trajectory: Trajectory,
    *,
    discount_factor: float,
    td_lambda: float,
    clip_threshold: float,
) -> HeadTargets:
    """Returns policy, values and V-trace targets of one stored head; arguments as of `past_head_loss`."""
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
        1.0 - trajectory.is_first[1:].astype(jnp.float32),
        discount_factor=discount_factor,
        td_lambda=td_lambda,
        clip_threshold=clip_threshold,
    )
    return HeadTargets(policy, target_prob, value, vs)


def past_head_loss(
    model: Model,
    support: Support,
    head_params: Tree,
    latents: Array,
    state_latents: Array,
    trajectory: Trajectory,
    targets: Targets,
    *,
    discount_factor: float,
    td_lambda: float,
    clip_threshold: float,
) -> PastOutput:
    """Returns Σ_t Σ_k w_k CE(vs^i_{t+k}, v_i(zᵏ)) of one stored head (Grimm et al., section 5 and appendix A.4).

    Args:
      model, support: the networks and their categorical support.
      head_params: the stored head; its owner stops the gradient.
      latents: [S, K+1, ...] imagined latents of the online network: the gradient flows into these.
      state_latents: [T+1, ...] latents of the real states, no gradient.
      trajectory: one sequence.
      targets: its masks.
      discount_factor, td_lambda, clip_threshold: γ, λ and the V-trace clip.
    """
    real = 1.0 - trajectory.is_first[1:].astype(jnp.float32)
    policy, target_prob, value, vs = head_targets(
        model,
        support,
        head_params,
        state_latents,
        trajectory,
        discount_factor=discount_factor,
        td_lambda=td_lambda,
        clip_threshold=clip_threshold,
    )
    num_starts, length = targets.value_mask.shape
    probs = support.to_probs(windows(vs, num_starts, length) * (1.0 - targets.absorbed_mask))
    _, logits = jax.vmap(jax.vmap(model.predict, (None, 0)), (None, 0))(head_params, latents)
    steps = step_losses(logits, probs, targets.value_mask, step_weights(length - 1))
    sums, counts = tagged({"past": steps})
    ratio = target_prob / trajectory.behaviour_prob
    diagnostics = {
        "value_buffer/rho_mean": jnp.sum(
            real * importance_ratio(target_prob, trajectory.behaviour_prob, clip_threshold)
        ),
        "value_buffer/rho_clipped_fraction": jnp.sum(real * (ratio > clip_threshold)),
        "value_buffer/overlap": jnp.sum(real * policy_overlap(policy, trajectory)),
    }
    moments = {
        "value_buffer/target_square": jnp.sum(real * vs[:-1] ** 2),
        "value_buffer/target_mean": jnp.sum(real * vs[:-1]),
        "value_buffer/error_square": jnp.sum(real * (vs - value)[:-1] ** 2),
    }
    return PastOutput(
        steps.loss,
        sums | diagnostics | moments,
        counts | dict.fromkeys(diagnostics | moments, jnp.sum(real)),
    )


def policy_overlap(policy: Array, trajectory: Trajectory) -> Array:
    """Returns Σ_a min(μ, π) [T] of a policy [T, A] and the one that acted: how much V-trace can correct."""
    return jnp.sum(jnp.minimum(policy, trajectory.search_policy[:-1]), axis=-1)


def overlap_by_age(rows: PastOutput, buffer: ValueBuffer) -> tuple[dict[str, Array], dict[str, Array]]:
    """Returns the overlaps of the newest and the oldest head as sums over real decisions, and their divisors.

    Args:
      rows: `past_head_loss` of every slot, each leaf [M].
      buffer: the ring.
    """
    tags = [f"value_buffer/overlap_{age}" for age in ("newest", "oldest")]
    pick = lambda values: {
        tag: values["value_buffer/overlap"][slot]
        for tag, slot in zip(tags, value_buffer.newest_and_oldest(buffer), strict=True)
    }
    return pick(rows.sums), pick(rows.counts)
