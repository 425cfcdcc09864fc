"""The statements of *Proper Value Equivalence*, each a function from a random case to margins."""

import jax
import jax.numpy as jnp

from muzero.tabular import policies, worlds
from muzero.tabular.class_members import (
    ACTIONS,
    STATES,
    Case,
    dead_end,
    mixers,
    ring_pair,
    trap,
    twins,
)
from muzero.tabular.margins import Operators, at_most, differ, equal, norm
from muzero.tabular.mdp import stationary_distribution


def pve_1_inclusion(case: Case, op: Operators) -> jax.Array:
    """M^k ⊆ M^K if k divides K: a false ring is in M^S, so in M^2S and M^3S; `twins` in M^1, so in
    M^k; both in M^∞ (corollary 2).
    """
    true, false, only = ring_pair(case)
    world, model, policy, value, _ = twins(case)
    value_of_ring = case.functions[1]

    def ring_power(m, k):
        return op.power(m, only, value_of_ring, k)

    def twin_power(m, k):
        return op.power(m, policy, value, k)

    of_ring = [
        equal(ring_power(false, z * STATES), ring_power(true, z * STATES)) for z in (1, 2, 3)
    ]
    of_twins = [equal(twin_power(model, k), twin_power(world, k)) for k in (1, 3)]
    limits = [
        equal(op.value(m, pi), op.value(w, pi))
        for m, w, pi in ((false, true, only), (model, world, policy))
    ]
    return jnp.stack(of_ring + of_twins + limits)


def pve_1_strict(case: Case, op: Operators) -> jax.Array:
    """The inclusion can be strict: with rewards in the first k states the false ring is in M^S and
    not in M^k.
    """
    k = 1 + case.k % (STATES - 1)
    true, false, only = ring_pair(case, first=k)
    constant = jnp.full((STATES,), case.functions[0, 0])

    def both(order):
        return (
            op.power(false, only, constant, order),
            op.power(true, only, constant, order),
        )

    return jnp.stack([equal(*both(STATES)), differ(*both(k))])


def pve_gcd(case: Case, op: Operators) -> jax.Array:
    """M^k ∩ M^K ⊇ M^gcd(k, K) can be strict, where figure 1 has equality: the model of `mixers` is
    in M² and M³ of all functions, T^k v = Σ_{j<k} γ^j r + γ^k mean(v) for k ≥ 2, and not in M^1.
    """
    environment, model, policy = mixers(case)
    value, discount = case.functions[1, :3], environment.discount

    def mixed(k):
        paid = environment.reward[0] * jnp.sum(discount ** jnp.arange(k))
        return paid + discount**k * jnp.mean(value)

    both = (environment, model)
    members = [equal(op.power(m, policy, value, k), mixed(k)) for m in both for k in (2, 3)]
    return jnp.stack([*members, differ(*(op.power(m, policy, value, 1) for m in both))])


def pve_equation_7(case: Case, op: Operators) -> jax.Array:
    """∩ M^k({π}, {v}) over π in Π and v in V_Π ⊆ M^∞(Π): the largest error in T_π^k v of values v
    of the policies bounds ‖ṽ_π − v_π‖.
    """
    environment, model, _, _, k, _, _ = case
    everyone = jnp.stack([case.policy, jnp.full_like(case.policy, 1 / ACTIONS), case.policy[::-1]])
    inside, outside = (jax.vmap(lambda pi, m=m: op.value(m, pi))(everyone) for m in case[:2])

    def errors(policy):
        return [op.power(model, policy, v, k) - op.power(environment, policy, v, k) for v in inside]

    error = jnp.stack([jnp.max(norm(jnp.stack(errors(policy)))) for policy in everyone])
    apart = norm(outside - inside)
    return at_most(apart, error / (1 - environment.discount**k))


def pve_2(case: Case, op: Operators) -> jax.Array:
    """M^∞(Π) = ∩ M^k({π}, {v_π}): ‖ṽ_π − v_π‖ and ‖T̃_π^k v_π − v_π‖ bound each other, so vanish
    together.
    """
    value = op.value(case.environment, case.policy)
    apart = norm(op.value(case.model, case.policy) - value)
    error = norm(op.power(case.model, case.policy, value, case.k) - value)
    shrink = case.model.discount**case.k
    return jnp.stack([at_most(apart, error / (1 - shrink)), at_most(error, (1 + shrink) * apart)])


