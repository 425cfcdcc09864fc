"""The value-equivalence loss of parameters, arranged so that nearly all of its time is spent in
matrix products.

The same numbers as `value_equivalence_loss(to_mdp(params, discount), batch, order)`, in another
order:

* the A transition matrices stand side by side, so that one product serves all actions;
* over many applications of the operator, the gradient of the transitions is one product at the end,
  not k small ones;
* one application goes through the factors of a model of low rank, never through their product.
"""

import functools

import jax
import jax.numpy as jnp

from muzero.tabular.value_equivalence import Equations, ModelParams


def fast_loss(params: ModelParams, discount: float, batch: Equations, order: int) -> jax.Array:
    """Returns `value_equivalence_loss` of the model with `params`, a scalar.

    Args:
      params: of one model.
      discount: γ.
      batch: B policies, values and targets; no gradient flows into them.
      order: k ≥ 1, static.
    """
    batch = jax.lax.stop_gradient(batch)
    factors = [jax.nn.softmax(logits, axis=-1) for logits in params.logits]
    if order == 1:
        predicted = _backup(factors, params.reward, discount, batch)
    else:
        predicted = _power(
            functools.reduce(jnp.matmul, factors), params.reward, discount, batch, order
        )
    return jnp.mean(jnp.sum(jnp.square(predicted - batch.target), axis=-1))


def update_flops(
    num_actions: int, num_states: int, rank: int | None, batch_size: int, order: int
) -> int:
    """Returns the floating-point operations in the matrix products of one gradient of
    `fast_loss`.
    """

    def product(rows, inner):
        return 2 * rows * inner * num_actions * num_states

    if (
        order == 1
    ):  # forward, gradient of each factor, and of what went through all factors but the first
        return (
            2 * product(batch_size, num_states) if rank is None else 5 * product(batch_size, rank)
        )
    # Their product, and the gradient of both
    factors = 0 if rank is None else 3 * product(num_states, rank)
    return factors + 3 * order * product(batch_size, num_states)


def _backup(
    factors: list[jax.Array], reward: jax.Array, discount: float, batch: Equations
) -> jax.Array:
    """Returns [B, S], T̃_π v of every pair."""
    first, *rest = reversed(factors)
    num_actions, width, num_states = first.shape
    seen = batch.value @ first.reshape(num_actions * width, num_states).T
    seen = [seen[:, a * width : (a + 1) * width] for a in range(num_actions)]
    for factor in rest:
        seen = [x @ factor[a].T for a, x in enumerate(seen)]
    return sum(batch.policy[:, a] * (reward[a] + discount * x) for a, x in enumerate(seen))


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 4))
def _power(
    transition: jax.Array, reward: jax.Array, discount: float, batch: Equations, order: int
) -> jax.Array:
    """Returns [B, S], T̃_π^k v of every pair; differentiable in transition and reward."""
    return _power_forward(transition, reward, discount, batch, order)[0]


def _power_forward(transition, reward, discount, batch, order):
    num_actions, num_states = reward.shape
    side_by_side = discount * transition.reshape(num_actions * num_states, num_states).T
    policy_reward = jnp.sum(batch.policy * reward, axis=1)

    def step(value, _):
        seen = value @ side_by_side
        slices = [seen[:, a * num_states : (a + 1) * num_states] for a in range(num_actions)]
        return policy_reward + sum(batch.policy[:, a] * x for a, x in enumerate(slices)), value

    result, values = jax.lax.scan(step, batch.value, length=order)
    return result, (transition, batch.policy, values)


def _power_backward(discount, order, residuals, gradient):
    transition, policy, values = residuals
    num_actions, num_states = policy.shape[1:]
    policy = policy.reshape(-1, num_actions * num_states)
    stacked = discount * transition.reshape(num_actions * num_states, num_states)

    def spread(g):
        # From states to actions in states
        return policy * jnp.concatenate([g] * num_actions, axis=-1)

    _, gradients = jax.lax.scan(lambda g, _: (spread(g) @ stacked, g), gradient, length=order)

    def flat(x):
        return x.reshape(-1, x.shape[-1])

    # The gradients come last step first.
    of_transition = discount * flat(values[::-1]).T @ flat(spread(gradients))
    of_reward = jnp.sum(spread(jnp.sum(gradients, axis=0)), axis=0)
    shape = (num_actions, num_states)
    return of_transition.T.reshape(*shape, num_states), of_reward.reshape(shape), None


_power.defvjp(_power_forward, _power_backward)
