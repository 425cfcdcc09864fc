"""Ring of past prediction heads: the stored policies and value functions of the past-policy loss."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from muzero.types import Array, Tree


class ValueBuffer(NamedTuple):
    """M slots of prediction-head parameters; slot contents are meaningless where `push_update` is −1."""

    head_params: Tree  # every leaf [M, ...]
    push_update: Array  # [M] int32, number of updates behind the head, −1 where empty
    num_pushed: Array  # [] int32, heads pushed so far


def init(head_params: Tree, size: int) -> ValueBuffer:
    """Returns an empty buffer of `size` slots shaped like `head_params`."""
    return ValueBuffer(
        head_params=jax.tree.map(lambda x: jnp.zeros((size, *x.shape), x.dtype), head_params),
        push_update=jnp.full((size,), -1, jnp.int32),
        num_pushed=jnp.zeros((), jnp.int32),
    )


def push(buffer: ValueBuffer, head_params: Tree, num_updates: Array | int = 0) -> ValueBuffer:
    """Returns the buffer with `head_params` in place of its oldest entry.

    Args:
      buffer: the ring.
      head_params: parameters of one prediction head.
      num_updates: updates behind that head, kept for its age.
    """
    slot = buffer.num_pushed % buffer.push_update.shape[0]
    return ValueBuffer(
        head_params=jax.tree.map(lambda ring, x: ring.at[slot].set(x), buffer.head_params, head_params),
        push_update=buffer.push_update.at[slot].set(num_updates),
        num_pushed=buffer.num_pushed + 1,
    )


def num_filled(buffer: ValueBuffer) -> Array:
    """Returns how many slots hold a head, [] int32."""
    return jnp.minimum(buffer.num_pushed, buffer.push_update.shape[0])


def newest_and_oldest(buffer: ValueBuffer) -> tuple[Array, Array]:
    """Returns the slots, [] each, of the head pushed last and of the one replaced next; meaningless while empty."""
    size = buffer.push_update.shape[0]
    return (buffer.num_pushed - 1) % size, jnp.where(buffer.num_pushed > size, buffer.num_pushed % size, 0)


def filled_mask(buffer: ValueBuffer) -> Array:
    """Returns [M] float32, 1 where a slot holds a head."""
    return (buffer.push_update >= 0).astype(jnp.float32)


def without_newer(buffer: ValueBuffer, push_update: Array) -> ValueBuffer:
    """Returns the buffer with the slots as empty that have been pushed into since `push_update` [M] was read."""
    return buffer._replace(push_update=jnp.where(buffer.push_update == push_update, push_update, -1))


def over_heads(fn: Callable[..., Tree], buffer: ValueBuffer, chunk_size: int, *rows: Tree) -> Tree:
    """Returns `fn(head_params, *rows)` of every slot, each leaf [M, ...], exactly 0 where a slot is empty.

    All M slots are always evaluated, `chunk_size` at a time as one batched product, so that nothing is
    recompiled while the buffer fills and the logits of all heads never exist at once; the backward
    pass recomputes a chunk.  A single chunk is kept: what it takes has been granted.
    Stored heads are frozen: no gradient reaches them.  Of `rows`, each leaf [M, ...], a slot gets its own.
    """
    slots = jax.lax.stop_gradient(buffer.head_params), filled_mask(buffer), rows

    def masked(slot):
        head_params, keep, row = slot
        return jax.tree.map(lambda x: jnp.where(keep > 0, x, jnp.zeros_like(x)), fn(head_params, *row))

    if buffer.push_update.shape[0] <= chunk_size:
        return jax.vmap(masked)(slots)
    return jax.lax.map(jax.checkpoint(masked), slots, batch_size=chunk_size)


def mean_over_filled(rows: Tree, buffer: ValueBuffer) -> Tree:
    """Returns the means over the filled slots of what `over_heads` returned, exactly 0 with none."""
    count = jnp.maximum(jnp.sum(filled_mask(buffer)), 1.0)
    return jax.tree.map(lambda x: jnp.sum(x, axis=0) / count, rows)


def mean_over_heads(fn: Callable[..., Tree], buffer: ValueBuffer, chunk_size: int, *rows: Tree) -> Tree:
    """Returns the mean of `fn(head_params, *rows)` over the filled slots, exactly 0 with none."""
    return mean_over_filled(over_heads(fn, buffer, chunk_size, *rows), buffer)