def pve_3(case: Case, op: Operators) -> jax.Array:
    """M^1(Π, all functions) ⊂ M^∞(Π), strictly, if values ignore a part y of the state: m_y0 shows
    it.
    """
    world, model, policy, _, not_zero = twins(case)
    same = equal(op.value(model, policy), op.value(world, policy))
    return jnp.stack(
        [same, differ(*(op.power(m, policy, not_zero.astype(float), 1) for m in (model, world)))]
    )


def _plans_optimally(environment, model, op):
    everyone = policies.all_deterministic_policies(ACTIONS, STATES)
    best = jnp.max(jax.vmap(lambda policy: op.value(environment, policy))(everyone), axis=0)
    return at_most(best, op.value(environment, op.optimal(model)))


def pve_4(case: Case, op: Operators) -> jax.Array:
    """A policy that is optimal in a model of M^∞(Π) is optimal in the environment."""
    environment, model = dead_end(case)
    member = equal(op.value(model, case.policy), op.value(environment, case.policy))
    return jnp.append(_plans_optimally(environment, model, op), member)


def pve_corollary_1(case: Case, op: Operators) -> jax.Array:
    """A policy that is optimal in a model of M^∞(Π_det) is optimal in the environment."""
    return _plans_optimally(*trap(case), op)


def pve_5(case: Case, op: Operators) -> jax.Array:
    """M^∞(Π) ⊂ M^∞(Π_det), strictly: figure 2, and random worlds with a trap like it."""

    def uniform(states):
        return jnp.full((ACTIONS, states), 1 / ACTIONS)

    margins = []
    for pair in (worlds.dithering(case.environment.discount), trap(case)):
        num_states = pair[0].reward.shape[1]
        everyone = policies.all_deterministic_policies(ACTIONS, num_states)
        inside, outside = (
            jax.vmap(lambda policy, m=m: op.value(m, policy))(everyone) for m in pair
        )
        margins += [
            jnp.min(equal(inside, outside)),
            differ(*(op.value(m, uniform(num_states)) for m in pair)),
        ]
    return jnp.stack(margins)


def pve_6(case: Case, op: Operators) -> jax.Array:
    """‖v_π − T̃^k v_π‖ ≤ (γ^k + γ^n) ‖v_π − v‖ + ‖T^n v − T̃^k v‖ in the maximum norm (eq. 10)."""
    return _pve_6(case, op, norm, factor=lambda apart: 1.0)


def pve_7(case: Case, op: Operators) -> jax.Array:
    """The same in the norm of the stationary distribution, with g γ^k for γ^k (eq. 43, whose left
    side lost its k).
    """
    weight = stationary_distribution(case.environment, case.policy)

    def weighted(x):
        return jnp.sqrt(jnp.sum(weight * jnp.square(x)))

    return _pve_6(case, op, weighted, factor=lambda apart: norm(apart) / weighted(apart))


def _pve_6(case, op, length, factor):
    environment, model, policy, functions, k, n, _ = case
    value = op.value(environment, policy)
    apart = value - functions[0]
    between = op.power(environment, policy, functions[0], n) - op.power(
        model, policy, functions[0], k
    )
    shrink = factor(apart) * environment.discount**k + environment.discount**n
    return at_most(
        length(value - op.power(model, policy, value, k)), shrink * length(apart) + length(between)
    )[None]


PROPER = {
    "PVE 1 (i)": pve_1_inclusion,
    "PVE 1 (ii)": pve_1_strict,
    "PVE figure 1": pve_gcd,
    "PVE 2": pve_2,
    "PVE eq. 7": pve_equation_7,
    "PVE 3": pve_3,
    "PVE 4": pve_4,
    "PVE corollary 1": pve_corollary_1,
    "PVE 5": pve_5,
    "PVE 6": pve_6,
    "PVE 7": pve_7,
}
