"""MuZero's loss bounds the loss of proper value equivalence (PVE, eqs. 11 to 18), by enumeration.

    environment   s_t ─▶ s_t+1 ─▶ … ─▶ s_t+k ─▶ … ─▶ s_t+k+n      V_t+k: n rewards, then v
    model         s_t ─▶ z^1   ─▶ … ─▶ z^k                        v(z^k), r̃(z^k)

    ℓ(s_t) = Σ_k≤K (V_t+k − v(z^k))² + (r_t+k − r̃(z^k))²,   s_t ~ d_π

The pair (s_t+k, z^k) is a Markov chain on S², so the expectation is a sum, without samples.
"""

import jax
import jax.numpy as jnp

from muzero.tabular.class_members import STATES, Case
from muzero.tabular.margins import Operators, at_most, differ, equal, norm
from muzero.tabular.mdp import (
    MDP,
    policy_reward,
    policy_transition,
    policy_value,
    stationary_distribution,
)

_MOST = 6  # K of a case


def pair_transition(environment: MDP, model: MDP, policy: jax.Array, recorded: bool) -> jax.Array:
    """Returns [S, S, S, S], the chance of (s', z') at [s, z, s', z'].

    recorded: the model follows the environment's actions, as MuZero's does; else it draws its own
    from π(·|z), as eq. 13 has it.
    """
    if recorded:
        return jnp.einsum("as,ast,azy->szty", policy, environment.transition, model.transition)
    ours, true = (policy_transition(m, policy) for m in (model, environment))
    return jnp.einsum("st,zy->szty", true, ours)


def return_moments(mdp: MDP, policy: jax.Array, value: jax.Array, n: jax.Array):
    """Returns the first and second moments, [S] each, of n rewards and then `value` [S]."""

    def one_more(_, moments):
        first, second = moments
        paid, onward = mdp.reward, mdp.discount * mdp.transition @ first
        square = paid**2 + 2 * paid * onward + mdp.discount**2 * mdp.transition @ second
        return jnp.sum(policy * (paid + onward), axis=0), jnp.sum(policy * square, axis=0)

    return jax.lax.fori_loop(0, n, one_more, (value, value**2))


def muzero_loss(case: Case, value: jax.Array, start: jax.Array) -> jax.Array:
    """Returns E ℓ (eq. 11) of a model that draws its own actions, a scalar; start [S] is d_π."""
    environment, model, policy, _, k, n, _ = case
    step = pair_transition(environment, model, policy, recorded=False)
    first, second = return_moments(environment, policy, value, n)
    cost = second[:, None] - 2 * first[:, None] * value + value**2
    apart = jnp.square(environment.reward[:, None, :, None] - model.reward[None, :, None, :])
    cost += jnp.einsum("as,bz,absz->sz", policy, policy, apart)

    def add(_, carry):
        total, pair = carry
        return total + jnp.sum(pair * cost), jnp.einsum("sz,szty->ty", pair, step)

    return jax.lax.fori_loop(0, k + 1, add, (0.0 * value[0], jnp.diag(start)))[0]


def flow(op: Operators, mdp: MDP, policy: jax.Array, x: jax.Array, k) -> jax.Array:
    """Returns [S], P_π^k x: a Bellman operator without reward and discount."""
    return op.power(MDP(mdp.transition, jnp.zeros_like(mdp.reward), 1.0), policy, x, k)


