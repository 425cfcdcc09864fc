"""The (m, b)-value-aware losses of a model and a value function (Calibrated Value-Aware Model
Learning, eq. 2).

    environment   x ─▶ x^(1) ─▶ … ─▶ x^(m) ─▶ … ─▶ x^(m+b)
    model         x ─▶ x̂^(1) ─▶ … ─▶ x̂^(m)

    target       r + γ r + … + γ^b V_target(x^(m+b))
    prediction   V̂(x̂^(m)), mean of n sampled rollouts

    loss(x) = [ V̂(x̂^(m)) − (T^b V_target)(x^(m)) ]²,  no gradient through the target.

IterVAML is (1, 0), MuZero (m, b) with b ≥ 1, model-free TD (0, 1).  Both rollouts start in x and
are independent given x, so the loss has the expectation (proof of proposition 2, eq. 3; its
formulas are lost in our text and derived here, and `tests/muzero/tabular/test_vaml.py` checks them
against the sum over every rollout)

    [ E V̂(x̂^(m)) − E (T^b V_target)(x^(m)) ]²  +  Var V̂(x̂^(m)) / n  +  Var(target).

No parameter changes the last term.  The middle one prefers models that are too certain and values
that are too flat; the calibrated loss subtracts its unbiased estimate.  The sampled losses take any
model that can be stepped and any value function (an agent's latents as well as tabular states); the
expected ones take transition matrices. Shape letters: B windows, n sampled rollouts, S tabular
states.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

Array = Any


class Windows(NamedTuple):
    """m + b consecutive steps of the environment from each of B states;
    b is what remains after m.
    """

    state: Array  # [B, ...] x, what the model starts from
    action: Array  # [B, m + b]
    reward: Array  # [B, m + b] of the step taken in x^(j)
    final_state: Array  # [B, ...] x^(m+b), what the target bootstraps from


class Moments(NamedTuple):
    """Mean and variance of a random quantity, given the state."""

    mean: Array  # [S]
    variance: Array  # [S]


def squared_error(prediction, target):
    """Returns (mean of prediction − target)², [B]: the usual, uncalibrated loss of n sampled
    predictions, [B, n].
    """
    return jnp.square(jnp.mean(prediction, axis=-1) - target)


def calibrated_error(prediction, target):
    """Returns the squared error less the estimated variance of its mean, [B] (proposition 3); n ≥ 2
    in [B, n].

    With n = 2 it is the product (V̂₁ − target)(V̂₂ − target): two independent samples, the remedy
    of double sampling.

    Raises ValueError for one prediction, from which no variance can be estimated.
    """
    num_samples = prediction.shape[-1]
    if num_samples < 2:
        raise ValueError(
            f"the calibrated loss needs at least 2 sampled predictions, got {num_samples}"
        )
    return squared_error(prediction, target) - jnp.var(prediction, axis=-1, ddof=1) / num_samples


def bootstrapped_target(windows, value_target_fn, m, discount):
    """Returns the sampled (T^b V_target)(x^(m)), [B], without gradient: b rewards after the first
    m, then V_target.
    """
    rewards = windows.reward[:, m:]
    b = rewards.shape[1]
    target = rewards @ (discount ** jnp.arange(b)) + discount**b * value_target_fn(
        windows.final_state
    )
    return jax.lax.stop_gradient(target)


def predicted_values(step_fn, value_fn, windows, m, num_samples, key):
    """Returns V̂(x̂^(m)) of `num_samples` independent rollouts of the model along the taken
    actions, [B, n].

    `step_fn(key, state, action)` samples the model's next states, [B, ...]; a deterministic model
    ignores the key.
    """

    def rollout(key):
        state = windows.state
        for k, step_key in enumerate(jax.random.split(key, m) if m else ()):
            state = step_fn(step_key, state, windows.action[:, k])
        return value_fn(state)

    return jnp.stack([rollout(key) for key in jax.random.split(key, num_samples)], axis=-1)


def vaml_loss(
    step_fn, value_fn, value_target_fn, windows, key, *, m, discount, num_samples, error_fn
):
    """Returns the sampled (m, b)-VAML loss of a batch of windows, and metrics.

    `error_fn` is `squared_error` or `calibrated_error`.  Gradients reach the model as far as its
    samples are differentiable (a deterministic or reparameterised model), and `value_fn`; never
    `value_target_fn`.
    """
    prediction = predicted_values(step_fn, value_fn, windows, m, num_samples, key)
    target = bootstrapped_target(windows, value_target_fn, m, discount)
    loss = jnp.mean(error_fn(prediction, target))
    return loss, {"prediction": jnp.mean(prediction), "target": jnp.mean(target)}


def step_back(transition, after):
    """Returns the moments, given x, of what has moments `after` given the next state (law of total
    variance).

    transition: [S, S] rows of next-state probabilities; the spread of the means is summed around
    their own mean, which keeps a variance near 0 exact where a difference of squares would lose it.
    """
    mean = transition @ after.mean
    spread = jnp.sum(transition * jnp.square(after.mean - mean[:, None]), axis=1)
    return Moments(mean, transition @ after.variance + spread)


def prediction_moments(model, value, m):
    """Returns the moments of V̂(x̂^(m)) under the model's transition matrix, [S, S]; value [S]."""
    moments = Moments(value, jnp.zeros_like(value))
    for _ in range(m):
        moments = step_back(model, moments)
    return moments


def target_moments(transition, reward, value_target, m, b, discount):
    """Returns the moments of the sampled (T^b V_target)(x^(m)), without gradient; reward [S] is
    paid on leaving.
    """
    moments = Moments(value_target, jnp.zeros_like(value_target))
    for _ in range(b):
        after = step_back(transition, moments)
        moments = Moments(reward + discount * after.mean, discount**2 * after.variance)
    for _ in range(m):
        moments = step_back(transition, moments)
    return jax.lax.stop_gradient(moments)


def expected_loss(model, value, target_mean, m, variance_weight):
    """Returns the expectation of the sampled loss from every state, [S], less the target's own
    variance.

    variance_weight: 1 / n for the uncalibrated loss of n rollouts, 0 for the calibrated loss of any
    number and for the loss between exact expectations (L_IterVAML of eq. 1 where b = 0).
    """
    moments = prediction_moments(model, value, m)
    return jnp.square(moments.mean - target_mean) + variance_weight * moments.variance
