"""The model as four pure functions of one sample: init, represent, step, predict."""

from collections.abc import Callable
from typing import NamedTuple

import haiku as hk
import jax
import jax.numpy as jnp

from configs.schema import NetworkConfig
from muzero import networks
from muzero.frame_statistics import FrameStatistics
from muzero.types import Array, ModelOutput, Params, PyTree


class Model(NamedTuple):
    """MuZero's three networks as pure functions of *one* sample; batch with `jax.vmap`."""

    init: Callable[[Array], Params]
    """rng_key → parameters."""
    represent: Callable[[PyTree, Array], Array]
    """(representation parameters, stack [..., c]) → latent."""
    step: Callable[[PyTree, Array, Array], tuple[Array, Array]]
    """(dynamics parameters, latent, action) → (next latent, reward logits [Z])."""
    predict: Callable[[PyTree, Array], tuple[Array, Array]]
    """(prediction parameters, latent) → (policy logits [A], value logits [Z])."""


def make_model(
    settings: NetworkConfig, *, stack_shape: tuple[int, ...], num_actions: int, num_bins: int
) -> Model:
    """Returns the model for observations stacked to `stack_shape` ([h, w, c] image or [d] vector).

    The encoder follows the shape of the observation, and a vector observation has vector latents
    whatever `settings.latent` says.

    Args:
      settings: of the networks.
      stack_shape: of one stacked observation.
      num_actions: A.
      num_bins: Z.
    """
    dtype = jnp.dtype(settings.compute_dtype)
    has_planes = settings.latent == "planes" and len(stack_shape) == 3

    def representation(stack: Array) -> Array:
        if settings.centre_frames and len(stack_shape) == 3:
            stack = FrameStatistics(settings.history_length)(stack)
        if has_planes:
            return networks.PlanesRepresentation(settings)(stack.astype(dtype))
        return networks.VectorRepresentation(settings, num_actions)(stack.astype(dtype))

    def dynamics(latent: Array, action: Array) -> tuple[Array, Array]:
        kind = networks.PlanesDynamics if has_planes else networks.VectorDynamics
        return kind(settings, num_actions, num_bins)(latent.astype(dtype), action)

    def prediction(latent: Array) -> tuple[Array, Array]:
        return networks.Prediction(settings, num_actions, num_bins)(latent)

    represent, step, predict = map(_transform, (representation, dynamics, prediction))

    def init(rng_key: Array) -> Params:
        keys = jax.random.split(rng_key, 3)
        params = represent.init(keys[0], jnp.zeros(stack_shape))
        latent = represent.apply(params, jnp.zeros(stack_shape))
        return Params(
            representation=params,
            dynamics=step.init(keys[1], latent, jnp.zeros((), jnp.int32)),
            prediction=predict.init(keys[2], latent),
        )

    return Model(init, represent.apply, step.apply, predict.apply)


def _transform(fn: Callable) -> hk.Transformed:
    """Returns `fn` as pure functions.

    Parameters are stored in float32 and read in the type of what they multiply: so towers are
    computed in `compute_dtype`. Latents and heads are float32 always (a bf16 root value would
    truncate the whole search tree).
    """

    def typed(*inputs):
        with hk.custom_creator(_create_in_float32), hk.custom_getter(_read_as_asked):
            return fn(*inputs)

    return hk.without_apply_rng(hk.transform(typed))


def _create_in_float32(next_creator, shape, dtype, init, context) -> Array:
    return next_creator(shape, jnp.float32, init)


def _read_as_asked(next_getter, value: Array, context) -> Array:
    return next_getter(value.astype(context.original_dtype))


def halve_gradient(x: Array) -> Array:
    """Returns `x` with half its gradient: what enters the dynamics (MuZero, appendix G)."""
    return 0.5 * x + 0.5 * jax.lax.stop_gradient(x)


def unroll(model: Model, params: Params, stack: Array, actions: Array) -> ModelOutput:
    """Returns the predictions along taken actions from one start state.

    Args:
      model: the four functions.
      params: parameters.
      stack: the stacked observation of the start state.
      actions: [K] int32, the actions taken from there.
    """

    def imagine(latent, action):
        next_latent, reward_logits = model.step(params.dynamics, halve_gradient(latent), action)
        return next_latent, (next_latent, reward_logits)

    root = model.represent(params.representation, stack)
    # Unrolled: XLA's compiler for the CPU makes fast convolutions of gradients everywhere but in a
    # loop.
    _, (latents, reward_logits) = jax.lax.scan(imagine, root, actions, unroll=True)
    latents = jnp.concatenate([root[None], latents])
    policy_logits, value_logits = jax.vmap(model.predict, (None, 0))(params.prediction, latents)
    return ModelOutput(latents, reward_logits, value_logits, policy_logits)
