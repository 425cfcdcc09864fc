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
from muzero.support import Support
from muzero.targets import importance_ratio, td_lambda_targets, unroll_masks, vtrace_targets
from muzero.types import Array, ModelOutput, Params, Trajectory, Tree
from muzero.value_buffer import ValueBuffer


class LossOutput(NamedTuple):
    """Sums over the start states of one sequence (or of a batch, after a sum)."""

    loss: Array  # []
    num_starts: Array  # [] weighted start states
    sums: dict[str, Array]  # metric → sum over start states
    weights: dict[str, Array]  # metric → what that sum has to be divided by


class Targets(NamedTuple):
    """Scalar targets of every unroll of one sequence; S start states, K imagined steps."""

    reward: Array  # [S, K]
    reward_mask: Array  # [S, K]
    value: Array  # [S, K+1]
    value_mask: Array  # [S, K+1]
    policy: Array  # [S, K+1, A]
    policy_mask: Array  # [S, K+1]
    absorbed_mask: Array  # [S, K+1]


LossFn = Callable[[Params, Tree, ValueBuffer, Trajectory], LossOutput]


def cross_entropy(logits: Array, probs: Array) -> Array:
    """Returns −Σ probs · log softmax(logits) over the last axis."""
    return -jnp.sum(probs * jax.nn.log_softmax(logits), axis=-1)


def entropy(probs: Array) -> Array:
    """Returns −Σ p log p over the last axis, with 0 log 0 = 0."""
    return -jnp.sum(jax.scipy.special.xlogy(probs, probs), axis=-1)


def windows(x: Array, num_starts: int, length: int) -> Array:
    """Returns [S, length, ...] with row t = x[t : t + length]."""
    return x[jnp.arange(num_starts)[:, None] + jnp.arange(length)]


def step_weights(num_unroll_steps: int) -> Array:
    """Returns [K+1]: weight 1 for k = 0 and 1/K for each imagined step."""
    return jnp.append(1.0, jnp.full(num_unroll_steps, 1.0 / num_unroll_steps))


def make_targets(
    trajectory: Trajectory, *, num_starts: int, num_unroll_steps: int, discount_factor: float, td_lambda: float
) -> Targets:
    """Returns the targets of all unrolls of one sequence, zero after a termination."""
    real = 1.0 - trajectory.is_first[1:].astype(jnp.float32)
    returns = td_lambda_targets(
        trajectory.search_value,
        trajectory.reward,
        trajectory.discount,
        real,
        discount_factor=discount_factor,
        td_lambda=td_lambda,
    )
    masks = unroll_masks(
        trajectory.is_first, trajectory.discount, num_starts=num_starts, num_unroll_steps=num_unroll_steps
    )
    start = masks.start_mask[:, None]
    length = num_unroll_steps + 1
    return Targets(
        reward=windows(trajectory.reward, num_starts, num_unroll_steps) * masks.reward_alive_mask,
        reward_mask=(masks.reward_alive_mask + masks.reward_absorbed_mask) * start,
        value=windows(returns, num_starts, length) * masks.alive_mask,
        value_mask=(masks.alive_mask + masks.absorbed_mask) * start,
        policy=windows(trajectory.search_policy, num_starts, length),
        policy_mask=masks.alive_mask * start,
        absorbed_mask=masks.absorbed_mask,
    )


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
                model, support, settings, head_params, output.latent, state_latents, trajectory, targets
            )

        past = value_buffer.mean_over_heads(one_head, buffer, settings.chunk_size)
        total += settings.past_weight * past.loss
        overlaps, num_states = overlap_by_age(model, buffer, state_latents, trajectory)
        sums = sums | past.sums | overlaps
        counts = counts | past.counts | dict.fromkeys(overlaps, num_states)
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
    rows = {
        "reward": _weighted_rows(output.reward_logits, reward_probs, targets.reward_mask, weights[1:]),
        "value": _weighted_rows(output.value_logits, value_probs, targets.value_mask, weights),
        "policy": _weighted_rows(output.policy_logits, targets.policy, targets.policy_mask, weights),
    }
    total = (
        settings.reward_weight * rows["reward"].loss
        + settings.value_weight * rows["value"].loss
        + settings.policy_weight * rows["policy"].loss
    )
    saturated = jnp.sum(support.saturates(targets.value) * targets.value_mask)
    sums = _tagged(rows) | {"loss/target_saturated": saturated}
    counts = _counts(rows) | {"loss/target_saturated": jnp.sum(targets.value_mask)}
    return total, sums, counts


class PastOutput(NamedTuple):
    """The past-policy loss of one head on one sequence, and its diagnostics as sums and divisors."""

    loss: Array
    sums: dict[str, Array]
    counts: dict[str, Array]


