"""The model as four pure functions of one sample: init, represent, step, predict."""

from collections.abc import Callable
from typing import NamedTuple

import haiku as hk
import jax
import jax.numpy as jnp

from muzero import networks
from muzero.types import Array, ModelOutput, Params, PyTree


class Model(NamedTuple):
    """MuZero's three networks as pure functions of *one* sample; batch with `jax.vmap`."""

    init: Callable[[Array], Params]  # rng_key → parameters
    represent: Callable[[PyTree, Array], Array]  # (representation parameters, stack [..., c]) → latent
    # (dynamics, latent, action) → latent, reward logits [Z]
    step: Callable[[PyTree, Array, Array], tuple[Array, Array]]
    # (prediction, latent) → policy logits [A], value logits [Z]
    predict: Callable[[PyTree, Array], tuple[Array, Array]]


def make_model(
    *,
    stack_shape: tuple[int, ...],
    num_actions: int,
    num_bins: int,
    latent: str,
    encoder: str,
    num_channels: int,
    num_blocks: int,
    head_channels: int,
    latent_size: int,
    hidden_size: int,
    history_length: int,
    remat: bool = False,
    compute_dtype: str = "float32",
) -> Model:
    """Returns the model for observations stacked to `stack_shape` ([h, w, c] image or [d] vector).

    Keyword arguments are the fields of `NetworkConfig`; the encoder follows the shape of the
    observation, and a vector observation has vector latents whatever `latent` says.
    """
    if latent == "planes" and len(stack_shape) == 3:
        make_representation = lambda: networks.PlanesRepresentation(encoder, num_channels, num_blocks, remat)
        make_dynamics = lambda: networks.PlanesDynamics(num_actions, num_blocks, head_channels, num_bins, remat)
    else:
        make_representation = lambda: networks.VectorRepresentation(
            encoder,
            num_channels,
            hidden_size,
            latent_size,
            num_action_planes=history_length - 1,
            num_actions=num_actions,
        )
        make_dynamics = lambda: networks.VectorDynamics(num_actions, hidden_size, num_bins)
    make_prediction = lambda: networks.Prediction(num_actions, num_bins, head_channels, hidden_size)

    dtype = jnp.dtype(compute_dtype)
    represent = _transform(lambda stack: make_representation()(stack.astype(dtype)))
    step = _transform(lambda latent, action: make_dynamics()(latent.astype(dtype), action))
    predict = _transform(lambda latent: make_prediction()(latent))

    def init(rng_key: Array) -> Params:
        keys = jax.random.split(rng_key, 3)
        representation = represent.init(keys[0], jnp.zeros(stack_shape))
        latent = represent.apply(representation, jnp.zeros(stack_shape))
        return Params(
            representation=representation,
            dynamics=step.init(keys[1], latent, jnp.zeros((), jnp.int32)),
            prediction=predict.init(keys[2], latent),
        )

    return Model(init, represent.apply, step.apply, predict.apply)


def _transform(fn: Callable) -> hk.Transformed:
    """Returns `fn` as pure functions; parameters are stored in float32 and read in the type of what they multiply.

    So are towers computed in `compute_dtype`; latents and heads are float32 always (a bf16 root value would truncate
    the whole search tree).
    """
    create = lambda next_creator, shape, dtype, init, context: next_creator(shape, jnp.float32, init)
    read = lambda next_getter, value, context: next_getter(value.astype(context.original_dtype))

    def typed(*inputs):
        with hk.custom_creator(create), hk.custom_getter(read):
            return fn(*inputs)

    return hk.without_apply_rng(hk.transform(typed))


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
    # Unrolled: XLA's compiler for the CPU makes fast convolutions of gradients everywhere but inside a loop.
    _, (latents, reward_logits) = jax.lax.scan(imagine, root, actions, unroll=True)
    latents = jnp.concatenate([root[None], latents])
    policy_logits, value_logits = jax.vmap(model.predict, (None, 0))(params.prediction, latents)
    return ModelOutput(latents, reward_logits, value_logits, policy_logits)
