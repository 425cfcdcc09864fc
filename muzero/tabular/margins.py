"""How a statement about value equivalence is checked on one case: it returns margins, none of which
may be negative.

A margin is what is left of a bound, relative to its size; or minus the distance of two things that
are said to be equal; or the distance of two that are said to differ, less a visible gap. Rounding
is the caller's to allow for.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from muzero.tabular.mdp import MDP, action_value, optimal_policy, policy_value

_GAP = 1e-6


class Operators(NamedTuple):
    """What the statements are about.

    Attributes:
      power: (mdp, policy [A, S], value [S], k) → T_π^k v [S], k may be traced.
      value: (mdp, policy [A, S]) → v_π [S].
      optimal: mdp → an optimal policy [A, S].
      beta: (functions [V, S], functions [W, S]) → β, how far the second set is from the first.
    """

    power: Callable
    value: Callable
    optimal: Callable
    beta: Callable


def power(mdp: MDP, policy: jax.Array, value: jax.Array, order: int | jax.Array) -> jax.Array:
    """Returns [S], `bellman` of an order that need not be static; it has no gradient."""
    return jax.lax.fori_loop(
        0, order, lambda _, v: jnp.sum(policy * action_value(mdp, v), axis=0), value
    )


def distance(functions: jax.Array, others: jax.Array) -> jax.Array:
    """Returns β(functions ‖ others): the largest distance of one of `others` [W, S] to its nearest
    of [V, S].
    """
    return jnp.max(jnp.min(norm(functions[:, None] - others), axis=0))


class Faults(NamedTuple):
    """What is wrong with the operators: 0 or 1 each. Numbers, so that nothing is compiled anew.

    Attributes:
      divides: `power` divides by the discount.
      clips: `power` returns nothing below zero, so that it is not affine.
      idles: `power` returns its argument.
      neighbour: `value` lets every state act as the one before it.
      noise: `value` takes one action in ten at random.
      swaps: `beta` takes its sets the other way round.
    """

    divides: int = 0
    clips: int = 0
    idles: int = 0
    neighbour: int = 0
    noise: int = 0
    swaps: int = 0


EXACT = Faults()
BROKEN = tuple(Faults(**{name: 1}) for name in Faults._fields)


def make_operators(faults: Faults) -> Operators:
    """Returns the operators with `faults`."""

    def faulty_power(mdp, policy, value, order):
        discount = jnp.where(faults.divides, 1 / mdp.discount, mdp.discount)
        result = power(
            mdp._replace(discount=discount), policy, value, jnp.where(faults.idles, 0, order)
        )
        return jnp.where(faults.clips, jnp.maximum(result, 0.0), result)

    def faulty_value(mdp, policy):
        policy = jnp.where(faults.neighbour, jnp.roll(policy, 1, axis=1), policy)
        return policy_value(
            mdp, jnp.where(faults.noise, 0.9 * policy + 0.1 / policy.shape[0], policy)
        )

    def faulty_beta(functions, others):
        return jnp.where(faults.swaps, distance(others, functions), distance(functions, others))

    return Operators(faulty_power, faulty_value, optimal_policy, faulty_beta)


def norm(x: jax.Array) -> jax.Array:
    """Returns the largest magnitude along the last axis."""
    return jnp.max(jnp.abs(x), axis=-1)


def at_most(left: jax.Array, right: jax.Array) -> jax.Array:
    """Returns the margin of left ≤ right."""
    return (right - left) / (1 + jnp.abs(left))


def equal(left: jax.Array, right: jax.Array) -> jax.Array:
    """Returns the margin of left = right along the last axis: zero at best."""
    return -norm(left - right) / (1 + norm(right))


def differ(left: jax.Array, right: jax.Array) -> jax.Array:
    """Returns the margin of left ≠ right along the last axis."""
    return norm(left - right) - _GAP
