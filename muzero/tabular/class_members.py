"""Random cases for the statements about value equivalence, and models that are members of classes
by construction.

A random model is a member of no exact class but M itself; what is true of members is checked on
these. All chance is drawn by `random_case`, so that it is compiled once for all statements.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from muzero.tabular import policies, worlds
from muzero.tabular.mdp import MDP

STATES, ACTIONS = 4, 2


class Case(NamedTuple):
    """A random environment, a random model nearer or farther, a policy, some functions, two orders,
    spare numbers.

    Attributes:
      environment: γ in [0.5, 0.95].
      model: a mixture of the environment and another world.
      policy: [A, S].
      functions: [5, S]; five can span all values of four states, affinely.
      k: 1 to 6.
      n: 1 to 6.
      spare: [A, 2 S, S], uniform in [0, 1), for what else a statement needs.
    """

    environment: MDP
    model: MDP
    policy: jax.Array
    functions: jax.Array
    k: jax.Array
    n: jax.Array
    spare: jax.Array


def random_case(rng_key: jax.Array) -> Case:
    """Returns a case."""
    keys = jax.random.split(rng_key, 8)
    discount = jax.random.uniform(keys[0], minval=0.5, maxval=0.95)
    environment, other = (worlds.garnet(key, STATES, ACTIONS, 3, discount) for key in keys[1:3])
    mixing = jax.random.uniform(keys[3]) ** 2
    model = jax.tree.map(lambda x, y: (1 - mixing) * x + mixing * y, environment, other)
    policy = policies.mixed_policy(keys[4], ACTIONS, STATES)
    k, n = jax.random.randint(keys[5], (2,), 1, 7)
    spare = jax.random.uniform(keys[6], (ACTIONS, 2 * STATES, STATES))
    return Case(
        environment, model, policy, 3 * jax.random.normal(keys[7], (5, STATES)), k, n, spare
    )


def ring_pair(case: Case, first: jax.Array | None = None) -> tuple[MDP, MDP, jax.Array]:
    """Returns (ring, false ring, policy) of STATES states; rewards random, or 1 in the `first`
    states and 0 after.
    """
    reward = case.functions[0]
    if first is not None:
        reward = jnp.where(jnp.arange(STATES) < first, 1.0, jnp.zeros_like(reward))
    discount = case.environment.discount
    return (
        worlds.ring(reward, discount),
        worlds.false_ring(reward, discount),
        jnp.ones((1, STATES), reward.dtype),
    )


def twins(case: Case) -> tuple[MDP, MDP, jax.Array, jax.Array, jax.Array]:
    """Returns (environment, model m_y0, policy, a function of x, 1{y ≠ y0}) on S = X × Y, |Y| = 2,
    state = 2 x + y.

    Rewards, policies and the dynamics of x ignore y; in the model y is always 0 (Proper Value
    Equivalence, eq. 35).
    """
    of_x = case.environment

    def double(x):
        return jnp.repeat(x, 2, axis=-1)

    arrival = jnp.repeat(of_x.transition, 2, axis=1)

    def split(zero):
        return jnp.stack([arrival * zero, arrival * (1 - zero)], axis=-1).reshape(
            ACTIONS, 2 * STATES, -1
        )

    environment = MDP(split(case.spare), double(of_x.reward), of_x.discount)
    model = environment._replace(transition=split(jnp.ones_like(case.spare)))
    return (
        environment,
        model,
        double(case.policy),
        double(case.functions[0]),
        jnp.arange(2 * STATES) % 2,
    )


def mixers(case: Case) -> tuple[MDP, MDP, jax.Array]:
    """Returns (environment, model, policy) of three states and one action: different transitions
    with the same square, at one reward.

    P = 1/3 everywhere and P̃ = P + c u wᵀ with u = (1, −1, 0) and w = (1, 1, −2): P u, wᵀ P and wᵀ u
    are 0, so P̃² = P².
    """
    strength = (1 + case.spare[0, 0, 0]) / 12  # up to 1/6, where an entry is 0
    uniform = jnp.full((1, 3, 3), 1 / 3)
    shift = jnp.outer(jnp.array([1.0, -1.0, 0.0]), jnp.array([1.0, 1.0, -2.0]))
    reward = jnp.full((1, 3), case.functions[0, 0])
    environment = MDP(uniform, reward, case.environment.discount)
    model = environment._replace(transition=uniform + strength * shift)
    return environment, model, jnp.ones((1, 3))


def trap(case: Case) -> tuple[MDP, MDP]:
    """Returns (environment, model) with equal values for deterministic policies only, as in figure
    2 of the paper.

    States 1 and 2 lead to {1, 2, 3} under action 1 of state 1 and any action of 2 and 3, always
    with the same reward. A policy that takes action 1 in state 1 never leaves; which of the three
    comes next cannot matter to it. Only this row differs in the model.
    """
    inside = jnp.arange(STATES) > 0
    caught = jnp.array([[False, False, True, True], [False, True, True, True]])

    def squeeze(p):
        return jnp.where(inside, p, 0) / jnp.sum(jnp.where(inside, p, 0), axis=-1, keepdims=True)

    transition, reward, discount = case.environment
    transition = jnp.where(caught[..., None], squeeze(transition), transition)
    environment = MDP(transition, jnp.where(caught, case.spare[0, 0, 0], reward), discount)
    row = squeeze(jnp.array([0.0, 1.0, 0.1, 0.01]) * (0.1 + case.spare[1, 0]))
    return environment, environment._replace(transition=transition.at[1, 1].set(row))


def dead_end(case: Case) -> tuple[MDP, MDP]:
    """Returns (environment, model) with equal values for all policies.

    The last two states lead only to each other, at one reward: how often each of them is entered
    cannot matter.
    """
    last = jnp.arange(STATES) >= STATES - 2
    transition, reward, discount = case.environment
    transition = jnp.where(last[:, None], jnp.where(last, 0.5, 0.0), transition)
    environment = MDP(transition, jnp.where(last, 0.3, reward), discount)
    share = case.spare[:, :STATES, :1]
    mass = transition[..., -2:].sum(axis=-1, keepdims=True)
    moved = jnp.concatenate([transition[..., :-2], mass * share, mass * (1 - share)], axis=-1)
    return environment, environment._replace(transition=moved)
