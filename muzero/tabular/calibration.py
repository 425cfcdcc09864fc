"""What minimises the sampled losses: in closed form, and found from samples (CVAML, propositions 2
to 5).

The paper proves that minimisers differ; it does not say by how much. The closed forms here are
ours, from the expected losses of `vaml`, and `tests/muzero/tabular/test_calibration.py` compares
them with a search. Shape letters: S states, B windows, n sampled predictions.
"""

import jax
import jax.numpy as jnp
import optax

from muzero.tabular import vaml

# of the largest eigenvalue: below it a direction of V is taken for one that the loss does not see
_SEEN = 0.02


def minimising_mean(value, mean, num_samples):
    """Returns E_p V under the distribution p over all states that minimises (E_p V − mean)² + Var_p
    V / n.

    value: [S]; mean: scalar, the target's; num_samples: n ≥ 1, or infinity for the calibrated loss.

    Of all p with one E_p V, that on the two nearest values below and above has the least variance,
    (E_p V − low) (high − E_p V). So the loss is piecewise quadratic in E_p V, and linear for n = 1:
    then p sits on one state.
    """
    ordered = jnp.sort(value)
    low, high = ordered[:-1], ordered[1:]
    curvature = 1 - 1 / num_samples
    vertex = (2 * mean - (low + high) / num_samples) / (
        2 * jnp.where(curvature > 0, curvature, 1.0)
    )
    inner = jnp.where(curvature > 0, jnp.clip(vertex, low, high), low)
    candidates = jnp.concatenate([inner, ordered])
    variance = jnp.concatenate([(inner - low) * (high - inner), jnp.zeros_like(ordered)])
    return candidates[jnp.argmin(jnp.square(candidates - mean) + variance / num_samples)]


def minimising_value(model, target_mean, variance_weight):
    """Returns [S], the V that minimises the mean over states of [(P̂ V)(x) − target(x)]² + weight ·
    Var_{P̂(x)} V.

    model: [S, S]; target_mean: [S]; variance_weight: 1 / n, or 0 for the calibrated loss. With
    weight 1 this is the average target over the states that lead to a state: V(y) = Σ_x P̂(y|x)
    target(x) / Σ_x P̂(y|x).
    """
    spread = jnp.diag(jnp.sum(model, axis=0)) - model.T @ model
    return _least_squares(model.T @ model + variance_weight * spread, model.T @ target_mean)


def sampled_minimising_value(states, target, num_states, calibrated):
    """Returns [S], the V that minimises the sampled loss of `vaml.squared_error` or
    `calibrated_error`.

    states: [B, n] int, x̂^(m) of each rollout; target: [B], its sampled Bellman target. The losses
    are quadratic in V.
    """
    num_samples = states.shape[1]
    share = jnp.mean(jax.nn.one_hot(states, num_states, dtype=target.dtype), axis=1)  # [B, S]
    moment = share.T @ share
    if calibrated:
        moment -= (jnp.diag(jnp.sum(share, axis=0)) - moment) / (num_samples - 1)
    return _least_squares(moment / len(target), share.T @ target / len(target))


def _least_squares(moment, correlation):
    """Returns the least solution of a symmetric system; unseen directions stay 0."""
    eigenvalue, direction = jnp.linalg.eigh(moment)
    seen = eigenvalue > _SEEN * eigenvalue[-1]
    return direction @ jnp.where(
        seen, (direction.T @ correlation) / jnp.where(seen, eigenvalue, 1.0), 0.0
    )


def sample_states(rng_key, distribution, num):
    """Returns int [..., num] draws of the last axis of `distribution` [..., S]."""
    uniform = jax.random.uniform(rng_key, (*distribution.shape[:-1], num), distribution.dtype)
    below = uniform[..., None] > jnp.cumsum(distribution, axis=-1)[..., None, :-1]
    return jnp.sum(below, axis=-1)


def fit_row(
    rng_key,
    logits,
    value,
    target_fn,
    *,
    error_fn,
    num_samples,
    batch_size,
    num_updates,
    learning_rate,
):
    """Returns [S], the distribution softmax(logits) after stochastic descent of a sampled loss.

    Args:
      rng_key: consumed.
      logits: [S], the start.
      value: [S], V̂ of the states.
      target_fn: (key, B) → [B], independent sampled targets.
      error_fn: `vaml.squared_error` or `vaml.calibrated_error`.
      num_samples: n, the model's draws for each target.
      batch_size: B.
      num_updates: steps of Adam, learning rate decaying to 0.
      learning_rate: at the first update.

    Draws of a categorical model have no derivative: the gradient is the score function's, with the
    mean loss of the other B − 1 as baseline, and so unbiased.
    """
    optimiser = optax.adam(optax.cosine_decay_schedule(learning_rate, num_updates))

    def surrogate(logits, key):
        draw_key, target_key = jax.random.split(key)
        draws = sample_states(
            draw_key,
            jnp.broadcast_to(jax.nn.softmax(logits), (batch_size, *logits.shape)),
            num_samples,
        )
        errors = error_fn(value[draws], target_fn(target_key, batch_size))
        advantage = (errors - jnp.mean(errors)) * batch_size / (batch_size - 1)
        return jnp.mean(advantage * jnp.sum(jax.nn.log_softmax(logits)[draws], axis=-1))

    def update(carry, key):
        logits, state = carry
        step, state = optimiser.update(jax.grad(surrogate)(logits, key), state)
        return (optax.apply_updates(logits, step), state), None

    start = (logits, optimiser.init(logits))
    return jax.nn.softmax(jax.lax.scan(update, start, jax.random.split(rng_key, num_updates))[0][0])


def sample_windows(rng_key, start, transition, reward, length):
    """Returns `vaml.Windows` of `length` steps of a chain, [S, S] with reward [S], from the states
    `start` [B].
    """
    states = [start]
    for key in jax.random.split(rng_key, length):
        states.append(sample_states(key, transition[states[-1]], 1)[:, 0])
    rewards = jnp.stack([reward[state] for state in states[:-1]], axis=1)
    return vaml.Windows(start, jnp.zeros((len(start), length), int), rewards, states[-1])


def deterministic_state(grid_value, mean):
    """Returns a point of [0, 1] at which V is `mean`: proposition 5's deterministic model
    (intermediate value theorem).

    grid_value: [S], a continuous V, linear between S equidistant points; `mean` must lie between
    its least and largest.
    """
    above = grid_value - mean
    crosses = (above[:-1] * above[1:]) <= 0
    left = jnp.argmax(crosses)
    width = above[left] - above[left + 1]
    fraction = jnp.where(width == 0, 0.0, above[left] / jnp.where(width == 0, 1.0, width))
    return (left + fraction) / (len(grid_value) - 1)
