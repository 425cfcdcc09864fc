"""Value buffer: ring order, one compilation, constant memory, the mean over the filled heads and
its gradients.
"""

import jax
import jax.extend.core
import jax.numpy as jnp
import numpy as np
import pytest

from muzero import value_buffer
from tests import reference

SIZE = 5


def _head(seed):
    rng = np.random.default_rng(seed)
    return {
        "w": rng.normal(size=(3, 4)).astype(np.float32),
        "b": rng.normal(size=4).astype(np.float32),
    }


def _filled(num_pushes, size=SIZE):
    """Returns a buffer and its oracle after that many pushes."""
    buffer, ring = value_buffer.init(_head(0), size), reference.Ring(size)
    for i in range(num_pushes):
        buffer = value_buffer.push(buffer, _head(i), 50 * (i + 1))
        ring.push(_head(i), 50 * (i + 1))
    return buffer, ring


def _loss(head, latent):
    """Returns a scalar and a vector."""
    hidden = jnp.tanh(latent @ head["w"] + head["b"])
    return jnp.sum(hidden**2), hidden


def test_ring_order_is_literal():
    buffer = value_buffer.init({"w": jnp.zeros(())}, 3)
    expected = [
        [10.0, 0.0, 0.0],
        [10.0, 11.0, 0.0],
        [10.0, 11.0, 12.0],
        [13.0, 11.0, 12.0],
        [13.0, 14.0, 12.0],
        [13.0, 14.0, 15.0],
        [16.0, 14.0, 15.0],
    ]
    for i, slots in enumerate(expected):
        buffer = value_buffer.push(buffer, {"w": jnp.asarray(10.0 + i)}, 50 * (i + 1))
        assert buffer.head_params["w"].tolist() == slots
    assert buffer.push_update.tolist() == [350, 250, 300]
    assert int(buffer.num_pushed) == 7


@pytest.mark.parametrize("num_pushes", [0, 1, SIZE - 1, SIZE, SIZE + 1, 2 * SIZE, 3 * SIZE + 2])
def test_contents_equal_the_oracle(num_pushes):
    buffer, ring = _filled(num_pushes)
    slots, update = np.zeros((SIZE, 3, 4)), np.full(SIZE, -1)
    for slot, head, num_updates in ring.filled():
        slots[slot], update[slot] = head["w"], num_updates
    filled = update >= 0
    np.testing.assert_array_equal(buffer.head_params["w"][filled], slots[filled])
    np.testing.assert_array_equal(buffer.push_update, update)
    np.testing.assert_array_equal(value_buffer.filled_mask(buffer), filled)
    assert len(ring.filled()) == min(num_pushes, SIZE)


def test_init_is_empty_and_keeps_dtypes():
    buffer = value_buffer.init({"a": jnp.ones(2, jnp.bfloat16), "b": jnp.ones((), jnp.int32)}, 4)
    assert buffer.head_params["a"].shape == (4, 2) and buffer.head_params["a"].dtype == jnp.bfloat16
    assert buffer.head_params["b"].shape == (4,) and buffer.head_params["b"].dtype == jnp.int32
    assert buffer.push_update.tolist() == [-1] * 4


def test_filling_neither_recompiles_nor_grows():
    traces = []

    @jax.jit
    def update(buffer, head, num_updates, latent):
        traces.append(None)
        buffer = value_buffer.push(buffer, head, num_updates)

        def loss(x):
            return value_buffer.mean_loss_over_heads(
                _loss, buffer, value_buffer.filled_mask(buffer), 2, x
            )[0]

        return buffer, jax.grad(loss)(latent)

    def layout(tree):
        return [(x.shape, x.dtype) for x in jax.tree.leaves(tree)]

    buffer = value_buffer.init(_head(0), SIZE)
    before = layout(buffer)
    for i in range(2 * SIZE + 1):
        buffer, gradient = update(buffer, _head(i), 50 * (i + 1), jnp.ones(3))
        assert layout(buffer) == before
    assert len(traces) == 1 and update._cache_size() == 1
    assert np.all(np.isfinite(gradient)) and int(buffer.num_pushed) == 2 * SIZE + 1


