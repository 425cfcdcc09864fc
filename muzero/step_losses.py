"""Cross-entropies along an unroll: a row per start state, a column per imagined step."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from muzero.types import Array


def cross_entropy(logits: Array, probs: Array) -> Array:
    """Returns −Σ probs · log softmax(logits) over the last axis."""
    return -jnp.sum(probs * jax.nn.log_softmax(logits), axis=-1)


def entropy(probs: Array) -> Array:
    """Returns −Σ p log p over the last axis, with 0 log 0 = 0."""
    return -jnp.sum(jax.scipy.special.xlogy(probs, probs), axis=-1)


def step_weights(num_unroll_steps: int) -> Array:
    """Returns [K+1]: weight 1 for k = 0 and 1/K for each imagined step."""
    return jnp.append(1.0, jnp.full(num_unroll_steps, 1.0 / num_unroll_steps))


class StepLosses(NamedTuple):
    """One kind of loss (reward, value, policy, past) over the start states, step by step."""

    loss: Array  # [] weighted sum of cross-entropies: what is minimised
    kl: Array  # [K'] sum of cross-entropy minus target entropy
    count: Array  # [K'] number of terms
    weights: Array  # [K']


def step_losses(logits: Array, probs: Array, mask: Array, weights: Array) -> StepLosses:
    """Returns the losses of predictions against distributions `probs`, which carry no gradient.

    Args:
      logits, probs: [S, K', classes].
      mask: [S, K'], 1 where there is a loss.
      weights: [K'], of each step.
    """
    probs = jax.lax.stop_gradient(probs)
    terms = jnp.where(mask > 0, cross_entropy(logits, probs), 0.0)
    kl = jnp.where(mask > 0, terms - entropy(probs), 0.0)
    return StepLosses(jnp.sum(terms * weights), jnp.sum(kl, axis=0), jnp.sum(mask, axis=0), weights)


def tagged(losses: dict[str, StepLosses]) -> tuple[dict[str, Array], dict[str, Array]]:
    """Returns `loss/NAME` and `loss/NAME_kK` of every kind as sums, and their divisors.

    Rewards begin at k = 1: the first column of `reward` belongs to the first imagined step.
    """
    sums, counts = {}, {}
    for name, steps in losses.items():
        first_k = 1 if name == "reward" else 0
        sums[f"loss/{name}"] = jnp.sum(steps.kl * steps.weights)
        counts[f"loss/{name}"] = steps.count[0]
        for k, (kl, count) in enumerate(zip(steps.kl, steps.count, strict=True), first_k):
            sums[f"loss/{name}_k{k}"], counts[f"loss/{name}_k{k}"] = kl, count
    return sums, counts
