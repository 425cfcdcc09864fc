"""Stacked observations, rebuilt on the device from single frames.

frames    o_{t-H+1} … o_{t-1}  o_t        H frames
actions     a_{t-H+1} … a_{t-1}           H − 1 actions, each between its two frames
"""

import jax
import jax.numpy as jnp

from muzero.types import Array, Trajectory


def stack_shape(observation_shape: tuple[int, ...], history_length: int) -> tuple[int, ...]:
    """Returns the shape of a stack: H frames and H − 1 action planes on the last axis."""
    *grid, channels = observation_shape
    return (*grid, history_length * channels + history_length - 1)


def stack_history(frames: Array, actions: Array, is_first: Array, num_actions: int) -> Array:
    """Returns the network's input for the last of H states, zeroed before the latest reset.

    Args:
      frames: [H, ..., c]; uint8 is divided by 255, anything else is cast to float32.
      actions: [H-1] int32, taken in the first H − 1 states; one plane (a + 1) / A each.
      is_first: [H] bool.
      num_actions: A.
    """
    length = frames.shape[0]
    # A frame is kept if no reset lies after it: resets at s + 1, …, t.
    resets_after = jnp.cumsum(is_first[::-1].astype(jnp.int32))[::-1] - is_first.astype(jnp.int32)
    keep = (resets_after == 0).astype(jnp.float32)
    scale = 1 / 255 if frames.dtype == jnp.uint8 else 1.0
    masked = frames.astype(jnp.float32) * scale * keep.reshape(-1, *[1] * (frames.ndim - 1))
    grid = frames.shape[1:-1]
    planes = jnp.broadcast_to(
        ((actions + 1) / num_actions * keep[:-1]).reshape(-1, *[1] * len(grid)), (length - 1, *grid)
    )
    stacked = jnp.moveaxis(masked, 0, -2).reshape(*grid, -1)
    return jnp.concatenate([stacked, jnp.moveaxis(planes, 0, -1)], axis=-1)


def stack_trajectory(trajectory: Trajectory, num_actions: int, states: Array) -> Array:
    """Returns the stacked observations [S, ...] of these states [S] of one sequence."""
    history = trajectory.history_is_first.shape[0]
    frames = jnp.concatenate([trajectory.history_observation, trajectory.observation])
    actions = jnp.concatenate([trajectory.history_action, trajectory.action])
    is_first = jnp.concatenate([trajectory.history_is_first, trajectory.is_first])

    def stack(t: Array) -> Array:
        return stack_history(
            jax.lax.dynamic_slice_in_dim(frames, t, history + 1),
            jax.lax.dynamic_slice_in_dim(actions, t, history),
            jax.lax.dynamic_slice_in_dim(is_first, t, history + 1),
            num_actions,
        )

    return jax.vmap(stack)(states)
