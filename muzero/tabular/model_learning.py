"""Low-rank softmax models learned with value-aware losses, in expectation (Calibrated Value-Aware
Model Learning, 5).

Every loss is the exact expectation of its sampled form over states, actions and rollouts, so what a
learner ends with is the bias of its loss and not the noise of its samples.  The model is p̂(·|s, a)
= softmax(L_a R_a)[s] with L_a [S, R], R_a [R, S]: the rank limits the logits, so rank 2 can still
be deterministic.  The reward is the true one, as there.

Shape letters: S states, A actions, R rank.  A policy is [A, S], a value [S]
(`muzero/tabular/mdp.py`).
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from muzero.tabular import vaml
from muzero.tabular.mdp import MDP, bellman, greedy_policy, policy_reward, policy_transition

Array = Any

# Of the factors: "a very small standard deviation", so that models begin with high entropy
_INIT_SCALE = 0.1
# Updates between copies of V into the target of MuZero; ours, the paper gives none. On Garnets 10
# ends where 1 does; 100 leaves the calibrated learner short of its values after 4,000 updates.
_TARGET_PERIOD = 10


class Params(NamedTuple):
    """A model and the value function that is learned with it."""

    left: Array  # [A, S, R]
    right: Array  # [A, R, S]
    value: Array  # [S]


class Learner(NamedTuple):
    """How a model and a value are learned: `loss(logits, value, target, environment, policy)` →
    scalar, where `target` [S] is the value that targets bootstrap from.

    `backs_up`: the loss trains the model only, and the value is backed up through the model, V ←
    T̂_π V.  Otherwise the loss trains both (MuZero).

    `target_period`: V is copied into the target every so many updates (the target network of
    Calibrated Value-Aware Model Learning, 3); 1: the target is V itself, without gradient.
    """

    loss: Callable
    backs_up: bool
    target_period: int = 1
    free: bool = False
    """One free logit matrix (`free_params`) and gradient descent in place of factors and Adam."""


def init_params(rng_key, num_actions, num_states, rank):
    """Returns parameters of a nearly uniform model and the value zero."""
    left_key, right_key = jax.random.split(rng_key)
    left = _INIT_SCALE * jax.random.normal(left_key, (num_actions, num_states, rank))
    right = _INIT_SCALE * jax.random.normal(right_key, (num_actions, rank, num_states))
    return Params(left, right, jnp.zeros(num_states))


def free_params(rng_key, num_actions, num_states):
    """Returns parameters of a learner that is `free`: logits [A, S, S] times the identity."""
    params = init_params(rng_key, num_actions, num_states, num_states)
    return params._replace(right=jnp.broadcast_to(jnp.eye(num_states), params.right.shape))


def model_logits(params):
    """Returns [A, S, S], the logits of p̂(s'|s, a) at [a, s, s']."""
    return params.left @ params.right


def to_mdp(params, environment):
    """Returns the learned model: its own transitions, the environment's reward and discount."""
    return MDP(jax.nn.softmax(model_logits(params)), environment.reward, environment.discount)


def value_aware_loss(b, variance_weight):
    """Returns the loss of (1, b)-VAML, averaged over states and actions; weight 1 / n, or 0 for the
    calibrated one.
    """

    def loss(logits, value, target, environment, policy):
        num_states = value.shape[0]
        flow = policy_transition(environment, policy), policy_reward(environment, policy)
        after = vaml.target_moments(*flow, target, 0, b, environment.discount)

        def rows(transition):
            return transition.reshape(-1, num_states)

        mean = vaml.step_back(rows(environment.transition), after).mean
        return jnp.mean(
            vaml.expected_loss(rows(jax.nn.softmax(logits)), value, mean, 1, variance_weight)
        )

    return loss


def rooted_loss(variance_weight):
    """Returns MuZero's loss of one imagined step (Proper Value Equivalence, eq. 11; Calibrated
    Value-Aware Model Learning, 4.3, C.1): (0, 1)-VAML, which is TD on the state, and (1, 1)-VAML.
    """
    unrolled = value_aware_loss(b=1, variance_weight=variance_weight)

    def loss(logits, value, target, environment, policy):
        mean = jax.lax.stop_gradient(bellman(environment, policy, target))
        root = jnp.mean(jnp.square(value - mean))
        return root + unrolled(logits, value, target, environment, policy)

    return loss