@pytest.mark.parametrize("chunk_size", [1, 2, 3, SIZE, SIZE + 3])
@pytest.mark.parametrize("num_pushes", [*range(SIZE + 1), SIZE + 2])
def test_means_equal_a_loop_over_the_filled_heads(num_pushes, chunk_size):
    buffer, ring = _filled(num_pushes)
    latent = jnp.asarray([0.3, -0.2, 0.9])
    means = value_buffer.mean_loss_over_heads(
        _loss, buffer, value_buffer.filled_mask(buffer), chunk_size, latent
    )
    each = value_buffer.over_heads(lambda head: _loss(head, latent), buffer, chunk_size)
    rows = [_loss(head, latent) for _, head, _ in ring.filled()]
    for n, mean in enumerate(means):
        expected = (
            np.mean([np.asarray(row[n], np.float64) for row in rows], axis=0) if rows else 0.0
        )
        np.testing.assert_allclose(mean, expected, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(
            value_buffer.mean_over_filled(each, buffer)[n], expected, rtol=1e-5, atol=1e-6
        )


def test_empty_buffer_gives_exactly_zero_and_no_gradient():
    buffer, _ = _filled(0)
    mask = value_buffer.filled_mask(buffer)

    def never_zero(x):
        return value_buffer.mean_loss_over_heads(
            lambda head, x: (jnp.sum(jnp.cosh(x) + head["b"]), ()), buffer, mask, 2, x
        )[0]

    value, gradient = jax.value_and_grad(never_zero)(jnp.ones(4))
    assert float(value) == 0.0 and gradient.tolist() == [0.0] * 4
    infinite = value_buffer.over_heads(lambda head: jnp.sum(1.0 / head["b"]), buffer, 2)
    assert infinite.tolist() == [0.0] * SIZE


@pytest.mark.parametrize("chunk_size", [1, 2, SIZE])
def test_stale_slots_do_not_count(chunk_size):
    buffer, _ = _filled(2)
    poisoned = jax.tree.map(lambda x: x.at[2:].set(jnp.nan), buffer.head_params)

    def mean(x, head_params):
        return value_buffer.mean_loss_over_heads(
            _loss,
            buffer._replace(head_params=head_params),
            value_buffer.filled_mask(buffer),
            chunk_size,
            x,
        )

    results = [
        jax.value_and_grad(mean, has_aux=True)(jnp.ones(3), heads)
        for heads in (buffer.head_params, poisoned)
    ]
    jax.tree.map(np.testing.assert_array_equal, *results)


@pytest.mark.parametrize("chunk_size", [1, 2, 4, SIZE])
def test_gradient_is_zero_into_heads_and_right_into_what_they_are_asked(chunk_size):
    buffer, ring = _filled(3)

    def loss(head_params, latent):
        stored = buffer._replace(head_params=head_params)
        return value_buffer.mean_loss_over_heads(
            _loss, stored, value_buffer.filled_mask(stored), chunk_size, latent
        )[0]

    latent = jnp.asarray([0.3, -0.2, 0.9])
    into_heads, into_latent = jax.grad(loss, argnums=(0, 1))(buffer.head_params, latent)
    assert all(np.all(np.asarray(leaf) == 0.0) for leaf in jax.tree.leaves(into_heads))
    expected = jax.grad(lambda x: sum(_loss(head, x)[0] for _, head, _ in ring.filled()) / 3)(
        latent
    )
    assert np.all(np.abs(expected) > 1e-3)
    np.testing.assert_allclose(into_latent, expected, rtol=1e-5)


def test_every_slot_gets_its_own_row_and_rows_get_no_gradient():
    buffer, ring = _filled(3)
    rows, mask = jnp.arange(1.0, SIZE + 1), value_buffer.filled_mask(buffer)

    def loss(rows):
        return value_buffer.mean_loss_over_heads(
            lambda head, x, row: (row * _loss(head, x)[0], row), buffer, mask, 2, jnp.ones(3), rows
        )

    expected = sum((slot + 1) * _loss(head, jnp.ones(3))[0] for slot, head, _ in ring.filled()) / 3
    value, mean_row = loss(rows)
    np.testing.assert_allclose([value, mean_row], [expected, 2.0], rtol=1e-5)
    assert jax.grad(lambda rows: loss(rows)[0])(rows).tolist() == [0.0] * SIZE


def _gradient_program(chunk_size, size=32):
    """Returns the compiled gradient of a loss with 2,000 × 4 activations a head,
    and its arguments.
    """
    buffer, _ = _filled(size, size)
    latents = jax.random.normal(jax.random.key(0), (2_000, 3))

    def batch_loss(head, x):
        return (jnp.mean(jax.vmap(lambda row: _loss(head, row)[0])(x)), ())

    mask = value_buffer.filled_mask(buffer)

    def loss(x, ring):
        return value_buffer.mean_loss_over_heads(batch_loss, ring, mask, chunk_size, x)[0]

    return jax.jit(jax.grad(loss)).lower(latents, buffer).compile(), (latents, buffer)


def test_a_smaller_chunk_needs_less_memory_and_gives_the_same_gradient():
    (small, arguments), (whole, _) = _gradient_program(2), _gradient_program(32)
    memory = [program.memory_analysis().temp_size_in_bytes for program in (small, whole)]
    assert memory[0] < memory[1] / 4, memory
    np.testing.assert_allclose(small(*arguments), whole(*arguments), rtol=1e-4, atol=1e-9)


@pytest.mark.parametrize("chunk_size", [2, 32])
def test_no_head_is_computed_twice(chunk_size):
    program, _ = _gradient_program(chunk_size)
    tanhs = [line for line in program.as_text().splitlines() if " tanh(" in line]
    assert len(tanhs) == 1, tanhs


def test_a_chunk_that_does_not_divide_the_buffer_is_not_made_smaller():
    buffer, _ = _filled(SIZE)

    def loss(x):
        return value_buffer.mean_loss_over_heads(
            _loss, buffer, value_buffer.filled_mask(buffer), 3, x
        )[0]

    lengths = [
        eqn.params["length"]
        for eqn in jax.make_jaxpr(loss)(jnp.ones(3)).eqns
        if eqn.primitive.name == "scan"
    ]
    assert SIZE == 5 and lengths == [1], "one chunk of 3 heads, then the other 2"


def test_a_mask_leaves_heads_out_and_only_its_own():
    buffer, ring = _filled(3)
    latent = jnp.asarray([0.3, -0.2, 0.9])

    def loss(x, mask):
        return value_buffer.mean_loss_over_heads(_loss, buffer, mask, 2, x)[0]

    value, gradient = jax.value_and_grad(loss)(latent, jnp.asarray([1.0, 0.0, 1.0, 0.0, 0.0]))

    def of_two(x):
        return sum(_loss(head, x)[0] for slot, head, _ in ring.filled() if slot != 1) / 2

    expected, slope = jax.value_and_grad(of_two)(latent)
    np.testing.assert_allclose([value, *gradient], [expected, *slope], rtol=1e-5)
    assert float(loss(latent, jnp.zeros(SIZE))) == 0.0


def test_the_heads_of_a_batch_are_the_same_arrays_whatever_their_masks():
    """Masked themselves, they would become a copy a sequence, and one large product of the batch
    many small ones.
    """
    buffer, _ = _filled(SIZE)

    def loss(x, mask):
        return value_buffer.mean_loss_over_heads(_loss, buffer, mask, 2, x)[0]

    masks, latents = jnp.ones((7, SIZE)).at[3, 1].set(0.0), jnp.ones((7, 3))
    jaxpr = jax.make_jaxpr(jax.vmap(jax.grad(loss)))(latents, masks)
    weights = [shape for shape in _shapes(jaxpr.jaxpr) if shape[-2:] == _head(0)["w"].shape]
    assert weights and not [shape for shape in weights if 7 in shape], weights


def _shapes(jaxpr):
    """Yields the shapes of everything that a program computes, inner programs included."""
    for eqn in jaxpr.eqns:
        yield from (out.aval.shape for out in eqn.outvars)
        for inner in jax.extend.core.jaxprs_in_params(eqn.params):
            yield from _shapes(inner)
