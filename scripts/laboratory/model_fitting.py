"""Learning tabular models: one compiled loop for all experiments of *Proper Value Equivalence*, and
its exact judge.
"""

import functools
import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from muzero.tabular import worlds
from muzero.tabular.fast_losses import fast_loss
from muzero.tabular.mdp import MDP, optimal_value, planning_value
from muzero.tabular.value_equivalence import Equations, ModelParams, to_mdp

DISCOUNT = 0.99
PROPER = math.inf  # the order of proper value equivalence


class Learner(NamedTuple):
    """What an update changes: parameters [..] of one model and Adam's moments of them."""

    params: ModelParams
    opt_state: optax.OptState


def make_optimiser(learning_rate: float) -> optax.GradientTransformation:
    """Returns Adam with β₁ = 0.9; A.3.4 prints 0.99 and calls it the default, which it is not."""
    return optax.adam(learning_rate)


def make_learner(params: ModelParams, learning_rate: float) -> Learner:
    """Returns a learner before its first update."""
    return Learner(params, make_optimiser(learning_rate).init(params))


def operator_order(order: float) -> int:
    """Returns how often the operator is applied: once for `PROPER`, where proposition 2 leaves the
    choice.
    """
    return 1 if order == PROPER else int(order)


@functools.partial(
    jax.jit,
    static_argnames=("order", "learning_rate", "batch_size", "num_updates", "loss"),
    donate_argnames=("learner",),
)
def train(
    learner: Learner,
    data: Equations,
    rng_key: jax.Array,
    *,
    order: int,
    learning_rate: float,
    batch_size: int,
    num_updates: int,
    loss: Callable[[ModelParams, float, Equations, int], jax.Array] = fast_loss,
) -> tuple[Learner, jax.Array]:
    """Returns the learner after `num_updates` minibatches of `data` (N pairs, drawn with
    replacement), and their mean loss.
    """
    optimiser = make_optimiser(learning_rate)

    def update(learner, key):
        index = jax.random.randint(key, (batch_size,), 0, data.value.shape[0])
        batch = jax.tree.map(lambda leaf: leaf[index], data)
        value, gradient = jax.value_and_grad(loss)(learner.params, DISCOUNT, batch, order)
        change, opt_state = optimiser.update(gradient, learner.opt_state)
        return Learner(optax.apply_updates(learner.params, change), opt_state), value

    learner, losses = jax.lax.scan(update, learner, jax.random.split(rng_key, num_updates))
    return learner, jnp.mean(losses)


def exact_model(params: ModelParams) -> MDP:
    """Returns the model in float64; call it, and what uses the result, under
    `jax.enable_x64(True)`.
    """
    return _to_mdp(jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params), DISCOUNT)


def planning_score(params: ModelParams) -> float:
    """Returns Σ_s v_π̃(s) / Σ_s v*(s) in Four Rooms, π̃ optimal in the model (A.3.5), computed in
    float64.
    """
    with jax.enable_x64(True):
        world = worlds.four_rooms(discount=DISCOUNT)
        return float(jnp.sum(_planning_value(world, exact_model(params))) / best_sum())


@functools.cache
def best_sum() -> float:
    """Returns Σ_s v*(s) of Four Rooms, computed in float64."""
    with jax.enable_x64(True):
        return float(jnp.sum(optimal_value(worlds.four_rooms(discount=DISCOUNT))))


_to_mdp = jax.jit(to_mdp)
_planning_value = jax.jit(planning_value)
