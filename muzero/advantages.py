"""Advantages: what the returns of taken actions say, and the unit that makes it the same for every
game.

The search improves a policy by what the *model* says of actions. Where the model says less than the
returns do, the return of the action that was taken takes part: A_t = G_t − ν_t, with G the TD(λ)
return and ν the value that the search expected. Both are measured in units of the running root mean
square of A, so that one setting serves games with any size of reward (Hessel et al. 2021, *Muesli*,
section 4.5).
"""

import jax
import jax.numpy as jnp

from muzero.step_losses import StepLosses, entropy
from muzero.targets import TakenActions, importance_ratio
from muzero.types import Array, PyTree

MEAN_SQUARE = "advantage/mean_square"  # of a minibatch's start states, in units of return
DECAY = 0.99  # of the running mean square, an update
_SMALLEST_SCALE = 1e-3  # in units of return


def init_statistics() -> PyTree:
    """Returns the statistics before the first update: a mean square of 1."""
    return {"advantage": {"mean_square": jnp.ones(())}}


def advance_statistics(statistics: PyTree, mean_square: Array, num_updates: Array) -> PyTree:
    """Returns the statistics after one more update: a plain mean at first, then one that forgets.

    Args:
      statistics: before it.
      mean_square: [] of the advantages of this update's start states.
      num_updates: [] updates before it.
    """
    old = statistics["advantage"]["mean_square"]
    rate = jnp.maximum(1.0 - DECAY, 1.0 / (num_updates + 1.0))
    return {"advantage": {"mean_square": old + rate * (mean_square - old)}}


def advantage_scale(statistics: PyTree) -> Array:
    """Returns [] the running root mean square of advantages, in units of return; no gradient."""
    mean_square = jax.lax.stop_gradient(statistics["advantage"]["mean_square"])
    return jnp.maximum(jnp.sqrt(mean_square), _SMALLEST_SCALE)


def return_losses(
    policy_logits: Array,
    mask: Array,
    weights: Array,
    *,
    taken: TakenActions,
    scale: Array,
    clip: float,
) -> StepLosses:
    """Returns −ρ Â log π̂ᵏ(a), the policy-gradient loss of the taken actions, step by step.

    Â is the advantage in units of `scale`, clipped to ± `clip`; ρ = min(1, π̂ᵏ(a)/μ(a)) takes the
    weight from actions that the policy has left since. Neither carries a gradient. Together with
    the cross-entropy to the search's policy p it is the cross-entropy to p + ρ Â (1_a − π̂ᵏ): where
    the policy is the one that acted, its expectation moves every action's share by π(a) times the
    advantage of the action over the mean.

    Args:
      policy_logits: [S, K+1, A] of the online network along the unroll.
      mask: [S, K+1], 1 where there is a loss.
      weights: [K+1], of each step.
      taken: what followed the taken actions.
      scale: [] unit of the advantages.
      clip: bound on advantages, in that unit.
    """
    log_probs = jax.nn.log_softmax(policy_logits)
    log_prob = jnp.take_along_axis(log_probs, taken.action[..., None], axis=-1)[..., 0]
    ratio = importance_ratio(jnp.exp(log_prob), taken.behaviour_prob, 1.0)
    advantage = jnp.clip(taken.advantage / scale, -clip, clip)
    terms = jnp.where(mask > 0, -jax.lax.stop_gradient(ratio * advantage) * log_prob, 0.0)
    return StepLosses(
        jnp.sum(terms * weights), jnp.sum(terms, axis=0), jnp.sum(mask, axis=0), weights
    )


def negative_entropies(policy_logits: Array, mask: Array, weights: Array) -> StepLosses:
    """Returns −H(π̂ᵏ), step by step: what is minimised keeps the policy from settling too early.

    Args:
      policy_logits: [S, K+1, A].
      mask: [S, K+1], 1 where there is a loss.
      weights: [K+1], of each step.
    """
    terms = jnp.where(mask > 0, -entropy(jax.nn.softmax(policy_logits)), 0.0)
    return StepLosses(
        jnp.sum(terms * weights), jnp.sum(terms, axis=0), jnp.sum(mask, axis=0), weights
    )
