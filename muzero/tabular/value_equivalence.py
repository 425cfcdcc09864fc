"""Value-equivalence losses as functions of a model and a batch, and the models that are learned
with them.

A model m̃ is order-k value equivalent to the environment m for policies Π and functions V if T̃_π^k
v = T_π^k v for all of them (Proper Value Equivalence, eq. 4), and proper value equivalent (k = ∞)
if ṽ_π = v_π (eq. 5). Proposition 2 makes the second a case of the first: ask T̃_π^k v_π = v_π of
any k. So both are one loss with other batches.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from muzero.tabular.mdp import MDP, action_value, bellman, policy_value

_LOGIT_RANGE = 5.0  # of the initial transition parameters (A.3.4)


class Equations(NamedTuple):
    """What a model is asked for: T̃_π^k v = target.

    Attributes:
      policy: [B, A, S], π.
      value: [B, S], v.
      target: [B, S].
    """

    policy: jax.Array
    value: jax.Array
    target: jax.Array


def order_k_batch(environment: MDP, policy: jax.Array, value: jax.Array, order: int) -> Equations:
    """Returns the batch of order-k value equivalence for pairs of `policy` [B, A, S] and `value`
    [B, S] (eq. 8).
    """
    target = jax.vmap(lambda pi, v: bellman(environment, pi, v, order))(policy, value)
    return Equations(policy, value, target)


def proper_batch(environment: MDP, policy: jax.Array) -> Equations:
    """Returns the batch of proper value equivalence for `policy` [B, A, S]: value = target = v_π
    (eq. 9).
    """
    value = jax.vmap(lambda pi: policy_value(environment, pi))(policy)
    return Equations(policy, value, value)


def value_equivalence_loss(model: MDP, batch: Equations, order: int) -> jax.Array:
    """Returns the mean over the batch of Σ_s (T̃_π^k v − target)², a scalar (eq. 45;
    `order` = k).
    """
    predicted = jax.vmap(lambda pi, v: bellman(model, pi, v, order))(batch.policy, batch.value)
    return jnp.mean(jnp.sum(jnp.square(predicted - batch.target), axis=-1))


def action_value_loss(model: MDP, environment: MDP, value: jax.Array) -> jax.Array:
    """Returns the mean square of the model's error in r + γ P v for `value` [B, S], over functions,
    states and actions.

    It is 0 for order-1 value equivalence for these functions and *all* policies: those are mixtures
    of the actions.
    """
    of = jax.vmap(action_value, in_axes=(None, 0))
    return jnp.mean(jnp.square(of(model, value) - of(environment, value)))


class ModelParams(NamedTuple):
    """Free parameters of a tabular model (A.3.4).

    Attributes:
      reward: [A, S].
      logits: factors of the transitions before their row-wise softmax: ([A, S, S],) or, with rows
      of rank at most R,
        ([A, S, R], [A, R, S]).
    """

    reward: jax.Array
    logits: tuple[jax.Array, ...]


def init_params(
    rng_key: jax.Array, num_actions: int, num_states: int, rank: int | None = None
) -> ModelParams:
    """Returns random parameters: rewards U(-1, 1), logits U(-5, 5); `rank` None for unrestricted
    transitions.
    """
    reward_key, *logit_keys = jax.random.split(rng_key, 3)
    shapes = (
        [(num_states, num_states)] if rank is None else [(num_states, rank), (rank, num_states)]
    )

    def draw(key, shape, limit):
        return jax.random.uniform(key, (num_actions, *shape), minval=-limit, maxval=limit)

    logits = tuple(
        draw(key, shape, _LOGIT_RANGE) for key, shape in zip(logit_keys, shapes, strict=False)
    )
    return ModelParams(draw(reward_key, (num_states,), 1.0), logits)


def to_mdp(params: ModelParams, discount: float) -> MDP:
    """Returns the model: the product of its row-stochastic factors is row-stochastic again."""
    transition, *emission = [jax.nn.softmax(logits, axis=-1) for logits in params.logits]
    for factor in emission:
        transition = transition @ factor
    return MDP(transition, params.reward, discount)
