"""Targets of one sequence: TD(λ), V-trace, and what is still learnt after an episode's end.

Everything is float32, for one sequence (vmap for more), and carries no gradient.
`mask` [T] is 1 where a decision is real and 0 from a final observation to a reset.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import rlax

from muzero.types import Array, Trajectory


def real_mask(is_first: Array) -> Array:
    """Returns `mask` [T] of the reset flags [T+1]."""
    return 1.0 - is_first[1:].astype(jnp.float32)


def td_lambda_targets(
    search_value: Array,
    reward: Array,
    discount: Array,
    mask: Array,
    *,
    discount_factor: float,
    td_lambda: float,
) -> Array:
    """Returns the TD(λ) value targets G [T+1] (Grimm et al., appendix A.4).

    G_t = r_t + γ d_t [(1 − λ) ν_{t+1} + λ G_{t+1}],  G_T = ν_T,  and G_t = ν_t where decision t is
    not real.

    Args:
      search_value: ν [T+1], root values of the search.
      reward, discount, mask: [T], per decision.
      discount_factor: γ.
      td_lambda: λ.
    """
    real = mask > 0
    returns = rlax.lambda_returns(
        jnp.where(real, reward, search_value[:-1]).astype(jnp.float32),
        jnp.where(real, discount_factor * discount, 0.0).astype(jnp.float32),
        search_value[1:].astype(jnp.float32),
        td_lambda,
    )
    return jax.lax.stop_gradient(jnp.append(returns, search_value[-1]))


def n_step_targets(
    value: Array,
    reward: Array,
    discount: Array,
    mask: Array,
    *,
    discount_factor: float,
    num_steps: int,
) -> Array:
    """Returns the n-step value targets G [T+1], shorter where the sequence or the game ends.

    G_t = Σ_{j<m} (Π_{i<j} γ d_{t+i}) r_{t+j} + (Π_{i<m} γ d_{t+i}) v_{t+m}, with m the least of n,
    T − t and the distance to the next decision that is not real, where G_t = v_t.

    Args:
      value: v [T+1].
      reward, discount, mask: [T], per decision.
      discount_factor: γ.
      num_steps: n.
    """
    real = mask > 0
    returns = rlax.n_step_bootstrapped_returns(
        jnp.where(real, reward, value[:-1]).astype(jnp.float32),
        jnp.where(real, discount_factor * discount, 0.0).astype(jnp.float32),
        value[1:].astype(jnp.float32),
        num_steps,
    )
    return jax.lax.stop_gradient(jnp.append(returns, value[-1]))


def importance_ratio(target_prob: Array, behaviour_prob: Array, clip_threshold: float) -> Array:
    """Returns min(clip, π/μ) [T] of π(a_t) and μ(a_t) [T].

    It is formed in logarithms, so that a tiny μ cannot overflow.
    """
    log_ratio = jnp.log(target_prob) - jnp.log(behaviour_prob)
    return jnp.exp(jnp.minimum(jnp.log(clip_threshold), log_ratio))


def vtrace_targets(
    value: Array,
    target_prob: Array,
    behaviour_prob: Array,
    reward: Array,
    discount: Array,
    mask: Array,
    *,
    discount_factor: float,
    td_lambda: float,
    clip_threshold: float = 1.0,
) -> Array:
    """Returns the V-trace targets vs [T+1] of a past policy (Espeholt et al. 2018, eq. 1).

    With ratio_t = π(a_t)/μ(a_t), ρ_t = min(clip, ratio_t), c_t = λ min(1, ratio_t):
    δ_t = ρ_t (r_t + γ d_t v_{t+1} − v_t),  vs_t = v_t + δ_t + γ d_t c_t (vs_{t+1} − v_{t+1}),  vs_T
    = v_T. Where a decision is not real, vs_t = v_t, and nothing crosses it.

    Args:
      value: v [T+1], the past head's values.
      target_prob, behaviour_prob: [T], probability of the taken action under π and μ.
      reward, discount, mask: [T], per decision.
      discount_factor: γ.
      td_lambda: λ.
      clip_threshold: `inf` gives unclipped importance sampling.
    """
    value, mask = value.astype(jnp.float32), mask.astype(jnp.float32)
    ratio = importance_ratio(target_prob, behaviour_prob, clip_threshold)
    # rlax's `sample_mask` leaks across a truncation; a zero ratio stops both δ and the trace.
    errors = rlax.vtrace(
        v_tm1=value[:-1],
        v_t=value[1:],
        r_t=reward * mask,
        discount_t=discount_factor * discount * mask,
        rho_tm1=jnp.where(mask > 0, ratio, 0.0),
        lambda_=td_lambda,
        clip_rho_threshold=clip_threshold,
        stop_target_gradients=False,
    )
    return jax.lax.stop_gradient(value + jnp.append(errors, 0.0))


class UnrollMasks(NamedTuple):
    """Which losses an unroll from each start state has; S start states, k = 0..K."""

    start_mask: Array  # [S] float32, 1 where decision t is real
    alive_mask: Array  # [S, K+1] float32, 1 while the episode of state t is still going on
    absorbed_mask: Array  # [S, K+1] float32, 1 after a decision with discount 0: targets are 0
    reward_alive_mask: Array  # [S, K] float32, 1 where reward_{t+k-1} is the target of step k
    reward_absorbed_mask: Array  # [S, K] float32, 1 where the reward target of step k is 0


def unroll_masks(
    is_first: Array, discount: Array, *, num_starts: int, num_unroll_steps: int
) -> UnrollMasks:
    """Returns the masks of all unrolls of one sequence.

    Crossing a decision with discount 0 leads into the absorbing state: later steps learn reward and
    values 0 and no policy.  Crossing a decision that is not real without having been absorbed (a
    truncation) ends the unroll: later steps have no loss of any kind.

    Args:
      is_first: [T+1].
      discount: [T].
      num_starts: S, the first states of the sequence; S − 1 + K ≤ T.
      num_unroll_steps: K.

    Raises:
      ValueError: the last unroll is longer than the sequence (an index beyond it would be clamped
        silently).
    """
    if num_starts - 1 + num_unroll_steps > discount.shape[0]:
        raise ValueError(
            f"{num_starts} start states with unrolls of {num_unroll_steps} need "
            f"{num_starts - 1 + num_unroll_steps} decisions, the sequence has "
            f"{discount.shape[0]} decisions."
        )
    real = real_mask(is_first)
    ends = jnp.where(discount == 0, 1.0, 0.0)
    starts = jnp.arange(num_starts)

    def step(carry, k):
        alive, absorbed = carry
        r, end = real[starts + k], ends[starts + k]
        reward_alive, reward_absorbed = alive * r, absorbed
        next_absorbed = jnp.maximum(absorbed, alive * r * end)
        next_alive = alive * r * (1.0 - end)
        masks = (reward_alive, reward_absorbed, next_alive, next_absorbed)
        return (next_alive, next_absorbed), masks

    first = (jnp.ones(num_starts), jnp.zeros(num_starts))
    _, rows = jax.lax.scan(step, first, jnp.arange(num_unroll_steps))
    reward_alive, reward_absorbed, alive, absorbed = (row.T for row in rows)
    return UnrollMasks(
        start_mask=real[:num_starts],
        alive_mask=jnp.concatenate([first[0][:, None], alive], axis=1),
        absorbed_mask=jnp.concatenate([first[1][:, None], absorbed], axis=1),
        reward_alive_mask=reward_alive,
        reward_absorbed_mask=reward_absorbed,
    )


def windows(x: Array, num_starts: int, length: int) -> Array:
    """Returns [S, length, ...] with row t = x[t : t + length]."""
    return x[jnp.arange(num_starts)[:, None] + jnp.arange(length)]


class TakenActions(NamedTuple):
    """What followed the actions of every unroll of one sequence; S start states, K steps."""

    action: Array  # [S, K+1] int32
    behaviour_prob: Array  # [S, K+1] the probability with which it was drawn
    advantage: Array  # [S, K+1] G − ν, in units of return; 0 where nothing is known


def taken_actions(
    trajectory: Trajectory, returns: Array, *, num_starts: int, length: int
) -> TakenActions:
    """Returns the actions of all unrolls of one sequence and their advantages over the search.

    The advantage is 0 where there is none: where a decision is not real, and of the sequence's last
    state, which has no decision.

    Args:
      trajectory: one sequence.
      returns: G [T+1].
      num_starts: S.
      length: K + 1.
    """
    is_real = jnp.append(real_mask(trajectory.is_first), 0.0)
    advantage = (returns - trajectory.search_value) * is_real
    return TakenActions(
        action=windows(jnp.append(trajectory.action, 0), num_starts, length),
        behaviour_prob=windows(jnp.append(trajectory.behaviour_prob, 1.0), num_starts, length),
        advantage=windows(advantage, num_starts, length),
    )


class Targets(NamedTuple):
    """Targets and masks of every unroll of one sequence; S start states, K imagined steps."""

    reward: Array  # [S, K]
    reward_mask: Array  # [S, K]
    value: Array  # [S, K+1]
    value_mask: Array  # [S, K+1]
    policy: Array  # [S, K+1, A]
    policy_mask: Array  # [S, K+1]
    absorbed_mask: Array  # [S, K+1]
    taken: TakenActions | None = None  # where their returns are asked for


def make_targets(
    trajectory: Trajectory,
    returns: Array,
    *,
    num_starts: int,
    num_unroll_steps: int,
    with_taken: bool = False,
) -> Targets:
    """Returns the targets of all unrolls of one sequence, zero after a termination.

    Args:
      trajectory: one sequence.
      returns: [T+1], the value targets of its states.
      num_starts: S.
      num_unroll_steps: K.
      with_taken: whether to tell what followed the taken actions too.
    """
    masks = unroll_masks(
        trajectory.is_first,
        trajectory.discount,
        num_starts=num_starts,
        num_unroll_steps=num_unroll_steps,
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
        taken=taken_actions(trajectory, returns, num_starts=num_starts, length=length)
        if with_taken
        else None,
    )