def pve_muzero(case: Case, op: Operators) -> jax.Array:
    """Eqs. 14 to 18, a margin each, where the model draws its own actions: E ℓ bounds the means'
    squares (14, 15), they bound ‖v_π − T̃^K v_π‖ in the norm of d_π (16, 17), so E ℓ does, with the
    constant max(a, 1) b (18; a b in the paper, see `pve_equation_18`).
    """
    environment, model, policy, functions, k, n, spare = case
    weight = stationary_distribution(environment, policy)
    # near v_π: the bounds would hide a fault behind a large error of the value
    value = policy_value(environment, policy) + 1e-3 * spare[0, 0, 0] * functions[0]
    true = op.value(environment, policy)

    def length(x):
        return jnp.sqrt(jnp.sum(weight * jnp.square(x), axis=-1))

    ahead = op.power(environment, policy, value, n)
    orders = jnp.arange(_MOST + 1)
    used = orders <= k

    def gaps(x, y):
        each = jax.vmap(
            lambda j: flow(op, environment, policy, x, j) - flow(op, model, policy, y, j)
        )
        return jnp.where(used, length(each(orders)), 0.0)

    of_value = gaps(ahead, value)
    of_reward = gaps(policy_reward(environment, policy), policy_reward(model, policy))
    loss = muzero_loss(case, value, weight)
    root, last, paid = of_value[0], of_value[k], jnp.sum(of_reward**2)
    apart = value - policy_value(environment, policy)
    shrink = environment.discount
    a = shrink**k * (norm(apart) / length(apart) + shrink**n) / (1 - shrink**n)
    b = a + k + 2
    error = length(true - op.power(model, policy, true, k))
    return jnp.stack(
        [
            at_most(jnp.sum(of_value**2) + paid, loss),
            at_most(root**2 + last**2 + paid, loss),
            at_most(error, a * root + last + jnp.sum(of_reward)),
            at_most(error**2, b * (a * root**2 + last**2 + paid)),
            at_most(error**2, jnp.maximum(a, 1) * b * loss),
        ]
    )


def pve_equation_13(case: Case, op: Operators) -> jax.Array:
    """E v(z^k) = P̃_π^k v where the model follows the recorded actions, as MuZero's does, holds for
    a policy that ignores the state, and not for every policy: z^1 and s_t+1 are different states.
    """
    environment, model, policy, functions, _, _, spare = case
    value = functions[0]
    blind = jnp.broadcast_to(policy[:, :1], policy.shape)
    seeing = spare[:, :STATES, 0] / jnp.sum(spare[:, :STATES, 0], axis=0)

    def recorded(policy, k):
        pair = jnp.zeros((STATES, STATES)).at[0, 0].set(1.0)
        step = pair_transition(environment, model, policy, recorded=True)
        for _ in range(k):
            pair = jnp.einsum("sz,szty->ty", pair, step)
        return jnp.sum(pair, axis=0) @ value

    def own(policy, k):
        return flow(op, model, policy, value, k)[0]

    same = [(seeing, 1), (blind, 2), (blind, 3)]
    margins = [equal(recorded(pi, k)[None], own(pi, k)[None]) for pi, k in same]
    return jnp.stack([*margins, differ(recorded(seeing, 2)[None], own(seeing, 2)[None])])


def pve_equation_18(case: Case, op: Operators) -> jax.Array:
    """The constant a b of eq. 18 is too small where a < 1: one state, γ = 1/2, K = n = 6, v = v_π,
    and a model that pays δ too much: E ℓ = (K + 1) δ², T̃^K v_π − v_π = δ (1 − γ^K) / (1 − γ).
    With max(a, 1) b it holds.
    """
    excess, discount, k = 1 + case.spare[0, 0, 0], 0.5, 6
    policy, reward = jnp.ones((1, 1)), case.functions[0, :1][None]
    environment = MDP(jnp.ones((1, 1, 1)), reward, discount)
    model = environment._replace(reward=reward + excess)
    value = op.value(environment, policy)
    error = jnp.square(op.power(model, policy, value, k) - value)[0]
    g = 2.0  # of one state any g above 1 is allowed
    a = discount**k * (g + discount**k) / (1 - discount**k)
    b, loss = a + k + 2, (k + 1) * excess**2
    return jnp.stack([at_most(a * b * loss, error), at_most(error, b * loss)])


MUZERO = {
    "PVE eq. 13": pve_equation_13,
    "PVE eqs. 14-18": pve_muzero,
    "PVE eq. 18": pve_equation_18,
}
