"""Haiku layers: MuZero's Atari network (Schrittwieser et al. 2020, appendix F) and small ones.

Choices of this project: pre-activation blocks with LayerNorm and no BatchNorm anywhere (no mutable
state, the same on any number of devices); output layers start at zero; latents are scaled to
[0, 1].
"""

from collections.abc import Callable, Sequence

import haiku as hk
import jax
import jax.numpy as jnp

from configs.schema import NetworkConfig
from muzero.types import Array

RANGE_FLOOR = 1e-5  # smallest latent range that is stretched to [0, 1]


def layer_norm() -> Callable[[Array], Array]:
    """Returns a LayerNorm over the last axis with scale and offset, which sums in float32."""
    norm = hk.LayerNorm(axis=-1, create_scale=True, create_offset=True)
    return lambda x: norm(x.astype(jnp.float32)).astype(x.dtype)


def scale_latent(latent: Array) -> Array:
    """Returns `latent` of one sample scaled to [0, 1] over all of its entries, float32."""
    latent = latent.astype(jnp.float32)
    low, high = jnp.min(latent), jnp.max(latent)
    return (latent - low) / jnp.maximum(high - low, RANGE_FLOOR)


def conv(num_channels: int, kernel: int = 3, stride: int = 1) -> hk.Conv2D:
    """Returns a 2-D convolution without bias (a LayerNorm always follows on its path)."""
    return hk.Conv2D(num_channels, kernel, stride, with_bias=False)


class PointwiseConv(hk.Module):
    """A 1×1 convolution without bias, written as a product; parameters as `conv(num_channels, 1)`.

    XLA's compiler for the CPU takes gradients of 1×1 convolutions at half the speed of the product
    they are.
    """

    def __init__(self, num_channels: int):
        super().__init__("conv2_d")
        self._num_channels = num_channels

    def __call__(self, x: Array) -> Array:
        num_inputs = x.shape[-1]
        init = hk.initializers.TruncatedNormal(num_inputs**-0.5)
        weights = hk.get_parameter("w", (1, 1, num_inputs, self._num_channels), x.dtype, init)
        return x @ weights[0, 0]


class ResidualBlock(hk.Module):
    """Pre-activation block: x + conv(relu(norm(conv(relu(norm(x))))))."""

    def __call__(self, x: Array) -> Array:
        num_channels = x.shape[-1]
        out = conv(num_channels)(jax.nn.relu(layer_norm()(x)))
        return x + conv(num_channels)(jax.nn.relu(layer_norm()(out)))


def residual_tower(x: Array, num_blocks: int, remat: bool) -> Array:
    """Returns `x` after `num_blocks` residual blocks; `remat`: the backward pass repeats them."""
    for _ in range(num_blocks):
        block = ResidualBlock()
        x = hk.remat(block)(x) if remat else block(x)
    return x


def average_pool(x: Array) -> Array:
    """Returns [h, w, c] pooled by 3×3 with stride 2."""
    return hk.avg_pool(x, (3, 3, 1), (2, 2, 1), "SAME")


