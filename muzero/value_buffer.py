"""Ring of past prediction heads: the policies and value functions of the past-policy loss."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from muzero.types import Array, PyTree


class ValueBuffer(NamedTuple):
    """M slots of head parameters; their contents mean nothing where `push_update` is −1."""

    head_params: PyTree  # every leaf [M, ...]
    push_update: Array  # [M] int32, number of updates behind the head, −1 where empty
    num_pushed: Array  # [] int32, heads pushed so far


def init(head_params: PyTree, size: int) -> ValueBuffer:
    """Returns an empty buffer of `size` slots shaped like `head_params`."""
    return ValueBuffer(
        head_params=jax.tree.map(lambda x: jnp.zeros((size, *x.shape), x.dtype), head_params),
        push_update=jnp.full((size,), -1, jnp.int32),
        num_pushed=jnp.zeros((), jnp.int32),
    )


def push(buffer: ValueBuffer, head_params: PyTree, num_updates: Array | int) -> ValueBuffer:
    """Returns the buffer with `head_params` in place of its oldest entry.

    Args:
      buffer: the ring.
      head_params: parameters of one prediction head.
      num_updates: updates behind that head, kept for its age.
    """
    slot = buffer.num_pushed % buffer.push_update.shape[0]
    return ValueBuffer(
        head_params=jax.tree.map(
            lambda ring, x: ring.at[slot].set(x),
            buffer.head_params,
            head_params,
        ),
        push_update=buffer.push_update.at[slot].set(num_updates),
        num_pushed=buffer.num_pushed + 1,
    )


def newest_and_oldest(buffer: ValueBuffer) -> tuple[Array, Array]:
    """Returns the slots, [] each, of the head pushed last and of the one replaced next.

    They mean nothing while the buffer is empty.
    """
    size = buffer.push_update.shape[0]
    oldest = jnp.where(buffer.num_pushed > size, buffer.num_pushed % size, 0)
    return (buffer.num_pushed - 1) % size, oldest


def filled_mask(buffer: ValueBuffer) -> Array:
    """Returns [M] float32, 1 where a slot holds a head."""
    return (buffer.push_update >= 0).astype(jnp.float32)


def unchanged_mask(buffer: ValueBuffer, push_update: Array) -> Array:
    """Returns [M] float32, 1 where a slot holds the head of when `push_update` [M] was read."""
    return filled_mask(buffer) * (buffer.push_update == push_update)


def over_heads(fn: Callable[[PyTree], PyTree], buffer: ValueBuffer, chunk_size: int) -> PyTree:
    """Returns `fn(head_params)` of every slot, each leaf [M, ...], without gradient.

    It is exactly 0 where a slot is empty.

    All M slots are always evaluated, `chunk_size` at a time as one batched product, so that nothing
    is recompiled while the buffer fills and the logits of all heads never exist at once.
    """

    def one_head(slot: tuple[PyTree, Array]) -> PyTree:
        head_params, is_filled = slot
        return _zero_unless(is_filled, fn(_zero_unless(is_filled, head_params)))

    slots = buffer.head_params, filled_mask(buffer)
    return jax.lax.stop_gradient(jax.lax.map(one_head, slots, batch_size=chunk_size))


def mean_over_filled(rows: PyTree, buffer: ValueBuffer) -> PyTree:
    """Returns the means of what `over_heads` returned over the filled slots, 0 with none."""
    return jax.tree.map(lambda x: jnp.sum(x, axis=0) / _count(filled_mask(buffer)), rows)


def mean_loss_over_heads(
    loss_fn: Callable[..., tuple[Array, PyTree]],
    buffer: ValueBuffer,
    mask: Array,
    chunk_size: int,
    x: Array,
    *rows: PyTree,
) -> tuple[Array, PyTree]:
    """Returns the means over some slots of a loss and of its auxiliary output, exactly 0 with none.

    The gradient with respect to `x` is summed up chunk by chunk in the forward pass: the backward
    pass computes no head a second time, and the logits of more than one chunk never exist.  Stored
    heads are frozen: no gradient reaches them, nor `rows`.

    Args:
      loss_fn: (head_params, x, *row) → (loss [], auxiliary output, which has no gradient).
      buffer: the ring of heads; all M slots are always evaluated.
      mask: [M], 1 for the heads that count, 0 at least where a slot is empty. Only what comes out
        is masked with it: it may differ between the sequences of a batch, and their heads stay the
        same arrays.
      chunk_size: heads evaluated at a time; the last ones are fewer if it does not divide M.
      x: what the heads are asked about.
      rows: of each leaf [M, ...] a slot gets its own.
    """
    slots = jax.lax.stop_gradient((buffer.head_params, filled_mask(buffer), mask, rows))
    num_slots = buffer.push_update.shape[0]
    size = min(chunk_size, num_slots)
    num_whole = num_slots // size * size
    chunks = jax.tree.map(lambda leaf: leaf[:num_whole].reshape(-1, size, *leaf.shape[1:]), slots)

    def chunk_loss(x, *chunk):
        def one_head(head_params, is_filled, counts, row):
            return _zero_unless(counts, loss_fn(_zero_unless(is_filled, head_params), x, *row))

        return jax.tree.map(lambda losses: jnp.sum(losses, axis=0), jax.vmap(one_head)(*chunk))

    def add(gradient, chunk):
        sums, more = jax.value_and_grad(chunk_loss, has_aux=True)(fixed, *chunk)
        return gradient + more, sums

    fixed = jax.lax.stop_gradient(x)
    gradient, parts = jax.lax.scan(add, jnp.zeros_like(x), chunks)
    sums = jax.tree.map(lambda part: jnp.sum(part, axis=0), parts)
    if num_whole < num_slots:
        gradient, rest = add(gradient, jax.tree.map(lambda leaf: leaf[num_whole:], slots))
        sums = jax.tree.map(jnp.add, sums, rest)
    loss, aux = jax.lax.stop_gradient(jax.tree.map(lambda total: total / _count(mask), sums))
    slope = jax.lax.stop_gradient(gradient / _count(mask))
    return loss + jnp.sum(slope * (x - fixed)), aux  # the last sum is 0, its gradient is `slope`


def _count(mask: Array) -> Array:
    return jnp.maximum(jnp.sum(mask), 1.0)


def _zero_unless(keep: Array, tree: PyTree) -> PyTree:
    """Returns `tree` if `keep` [] is not 0, else zeros: an empty slot is not looked at."""
    return jax.tree.map(lambda x: jnp.where(keep > 0, x, jnp.zeros_like(x)), tree)
