"""The statements of *Approximate Value Equivalence*, each a function from a random case to margins.

An AVE class tolerates an error: M^k(Π, V; ε) holds the models with ‖T̃_π^k v − T_π^k v‖_∞ ≤ ε. So
every random model is a member with its own error ε, and an inclusion is a bound on its error in the
other class.

The text lost its formulas. Derived from the definitions around them, and confirmed by the cases
below:

* c-vspan(V) = {Σ_i α_i v_i : Σ_i α_i = 1, Σ_i |α_i| ≤ c}: T_π^k is affine, so errors combine with Σ
  |α_i| (prop. 4);
* β(V‖V') = max_{v' ∈ V'} min_{v ∈ V} ‖v − v'‖_∞: with the roles changed, proposition 5 is false (6:
  not seen to be);
* corollary 3 needs the denominator 1 − γ^k of theorem 2, which our text does not print: without it,
  it is false (tests/muzero/tabular/test_tabular.py has one state for which it fails);
* proposition 1 says that ε' is finite for bounded sets; (r_max + r̃_max)(1 − γ^K) / (1 − γ) + 2 γ^K
  v_max will do.
"""

import jax
import jax.numpy as jnp

from muzero.tabular import policies
from muzero.tabular.class_members import ACTIONS, STATES, Case
from muzero.tabular.margins import Operators, at_most, equal, norm


def error(case: Case, op: Operators, functions: jax.Array, order: int | jax.Array) -> jax.Array:
    """Returns the smallest ε for which the model is in M^order({π}, functions [V, S]; ε)."""

    def gap(v):
        return op.power(case.model, case.policy, v, order) - op.power(
            case.environment, case.policy, v, order
        )

    return jnp.max(norm(jax.vmap(gap)(functions)))


def affine_weights(spare: jax.Array, c: float | jax.Array) -> jax.Array:
    """Returns 16 rows of weights [16, 2], each with sum 1 and magnitudes that sum to at most c ≥ 1.

    Args:
      spare: [A, 2 S, S], uniform.
      c: the most that magnitudes may sum to; 1 for convex weights.
    """
    first = spare.reshape(-1)[:16]
    low = (c - 1) / 2  # one weight of two is -low at least: then 1 + low + low = c
    first = -low + (1 + 2 * low) * first
    return jnp.stack([first, 1 - first], axis=-1)


def ave_1(case: Case, op: Operators) -> jax.Array:
    """Any class is contained in any other that tolerates enough; for bounded sets a finite error is
    enough.
    """
    rewards = norm(case.model.reward.ravel()) + norm(case.environment.reward.ravel())
    shrink = case.model.discount**case.n
    limit = rewards * (1 - shrink) / (1 - case.model.discount) + 2 * shrink * norm(
        case.functions.ravel()
    )
    return at_most(error(case, op, case.functions, case.n), limit)[None]


def ave_2(case: Case, op: Operators) -> jax.Array:
    """‖v* − v_π̃‖ ≤ 2 ε if ‖ṽ_π − v_π‖ ≤ ε for all deterministic policies and π̃ is optimal in the
    model.
    """
    everyone = policies.all_deterministic_policies(ACTIONS, STATES)
    ours, true = (
        jax.vmap(lambda policy, m=m: op.value(m, policy))(everyone)
        for m in (case.model, case.environment)
    )
    lost = norm(jnp.max(true, axis=0) - op.value(case.environment, op.optimal(case.model)))
    return at_most(lost, 2 * jnp.max(norm(ours - true)))[None]


def ave_3(case: Case, op: Operators) -> jax.Array:
    """ε of order k is at most ε (1 − γ^K) / (1 − γ^k) of order K = 2k, 3k if V is closed under T_π.

    And at most ε / (1 − γ^k) for the value, where V need hold no more than v_π (corollary 1).
    """
    shrink = case.model.discount**case.k

    def step(v):
        return op.power(case.environment, case.policy, v, case.k)

    closed = jnp.stack([case.functions[0], step(case.functions[0]), step(step(case.functions[0]))])
    of_k = error(case, op, closed, case.k)
    grown = [
        at_most(error(case, op, closed[:1], z * case.k), of_k * (1 - shrink**z) / (1 - shrink))
        for z in (2, 3)
    ]
    value = op.value(case.environment, case.policy)
    apart = norm(op.value(case.model, case.policy) - value)
    return jnp.stack([*grown, at_most(apart, error(case, op, value[None], case.k) / (1 - shrink))])


