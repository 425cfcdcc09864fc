"""Sets of policies: sampled, enumerated, gathered along policy iteration.

A policy is an array [A, S].
"""

import itertools

import jax
import jax.numpy as jnp

from muzero.tabular.mdp import MDP, greedy_policy, improvable, one_hot_policy, policy_value


def deterministic_policy(rng_key: jax.Array, num_actions: int, num_states: int) -> jax.Array:
    """Returns [A, S], a policy drawn uniformly from the deterministic ones."""
    return one_hot_policy(jax.random.randint(rng_key, (num_states,), 0, num_actions), num_actions)


def stochastic_policy(rng_key: jax.Array, num_actions: int, num_states: int) -> jax.Array:
    """Returns [A, S], in every state probabilities ∝ U(0, 1) (Proper Value Equivalence, A.3.5)."""
    weight = jax.random.uniform(rng_key, (num_actions, num_states))
    return weight / jnp.sum(weight, axis=0)


def mixed_policy(rng_key: jax.Array, num_actions: int, num_states: int) -> jax.Array:
    """Returns [A, S], with equal chances a deterministic or a stochastic policy (A.3.5)."""
    coin_key, policy_key = jax.random.split(rng_key)
    policies = [
        sample(policy_key, num_actions, num_states)
        for sample in (deterministic_policy, stochastic_policy)
    ]
    return jnp.where(jax.random.bernoulli(coin_key), *policies)


def all_deterministic_policies(num_actions: int, num_states: int) -> jax.Array:
    """Returns [A^S, A, S], every deterministic policy of a small world."""
    actions = jnp.array(list(itertools.product(range(num_actions), repeat=num_states)))
    return jax.vmap(lambda action: one_hot_policy(action, num_actions))(actions)


def improvement_policies(
    rng_key: jax.Array, mdp: MDP, num_policies: int, fraction: float = 0.1
) -> jax.Array:
    """Returns [N, A, S], the policies along slow policy iteration from random deterministic ones
    (A.3.7).

    Each step makes the policy greedy in a random `fraction` of the states; once nothing is left to
    improve anywhere, the next policy is a new random one.
    """
    num_actions, num_states = mdp.reward.shape

    def step(policy, key):
        restart_key, states_key = jax.random.split(key)
        value = policy_value(mdp, policy)
        better = improvable(mdp, value)
        chosen = jax.random.bernoulli(states_key, fraction, (num_states,))
        improved = jnp.where(better & chosen, greedy_policy(mdp, value), policy)
        fresh = deterministic_policy(restart_key, num_actions, num_states).astype(policy.dtype)
        return jnp.where(jnp.any(better), improved, fresh), policy

    start_key, scan_key = jax.random.split(rng_key)
    start = deterministic_policy(start_key, num_actions, num_states).astype(mdp.reward.dtype)
    return jax.lax.scan(step, start, jax.random.split(scan_key, num_policies))[1]


def perturbed_policy(
    rng_key: jax.Array, policy: jax.Array, *, deterministic: bool, fraction: float = 0.1
) -> jax.Array:
    """Returns `policy` [A, S] with a random `fraction` of its states changed (A.3.7).

    Args:
      rng_key: consumed.
      policy: [A, S].
      deterministic: True for a random action there, False for the uniform distribution over
        actions.
      fraction: chance of each state.
    """
    states_key, action_key = jax.random.split(rng_key)
    chosen = jax.random.bernoulli(states_key, fraction, policy.shape[1:])
    if deterministic:
        noise = deterministic_policy(action_key, *policy.shape).astype(policy.dtype)
    else:
        noise = jnp.full_like(policy, 1 / policy.shape[0])
    return jnp.where(chosen, noise, policy)
