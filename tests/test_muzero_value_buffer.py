"""Value buffer: ring order, one compilation, constant memory, the mean over the filled heads and its gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference

from muzero import value_buffer

SIZE = 5


def _head(seed):
    rng = np.random.default_rng(seed)
    return {"w": rng.normal(size=(3, 4)).astype(np.float32), "b": rng.normal(size=4).astype(np.float32)}


def _filled(num_pushes, size=SIZE):
    """Returns a buffer and its oracle after that many pushes."""
    buffer, ring = value_buffer.init(_head(0), size), reference.Ring(size)
    for i in range(num_pushes):
        buffer = value_buffer.push(buffer, _head(i), 50 * (i + 1))
        ring.push(_head(i), 50 * (i + 1))
    return buffer, ring


def _outputs(latent):
    """Returns a function of a head: a tree with a scalar and a vector."""

    def fn(head):
        hidden = jnp.tanh(latent @ head["w"] + head["b"])
        return {"loss": jnp.sum(hidden**2), "hidden": hidden}

    return fn


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
    assert int(buffer.num_pushed) == 7 and int(value_buffer.num_filled(buffer)) == 3


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
    assert int(value_buffer.num_filled(buffer)) == len(ring.filled()) == min(num_pushes, SIZE)


def test_init_is_empty_and_keeps_dtypes():
    buffer = value_buffer.init({"a": jnp.ones(2, jnp.bfloat16), "b": jnp.ones((), jnp.int32)}, 4)
    assert buffer.head_params["a"].shape == (4, 2) and buffer.head_params["a"].dtype == jnp.bfloat16
    assert buffer.head_params["b"].shape == (4,) and buffer.head_params["b"].dtype == jnp.int32
    assert buffer.push_update.tolist() == [-1] * 4 and int(value_buffer.num_filled(buffer)) == 0


def test_filling_neither_recompiles_nor_grows():
    traces = []

    @jax.jit
    def update(buffer, head, num_updates, latent):
        traces.append(None)
        buffer = value_buffer.push(buffer, head, num_updates)
        loss = lambda x: value_buffer.mean_over_heads(_outputs(x), buffer, 2)["loss"]
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
def test_mean_over_heads_equals_a_loop_over_the_filled_heads(num_pushes, chunk_size):
    buffer, ring = _filled(num_pushes)
    latent = jnp.asarray([0.3, -0.2, 0.9])
    mean = value_buffer.mean_over_heads(_outputs(latent), buffer, chunk_size)
    rows = [_outputs(latent)(head) for _, head, _ in ring.filled()]
    for name, result in mean.items():
        expected = np.mean([np.asarray(row[name], np.float64) for row in rows], axis=0) if rows else 0.0
        np.testing.assert_allclose(result, expected, rtol=1e-5, atol=1e-6)


def test_empty_buffer_gives_exactly_zero_and_no_gradient():
    buffer, _ = _filled(0)
    never_zero = lambda x: value_buffer.mean_over_heads(lambda head: jnp.sum(jnp.cosh(x) + head["b"]), buffer, 2)
    value, gradient = jax.value_and_grad(never_zero)(jnp.ones(4))
    assert float(value) == 0.0 and gradient.tolist() == [0.0] * 4
    infinite = value_buffer.mean_over_heads(lambda head: jnp.sum(1.0 / head["b"]), buffer, 2)
    assert float(infinite) == 0.0


@pytest.mark.parametrize("chunk_size", [1, 2, SIZE])
def test_stale_slots_do_not_count(chunk_size):
    buffer, _ = _filled(2)
    poisoned = jax.tree.map(lambda x: x.at[2:].set(jnp.nan), buffer.head_params)
    latent = jnp.ones(3)
    clean = value_buffer.mean_over_heads(_outputs(latent), buffer, chunk_size)
    dirty = value_buffer.mean_over_heads(_outputs(latent), buffer._replace(head_params=poisoned), chunk_size)
    jax.tree.map(np.testing.assert_array_equal, clean, dirty)


@pytest.mark.parametrize("chunk_size", [1, 2, SIZE])
def test_gradient_is_zero_into_heads_and_right_into_the_rest(chunk_size):
    buffer, ring = _filled(3)

    def loss(head_params, latent):
        return value_buffer.mean_over_heads(_outputs(latent), buffer._replace(head_params=head_params), chunk_size)[
            "loss"
        ]

    def loop(latent):
        return sum(_outputs(latent)(head)["loss"] for _, head, _ in ring.filled()) / 3

    latent = jnp.asarray([0.3, -0.2, 0.9])
    into_heads, into_latent = jax.grad(loss, argnums=(0, 1))(buffer.head_params, latent)
    assert all(np.all(np.asarray(leaf) == 0.0) for leaf in jax.tree.leaves(into_heads))
    expected = jax.grad(loop)(latent)
    assert np.all(np.abs(expected) > 1e-3)
    np.testing.assert_allclose(into_latent, expected, rtol=1e-5)


def test_a_smaller_chunk_needs_less_memory_and_gives_the_same_gradient():
    size = 32
    buffer, _ = _filled(size, size)
    latents = jax.random.normal(jax.random.key(0), (2_000, 3))  # 2,000 × 4 activations a head

    def compiled(chunk_size):
        fn = lambda head, x: jnp.mean(jax.vmap(lambda row: _outputs(row)(head)["loss"])(x))
        loss = lambda x, ring: value_buffer.mean_over_heads(lambda head: fn(head, x), ring, chunk_size)
        return jax.jit(jax.grad(loss)).lower(latents, buffer).compile()

    small, whole = compiled(2), compiled(size)
    memory = [program.memory_analysis().temp_size_in_bytes for program in (small, whole)]
    assert memory[0] < memory[1] / 4, memory
    np.testing.assert_allclose(small(latents, buffer), whole(latents, buffer), rtol=1e-4, atol=1e-9)
