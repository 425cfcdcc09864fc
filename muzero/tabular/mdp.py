"""Exact Markov decision processes and their Bellman operators.

Shape letters: S states, A actions. The functions take *one* MDP, policy and value; `jax.vmap` makes
a thousand policy evaluations one batched solve. Precision is that of the arguments: a caller that
claims exactness makes them, and calls, under `jax.enable_x64(True)`.

A policy is an array [A, S] of probabilities π(a|s), a value an array [S].
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

# policy iteration takes a dozen; the limit is for rounding that makes two policies alternate
_MAX_IMPROVEMENTS = 100


class MDP(NamedTuple):
    """A world, or a model of one: arrays with a discount, a PyTree that `jax.vmap` batches.

    Attributes:
      transition: [A, S, S], probability p(s'|s, a) at [a, s, s'].
      reward: [A, S], expected reward r(s, a) of an action.
      discount: γ in [0, 1).
    """

    transition: jax.Array
    reward: jax.Array
    discount: float | jax.Array


def policy_transition(mdp: MDP, policy: jax.Array) -> jax.Array:
    """Returns [S, S], the state transitions P_π under `policy` [A, S]."""
    return jnp.einsum("as,ast->st", policy, mdp.transition)


def policy_reward(mdp: MDP, policy: jax.Array) -> jax.Array:
    """Returns [S], the expected reward r_π of one step under `policy` [A, S]."""
    return jnp.sum(policy * mdp.reward, axis=0)


def action_value(mdp: MDP, value: jax.Array) -> jax.Array:
    """Returns [A, S], the expected reward of an action and the discounted `value` [S] of where it
    leads.
    """
    return mdp.reward + mdp.discount * mdp.transition @ value


def bellman(mdp: MDP, policy: jax.Array, value: jax.Array, order: int = 1) -> jax.Array:
    """Returns [S], T_π^k v: `order` = k ≥ 0 applications of the Bellman operator of `policy` [A, S]
    to `value` [S].
    """

    def step(v, _):
        return (jnp.sum(policy * action_value(mdp, v), axis=0), None)

    return jax.lax.scan(step, value, length=order)[0]


def policy_value(mdp: MDP, policy: jax.Array) -> jax.Array:
    """Returns [S], v_π of `policy` [A, S]: the fixed point of its Bellman operator, by one linear
    solve.

    Under `vmap` on a CPU start JAX with PJRT_NPROC=1, as `scripts/tabular.py` does. A batched solve
    splits its batch over the thread pool that it runs in, and waits (jaxlib 0.10.2, its LAPACK
    kernels): of several solves of a program that run at once, one in every thread, none ever ends.
    """
    num_states = mdp.reward.shape[-1]
    system = jnp.eye(num_states, dtype=mdp.reward.dtype) - mdp.discount * policy_transition(
        mdp, policy
    )
    return jnp.linalg.solve(system, policy_reward(mdp, policy))


def greedy_policy(mdp: MDP, value: jax.Array) -> jax.Array:
    """Returns [A, S], the deterministic policy that is greedy for `value` [S]; the first of equal
    actions.
    """
    return one_hot_policy(
        jnp.argmax(action_value(mdp, value), axis=0), mdp.reward.shape[0], mdp.reward.dtype
    )


def one_hot_policy(action: jax.Array, num_actions: int, dtype=None) -> jax.Array:
    """Returns [A, S], the deterministic policy that takes `action` [S]."""
    return jax.nn.one_hot(action, num_actions, axis=0, dtype=dtype or jnp.zeros(()).dtype)


def improvable(mdp: MDP, value: jax.Array) -> jax.Array:
    """Returns bool [S], where an action is better than `value` [S] by more than the rounding of a
    solve.

    Without the allowance equal actions would alternate for ever.
    """
    gain = jnp.max(action_value(mdp, value), axis=0) - value
    return gain > 64 * jnp.finfo(value.dtype).eps * (1 + jnp.max(jnp.abs(value)))


def optimal_policy(mdp: MDP) -> jax.Array:
    """Returns [A, S], a deterministic optimal policy, by policy iteration from the greedy policy of
    zero.
    """

    def improve(state):
        policy, _, count = state
        value = policy_value(mdp, policy)
        better = improvable(mdp, value)
        return jnp.where(better, greedy_policy(mdp, value), policy), jnp.any(better), count + 1

    start = (greedy_policy(mdp, jnp.zeros_like(mdp.reward[0])), jnp.array(True), jnp.array(0))
    return jax.lax.while_loop(
        lambda state: state[1] & (state[2] < _MAX_IMPROVEMENTS), improve, start
    )[0]


def optimal_value(mdp: MDP) -> jax.Array:
    """Returns [S], v*."""
    return policy_value(mdp, optimal_policy(mdp))


def planning_value(environment: MDP, model: MDP) -> jax.Array:
    """Returns [S], the value that a policy optimal in `model` has in `environment`."""
    return policy_value(environment, optimal_policy(model))


def stationary_distribution(mdp: MDP, policy: jax.Array) -> jax.Array:
    """Returns [S], the distribution that `policy` [A, S] keeps; the chain must have one recurrent
    class.
    """
    transition = policy_transition(mdp, policy)
    system = (jnp.eye(transition.shape[-1], dtype=transition.dtype) - transition.T).at[-1].set(1.0)
    return jnp.linalg.solve(system, jnp.zeros_like(transition[0]).at[-1].set(1.0))