def muzero_encoder(x: Array, num_channels: int, remat: bool) -> Array:
    """Returns [h/16, w/16, c] of an image stack [h, w, ·]: MuZero's residual downsampling."""
    x = conv(num_channels // 2, stride=2)(x)
    x = residual_tower(x, 2, remat)
    x = conv(num_channels, stride=2)(x)
    x = residual_tower(x, 3, remat)
    x = average_pool(x)
    x = residual_tower(x, 3, remat)
    return average_pool(x)


def space_to_depth(x: Array, block: int) -> Array:
    """Returns [h/b, w/b, b·b·c] of [h, w, c]: the pixels of every block as channels.

    The far edges are padded with zeros.
    """
    height, width, channels = x.shape
    x = jnp.pad(x, ((0, -height % block), (0, -width % block), (0, 0)))
    x = x.reshape(x.shape[0] // block, block, x.shape[1] // block, block, channels)
    return x.transpose(0, 2, 1, 3, 4).reshape(x.shape[0], x.shape[2], block * block * channels)


def light_encoder(x: Array, num_channels: int, remat: bool) -> Array:
    """Returns a cheap embedding of an image stack [h, w, ·]: the stem for a CPU.

    Frames over 40 pixels are reduced 8 times by the three convolutions of DQN (Mnih et al. 2015;
    `num_channels` is 64 there): 8×8 with stride 4 and half the channels, 4×4 with stride 2, 3×3.
    `space_to_depth` takes the strides. Small grids keep their resolution: MinAtar's single pixels
    matter. It has no blocks to compute again: `remat` is ignored.
    """
    del remat
    if max(x.shape[:2]) <= 40:
        return conv(num_channels)(x)
    x = jax.nn.relu(hk.Conv2D(num_channels // 2, 2)(space_to_depth(x, 4)))
    x = jax.nn.relu(hk.Conv2D(num_channels, 2)(space_to_depth(x, 2)))
    return hk.Conv2D(num_channels, 3)(x)


ENCODERS = {"muzero": muzero_encoder, "light": light_encoder}


class PlanesRepresentation(hk.Module):
    """Image stack [h, w, ·] → convolutional latent [h', w', num_channels]."""

    def __init__(self, settings: NetworkConfig):
        super().__init__("representation")
        self._settings = settings

    def __call__(self, stack: Array) -> Array:
        network = self._settings
        encoded = ENCODERS[network.encoder](stack, network.num_channels, network.remat)
        return scale_latent(residual_tower(encoded, network.num_blocks, network.remat))


class VectorRepresentation(hk.Module):
    """Image stack [h, w, ·] or vector [d] → vector latent [latent_size].

    The last H − 1 channels of an image stack are constant planes. They are read as one-hot actions
    beside the encoded frames: nearly half of the encoder's work would go into them, and where fire
    has to be released it matters whether the last action was fire, not how large its number is.
    """

    def __init__(self, settings: NetworkConfig, num_actions: int):
        super().__init__("representation")
        self._settings = settings
        self._num_actions = num_actions

    def __call__(self, stack: Array) -> Array:
        network = self._settings
        if stack.ndim == 3:
            num_planes = network.history_length - 1
            frames, actions = jnp.split(stack, [stack.shape[-1] - num_planes], axis=-1)
            encoded = ENCODERS[network.encoder](frames, network.num_channels, remat=False)
            encoded = jax.nn.relu(layer_norm()(encoded))
            # The planes are (a + 1) / A, 0 before a reset.
            number = jnp.round(actions[0, 0] * self._num_actions) - 1
            one_hot = jax.nn.one_hot(number, self._num_actions)
            stack = jnp.concatenate([encoded.reshape(-1), one_hot.reshape(-1)])
        return scale_latent(mlp(stack, [network.hidden_size], network.latent_size))


class PlanesDynamics(hk.Module):
    """(latent [h, w, c], action) → (next latent, reward logits [Z])."""

    def __init__(self, settings: NetworkConfig, num_actions: int, num_bins: int):
        super().__init__("dynamics")
        self._settings = settings
        self._num_actions = num_actions
        self._num_bins = num_bins

    def __call__(self, latent: Array, action: Array) -> tuple[Array, Array]:
        network = self._settings
        one_hot = jax.nn.one_hot(action, self._num_actions, dtype=latent.dtype)
        planes = jnp.broadcast_to(one_hot, (*latent.shape[:2], self._num_actions))
        x = conv(latent.shape[-1])(jnp.concatenate([latent, planes], axis=-1))
        latent = scale_latent(residual_tower(latent + x, network.num_blocks, network.remat))
        return latent, planes_head(latent, network.head_channels, self._num_bins)


class VectorDynamics(hk.Module):
    """(latent [d], action) → (next latent, reward logits [Z])."""

    def __init__(self, settings: NetworkConfig, num_actions: int, num_bins: int):
        super().__init__("dynamics")
        self._hidden_size = settings.hidden_size
        self._num_actions = num_actions
        self._num_bins = num_bins

    def __call__(self, latent: Array, action: Array) -> tuple[Array, Array]:
        one_hot = jax.nn.one_hot(action, self._num_actions, dtype=latent.dtype)
        x = jnp.concatenate([latent, one_hot])
        hidden = jax.nn.relu(layer_norm()(hk.Linear(self._hidden_size)(x)))
        next_latent = scale_latent(latent + mlp(hidden, [self._hidden_size], latent.shape[-1]))
        both = jnp.concatenate([hidden, next_latent])
        return next_latent, vector_head(both, self._hidden_size, self._num_bins)


class Prediction(hk.Module):
    """Latent → (policy logits [A], value logits [Z]). The value buffer stores its parameters."""

    def __init__(self, settings: NetworkConfig, num_actions: int, num_bins: int):
        super().__init__("prediction")
        self._settings = settings
        self._num_actions = num_actions
        self._num_bins = num_bins

    def __call__(self, latent: Array) -> tuple[Array, Array]:
        policy_logits = head(latent, self._settings, self._num_actions)
        return policy_logits, head(latent, self._settings, self._num_bins)


def mlp(x: Array, hidden_sizes: Sequence[int], output_size: int) -> Array:
    """Returns a ReLU MLP of `x` [d] with LayerNorm before every activation."""
    for size in hidden_sizes:
        x = jax.nn.relu(layer_norm()(hk.Linear(size)(x)))
    return hk.Linear(output_size)(x)


def zero_linear(size: int) -> hk.Linear:
    """Returns an output layer that starts at zero: uniform policies, flat categoricals."""
    return hk.Linear(size, w_init=jnp.zeros)


def head(latent: Array, settings: NetworkConfig, size: int) -> Array:
    """Returns [size] logits of a latent of either kind."""
    if latent.ndim == 3:
        return planes_head(latent, settings.head_channels, size)
    return vector_head(latent, settings.hidden_size, size)


def planes_head(latent: Array, head_channels: int, size: int) -> Array:
    """Returns [size] logits: 1×1 convolution to `head_channels` planes, LayerNorm, ReLU, linear."""
    x = jax.nn.relu(layer_norm()(PointwiseConv(head_channels)(latent)))
    return zero_linear(size)(x.reshape(-1))


def vector_head(x: Array, hidden_size: int, size: int) -> Array:
    """Returns [size] logits of a vector: linear, LayerNorm, ReLU, linear."""
    return zero_linear(size)(jax.nn.relu(layer_norm()(hk.Linear(hidden_size)(x))))