def past_head_loss(
    model: Model,
    support: Support,
    settings: LossSettings,
    head_params: Tree,
    latents: Array,
    state_latents: Array,
    trajectory: Trajectory,
    targets: Targets,
) -> PastOutput:
    """Returns Σ_t Σ_k w_k CE(vs^i_{t+k}, v_i(zᵏ)) of one stored head (Grimm et al., section 5 and appendix A.4).

    Args:
      model, support, settings: as in `sequence_loss`.
      head_params: the stored head; its owner stops the gradient.
      latents: [S, K+1, ...] imagined latents of the online network: the gradient flows into these.
      state_latents: [T+1, ...] latents of the real states, no gradient.
      trajectory: one sequence.
      targets: its masks.
    """
    real = 1.0 - trajectory.is_first[1:].astype(jnp.float32)
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
        real,
        discount_factor=settings.discount_factor,
        td_lambda=settings.td_lambda,
        clip_threshold=settings.past_clip,
    )
    num_starts, length = targets.value_mask.shape
    probs = support.to_probs(windows(vs, num_starts, length) * (1.0 - targets.absorbed_mask))
    _, logits = jax.vmap(jax.vmap(model.predict, (None, 0)), (None, 0))(head_params, latents)
    rows = {"past": _weighted_rows(logits, probs, targets.value_mask, step_weights(length - 1))}
    ratio = target_prob / trajectory.behaviour_prob
    overlap = policy_overlap(policy, trajectory)
    diagnostics = {
        "value_buffer/rho_mean": jnp.sum(
            real * importance_ratio(target_prob, trajectory.behaviour_prob, settings.past_clip)
        ),
        "value_buffer/rho_clipped_fraction": jnp.sum(real * (ratio > settings.past_clip)),
        "value_buffer/overlap": jnp.sum(real * overlap),
    }
    moments = {
        "value_buffer/target_square": jnp.sum(real * vs[:-1] ** 2),
        "value_buffer/target_mean": jnp.sum(real * vs[:-1]),
        "value_buffer/error_square": jnp.sum(real * (vs - value)[:-1] ** 2),
    }
    return PastOutput(
        rows["past"].loss,
        _tagged(rows) | diagnostics | moments,
        _counts(rows) | {tag: jnp.sum(real) for tag in diagnostics | moments},
    )


def policy_overlap(policy: Array, trajectory: Trajectory) -> Array:
    """Returns Σ_a min(μ, π) [T] of a policy [T, A] and the one that acted: how much V-trace can correct."""
    return jnp.sum(jnp.minimum(policy, trajectory.search_policy[:-1]), axis=-1)


def overlap_by_age(
    model: Model, buffer: ValueBuffer, state_latents: Array, trajectory: Trajectory
) -> tuple[dict[str, Array], Array]:
    """Returns the overlaps of the newest and the oldest head summed over real decisions, and their number."""
    real = (1.0 - trajectory.is_first[1:]) * (value_buffer.num_filled(buffer) > 0)
    sums = {}
    for age, head_params in zip(("newest", "oldest"), value_buffer.newest_and_oldest(buffer), strict=True):
        logits, _ = jax.vmap(model.predict, (None, 0))(head_params, state_latents[:-1])
        sums[f"value_buffer/overlap_{age}"] = jnp.sum(real * policy_overlap(jax.nn.softmax(logits), trajectory))
    return sums, jnp.sum(real)


class _Rows(NamedTuple):
    loss: Array  # [] weighted sum of cross-entropies
    kl: Array  # [K'] per-step sum of cross-entropy minus target entropy
    count: Array  # [K'] per-step number of terms
    weights: Array  # [K']


def _weighted_rows(logits: Array, probs: Array, mask: Array, weights: Array) -> _Rows:
    probs = jax.lax.stop_gradient(probs)
    rows = jnp.where(mask > 0, cross_entropy(logits, probs), 0.0)
    kl = jnp.where(mask > 0, rows - entropy(probs), 0.0)
    return _Rows(jnp.sum(rows * weights), jnp.sum(kl, axis=0), jnp.sum(mask, axis=0), weights)


def _tagged(rows: dict[str, _Rows]) -> dict[str, Array]:
    sums = {}
    for name, row in rows.items():
        first_k = 1 if name == "reward" else 0
        sums[f"loss/{name}"] = jnp.sum(row.kl * row.weights)
        sums |= {f"loss/{name}_k{k + first_k}": x for k, x in enumerate(row.kl)}
    return sums


def _counts(rows: dict[str, _Rows]) -> dict[str, Array]:
    counts = {}
    for name, row in rows.items():
        first_k = 1 if name == "reward" else 0
        counts[f"loss/{name}"] = row.count[0]
        counts |= {f"loss/{name}_k{k + first_k}": x for k, x in enumerate(row.count)}
    return counts
