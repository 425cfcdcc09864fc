"""Running mean of the frames and one running deviation, kept with the parameters of the
representation.

Most of a frame is the same in every state. Measured with this encoder: on Boxing latents stop to
differ between states and nothing is learned; less the mean frame, rewards and values are. Why is
not known. A constant in place of the mean (pixels less 0.5) only moves the failure to Breakout.
It is in no preset: Crazy Climber is not learned with it (results/learning-trials.md).
"""

import haiku as hk
import jax
import jax.numpy as jnp

from muzero.types import Array, Params

MODULE = "frame_statistics"
# Of the running mean and variance; the plain mean of all frames until 1 / RATE updates
RATE = 0.001
VARIANCE_FLOOR = 1e-6  # of pixels in [0, 1]: (a quarter of a grey level)²


class FrameStatistics(hk.Module):
    """Stack [h, w, H·c + H − 1] → its frames less the mean frame, over one deviation for all
    pixels.
    """

    def __init__(self, history_length: int):
        super().__init__(MODULE)
        self._history_length = history_length

    def __call__(self, stack: Array) -> Array:
        num_planes = self._history_length - 1
        frames, planes = jnp.split(stack, [stack.shape[-1] - num_planes], axis=-1)
        frame_shape = (*frames.shape[:-1], frames.shape[-1] // self._history_length)
        mean = hk.get_parameter("mean", frame_shape, jnp.float32, jnp.zeros)
        variance = hk.get_parameter("variance", (), jnp.float32, jnp.ones)
        mean, variance = jax.lax.stop_gradient((mean, variance))
        centred = frames - jnp.tile(mean, self._history_length)
        return jnp.concatenate(
            [centred * jax.lax.rsqrt(jnp.maximum(variance, VARIANCE_FLOOR)), planes], axis=-1
        )


def has_statistics(params: Params) -> bool:
    """Returns whether the representation keeps statistics of its frames."""
    return isinstance(params.representation, dict) and MODULE in params.representation


def moments(params: Params, frames: Array) -> tuple[Array, Array] | None:
    """Returns what a batch says of the mean frame [h, w, c] and of the variance [], or None without
    statistics.

    Args:
      params: parameters before the update.
      frames: [B, h, w, c]; uint8 is divided by 255 as in `stack_history`.
    """
    if not has_statistics(params):
        return None
    pixels = frames.astype(jnp.float32) * (1 / 255 if frames.dtype == jnp.uint8 else 1.0)
    return jnp.mean(pixels, axis=0), jnp.mean(
        jnp.square(pixels - params.representation[MODULE]["mean"])
    )


def tracked(
    params: Params, before: Params, batch: tuple[Array, Array] | None, num_updates: Array
) -> Params:
    """Returns `params` with the statistics of `before` moved towards those of a batch, whatever the
    step did to them.

    Args:
      params: parameters after the optimiser's step.
      before: parameters before it.
      batch: from `moments`, averaged over devices.
      num_updates: [] updates made before this one.
    """
    if batch is None:
        return params
    old, (mean, variance) = before.representation[MODULE], batch
    rate = jnp.maximum(1 / (num_updates + 1.0), RATE)
    # The first batch is compared with a mean of zero: its own variance is what lies around its
    # mean.
    first_variance = jnp.mean(variance - jnp.square(mean - old["mean"]))
    variance = jnp.where(num_updates == 0, first_variance, variance)
    new = {
        "mean": old["mean"] + rate * (mean - old["mean"]),
        "variance": old["variance"] + rate * (variance - old["variance"]),
    }
    return params._replace(representation={**params.representation, MODULE: new})


def copied(source: Params, params: Params) -> Params:
    """Returns `params` with the statistics of `source`, if it has any."""
    if not has_statistics(source):
        return params
    return params._replace(
        representation={**params.representation, MODULE: source.representation[MODULE]}
    )