def ave_corollary_3(case: Case, op: Operators) -> jax.Array:
    """‖v* − v_π̃‖ ≤ 2 (ε + 2 γ^k ε') / (1 − γ^k) for V = {v̂_π} within ε' of the values of all
    deterministic policies.
    """
    everyone = policies.all_deterministic_policies(ACTIONS, STATES)
    values = jax.vmap(lambda policy: op.value(case.environment, policy))(everyone)
    estimates = values + 0.3 * (2 * case.spare.reshape(values.shape) - 1)
    tolerance = jnp.max(
        jax.vmap(lambda pi: error(case._replace(policy=pi), op, estimates, case.k))(everyone)
    )
    lost = norm(jnp.max(values, axis=0) - op.value(case.environment, op.optimal(case.model)))
    shrink = case.model.discount**case.k
    return at_most(
        lost, 2 * (tolerance + 2 * shrink * jnp.max(norm(estimates - values))) / (1 - shrink)
    )[None]


def ave_4(case: Case, op: Operators) -> jax.Array:
    """ε for V is at most that for c-vspan(V), which is at most c ε; for c = 1 they are equal
    (corollary 2).
    """
    c, functions = 1 + 3 * case.spare[-1, -1, -1], case.functions[:2]

    def span(c):
        return jnp.concatenate([functions, affine_weights(case.spare, c) @ functions])

    of_set, of_span, of_hull = (error(case, op, f, case.k) for f in (functions, span(c), span(1.0)))
    return jnp.stack(
        [at_most(of_set, of_span), at_most(of_span, c * of_set), equal(of_hull[None], of_set[None])]
    )


def ave_5(case: Case, op: Operators) -> jax.Array:
    """β grows with its second set, shrinks with its first, and is 0 only if the first holds the
    second.

    For a convex first set the hull of the second is as far as the second.  Convex are one function,
    and a box, whose distance in the maximum norm is exact.
    """
    functions = case.functions
    few, more = functions[:1], functions[:2]
    chain = [op.beta(functions, functions), op.beta(few, few)]
    ordered = [at_most(op.beta(a, b), op.beta(c, d)) for a, b, c, d in (
        (few, more, few, functions), (more, functions, few, functions),
        (functions, functions, more, functions),
    )]  # fmt: skip
    low, high = jnp.min(functions[:2], axis=0), jnp.max(functions[:2], axis=0)

    def to_box(v):
        return jnp.maximum(norm(jnp.maximum(low - v, 0)), norm(jnp.maximum(v - high, 0)))

    others = functions[2:4]
    hull = affine_weights(case.spare, 1.0) @ others
    margins = [
        *(-zero for zero in chain),
        op.beta(few, functions) - 1e-6,
        *ordered,
        at_most(op.beta(few, hull), op.beta(few, others)),
        at_most(jnp.max(to_box(hull)), jnp.max(to_box(others))),
    ]
    return jnp.stack(margins)


def ave_6(case: Case, op: Operators) -> jax.Array:
    """ε for V is at most ε + 2 γ^k β(V‖V') for V'; if V is convex and compact, also for the hull of
    V'.

    The convex set is the box between two functions; the largest error in it is at its corners.
    """
    shrink = case.model.discount**case.k
    ours, others = case.functions[:2], case.functions[2:4]
    bound = error(case, op, ours, case.k) + 2 * shrink * op.beta(ours, others)
    corners = jnp.stack(
        jnp.meshgrid(*[jnp.array([0, 1])] * STATES, indexing="ij"), axis=-1
    ).reshape(-1, STATES)
    low, high = jnp.min(ours, axis=0), jnp.max(ours, axis=0)
    beyond = jnp.max(norm(others - jnp.clip(others, low, high)))
    box = error(case, op, jnp.where(corners == 1, high, low), case.k) + 2 * shrink * beyond
    hull = affine_weights(case.spare, 1.0) @ others
    return jnp.stack(
        [
            at_most(error(case, op, others, case.k), bound),
            at_most(error(case, op, hull, case.k), box),
        ]
    )


APPROXIMATE = {
    "AVE 1": ave_1,
    "AVE 2": ave_2,
    "AVE 3": ave_3,
    "AVE corollary 3": ave_corollary_3,
    "AVE 4": ave_4,
    "AVE 5": ave_5,
    "AVE 6": ave_6,
}
