"""Everything that an update changes, and nothing else."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from configs.schema import OptimiserConfig
from muzero import value_buffer
from muzero.types import Array, Params, PyTree


class LearnerState(NamedTuple):
    """State of the learner; a checkpoint holds all of it."""

    params: Params
    search_average: Params  # what actors search with
    target_average: Params  # behind V-trace latents and stored heads
    optimiser_state: Any
    value_buffer: value_buffer.ValueBuffer
    num_updates: Array  # [] int32


def make_optimiser(
    settings: OptimiserConfig,
) -> tuple[optax.GradientTransformation, optax.Schedule]:
    """Returns Adam and its linear schedule.

    Its state and arithmetic are one flat vector for all parameters: a small network's hundreds of
    arrays would cost a device more to start on than to compute.
    """
    schedule = optax.linear_schedule(
        settings.learning_rate, settings.final_learning_rate, settings.schedule_num_updates
    )
    limit = settings.max_gradient_norm
    clip = optax.identity() if limit is None else optax.clip_by_global_norm(limit)
    adam = optax.adamw(schedule, weight_decay=settings.weight_decay)
    return optax.flatten(optax.chain(clip, adam)), schedule


def init_state(
    init_params: Callable[[Array], Params],
    optimiser: optax.GradientTransformation,
    *,
    value_buffer_size: int,
    rng_key: Array,
    statistics: PyTree = None,
) -> LearnerState:
    """Returns the state before the first update.

    Both averages start at the parameters, and the buffer is empty.

    Args:
      init_params: makes the parameters of a key.
      optimiser: whose state it holds.
      value_buffer_size: M.
      rng_key: of the parameters.
      statistics: running ones (`muzero/advantages.py`), where they are used.
    """
    params = init_params(rng_key)._replace(statistics=statistics)
    return LearnerState(
        params=params,
        search_average=jax.tree.map(jnp.copy, params),  # donated buffers must not be shared
        target_average=jax.tree.map(jnp.copy, params),
        optimiser_state=optimiser.init(params),
        value_buffer=value_buffer.init(params.prediction, value_buffer_size),
        num_updates=jnp.zeros((), jnp.int32),
    )