def likelihood_loss(logits, value, target, environment, policy):
    """Returns the cross entropy of the model's transitions, averaged over states and actions: KL
    and a constant.
    """
    return -jnp.mean(jnp.sum(environment.transition * jax.nn.log_softmax(logits), axis=-1))


LEARNERS = {
    "likelihood": Learner(likelihood_loss, backs_up=True),
    "itervaml": Learner(value_aware_loss(b=0, variance_weight=1.0), backs_up=True),
    "itervaml-calibrated": Learner(value_aware_loss(b=0, variance_weight=0.0), backs_up=True),
    "itervaml-free": Learner(value_aware_loss(b=0, variance_weight=1.0), True, free=True),
    "muzero": Learner(value_aware_loss(b=1, variance_weight=1.0), backs_up=False),
    "muzero-calibrated": Learner(value_aware_loss(b=1, variance_weight=0.0), backs_up=False),
    "muzero-root": Learner(rooted_loss(variance_weight=1.0), False, _TARGET_PERIOD),
    "muzero-root-calibrated": Learner(rooted_loss(variance_weight=0.0), False, _TARGET_PERIOD),
    "muzero-calibrated-td": Learner(value_aware_loss(b=1, variance_weight=0.0), backs_up=True),
}


def keep(params, environment, policy):
    """Returns `policy`: evaluation only."""
    return policy


def improve(params, environment, policy):
    """Returns [A, S], the policy that is greedy for the learned model and its value (appendix
    C.5).
    """
    return greedy_policy(to_mdp(params, environment), params.value)


def learn(
    learner,
    environment,
    policy,
    params,
    *,
    num_rounds,
    num_updates,
    learning_rate,
    next_policy=keep,
):
    """Returns (params, policy) after rounds of evaluation: `num_updates` each, then `next_policy`.

    One Adam with one cosine schedule runs through all rounds; model and value are carried from
    round to round.  A `free` learner descends along the gradient of the loss summed over states and
    actions, by 1 times it, and takes no heed of `learning_rate`.
    """
    optimiser = optax.adam(optax.cosine_decay_schedule(learning_rate, num_rounds * num_updates))
    if learner.free:
        optimiser = optax.sgd(float(policy.size))

    def update(number, policy, params, target, state):
        target = jnp.where(number % learner.target_period == 0, params.value, target)
        gradient = jax.grad(
            lambda p: learner.loss(model_logits(p), p.value, target, environment, policy)
        )(params)
        if learner.free:
            gradient = gradient._replace(right=jnp.zeros_like(params.right))
        step, state = optimiser.update(gradient, state)
        updated = optax.apply_updates(params, step)
        if learner.backs_up:
            updated = updated._replace(
                value=bellman(to_mdp(params, environment), policy, params.value)
            )
        return updated, target, state

    def one_round(carry, _):
        policy, *learned = carry
        params, *learned = jax.lax.fori_loop(
            0, num_updates, lambda number, learned: update(number, policy, *learned), tuple(learned)
        )
        return (next_policy(params, environment, policy), params, *learned), None

    start = policy, params, params.value, optimiser.init(params)
    (policy, params, *_), _ = jax.lax.scan(one_round, start, length=num_rounds)
    return params, policy


def measure(params, environment, policy, true_value):
    """Returns errors of a learned model and value against v_π [S], in standard deviations of v_π
    over states.

    value_error: root mean square of V̂ − v_π.  model_error: of P̂ v_π − P v_π over states and
    actions.  entropy: of a row of the model, in nats.
    """
    scale = jnp.std(true_value)
    transition = to_mdp(params, environment).transition
    log_transition = jax.nn.log_softmax(model_logits(params))

    def rms(error):
        return jnp.sqrt(jnp.mean(jnp.square(error))) / scale

    return {
        "value_error": rms(params.value - true_value),
        "model_error": rms((transition - environment.transition) @ true_value),
        "entropy": -jnp.mean(jnp.sum(transition * log_transition, axis=-1)),
    }
