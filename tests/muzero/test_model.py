"""Networks and model: the paper's size, shapes, ranges, zero heads, and the alignment and gradient
of an unroll.
"""

import functools

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs.schema import NetworkConfig
from muzero import model as models
from muzero import networks
from muzero.model import Model, halve_gradient, unroll
from muzero.types import Params
from tests import reference, tiny

pytestmark = pytest.mark.usefixtures("quick_compilation")

PAPER = dict(
    stack_shape=(96, 96, 63),  # 32 grey frames and 31 actions
    history_length=32,
    num_actions=18,
    num_bins=601,
    latent="planes",
    encoder="muzero",
    num_channels=256,
    num_blocks=16,
    head_channels=16,
    latent_size=128,
    hidden_size=128,
)
SMALL = PAPER | dict(
    stack_shape=(32, 32, 5),
    history_length=1,
    num_actions=3,
    num_bins=7,
    num_channels=8,
    num_blocks=1,
    latent_size=6,
    hidden_size=5,
)


def _count(tree):
    return sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(tree))


def make_model(*, stack_shape, num_actions, num_bins, **network):
    """Returns the model of these shapes and fields of `NetworkConfig`."""
    sizes = dict(stack_shape=stack_shape, num_actions=num_actions, num_bins=num_bins)
    return models.make_model(NetworkConfig(**network), **sizes)


def _init_shapes(settings):
    return jax.eval_shape(make_model(**settings).init, jax.random.key(0))


def _random(tree, seed=0, scale=1.0):
    """Returns `tree` with every leaf normal: heads start at zero otherwise."""
    leaves, structure = jax.tree.flatten(tree)
    rng = np.random.default_rng(seed)
    return structure.unflatten(
        [jnp.asarray(scale * rng.normal(size=x.shape), jnp.float32) for x in leaves]
    )


def _float(*shape):
    return jax.ShapeDtypeStruct(shape, jnp.float32)


# --- Size and shapes


def test_the_papers_network_has_its_size():
    params = _init_shapes(PAPER)
    block = 2 * (3 * 3 * 256 * 256) + 2 * 2 * 256
    stem = 3 * 3 * 63 * 128 + 2 * (2 * 3 * 3 * 128 * 128 + 2 * 2 * 128) + 3 * 3 * 128 * 256

    def head(size):
        return 256 * 16 + 2 * 16 + 6 * 6 * 16 * size + size

    assert _count(params.representation) == stem + (3 + 3 + 16) * block == 26_933_120
    assert (
        _count(params.dynamics) == 3 * 3 * (256 + 18) * 256 + 16 * block + head(601) == 19_872_953
    )
    assert _count(params.prediction) == head(601) + head(18) == 365_419
    assert _count(params) == 47_171_492
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(params))


def test_the_papers_network_maps_96_pixels_to_6_by_6_planes():
    model, params = make_model(**PAPER), _init_shapes(PAPER)
    latent = jax.eval_shape(model.represent, params.representation, _float(96, 96, 63))
    assert latent.shape == (6, 6, 256)
    action = jax.ShapeDtypeStruct((), jnp.int32)
    next_latent, reward_logits = jax.eval_shape(model.step, params.dynamics, latent, action)
    assert next_latent.shape == (6, 6, 256) and reward_logits.shape == (601,)
    policy_logits, value_logits = jax.eval_shape(model.predict, params.prediction, latent)
    assert policy_logits.shape == (18,) and value_logits.shape == (601,)


@pytest.mark.parametrize(
    "stack_shape, latent, encoder, expected",
    [
        ((32, 32, 5), "planes", "muzero", (2, 2, 8)),
        ((80, 80, 7), "planes", "light", (10, 10, 8)),
        ((84, 84, 7), "planes", "light", (11, 11, 8)),  # padded, as 84 is no multiple of 8
        ((10, 10, 4), "planes", "light", (10, 10, 8)),  # small grids keep their pixels
        ((80, 80, 7), "vector", "light", (6,)),
        ((32, 32, 5), "vector", "muzero", (6,)),
        ((4,), "vector", "light", (6,)),
        ((4,), "planes", "muzero", (6,)),  # nothing to convolve: falls back
    ],
)
def test_latents_follow_the_observation(stack_shape, latent, encoder, expected):
    settings = SMALL | dict(stack_shape=stack_shape, latent=latent, encoder=encoder)
    model, params = make_model(**settings), _init_shapes(settings)
    root = jax.eval_shape(model.represent, params.representation, _float(*stack_shape))
    next_latent, reward_logits = jax.eval_shape(
        model.step, params.dynamics, root, jax.ShapeDtypeStruct((), jnp.int32)
    )
    policy_logits, value_logits = jax.eval_shape(model.predict, params.prediction, root)
    assert root.shape == next_latent.shape == expected
    assert (policy_logits.shape, value_logits.shape, reward_logits.shape) == ((3,), (7,), (7,))


def test_vector_latents_read_action_planes_as_one_hot_actions():
    settings = SMALL | dict(
        stack_shape=(32, 32, 5), latent="vector", encoder="muzero", history_length=3
    )
    model, shapes = make_model(**settings), _init_shapes(settings)
    without = _init_shapes(settings | {"stack_shape": (32, 32, 3), "history_length": 1})
    # Two of three actions, five units
    assert _count(shapes.representation) == _count(without.representation) + 2 * 3 * 5
    params = _random(shapes).representation
    stack = jnp.zeros((32, 32, 5))
    none, *latents = [
        model.represent(params, stack.at[..., 4].set(number / 3)) for number in range(4)
    ]
    assert all(float(jnp.max(jnp.abs(latent - none))) > 1e-3 for latent in latents)
    rounded = model.represent(params, stack.at[..., 4].set(jnp.float32(2 / 3) - 1e-4))
    np.testing.assert_array_equal(rounded, latents[1])


# --- Values


def _small_settings(kind):
    shape = {"planes": (6, 6, 3), "vector": (4,)}[kind]
    return SMALL | dict(stack_shape=shape, encoder="light")


@functools.cache
def _small(kind):
    """Returns (settings, initial parameters, jitted outputs of a stack and an action)."""
    settings = _small_settings(kind)
    model = make_model(**settings)

    @jax.jit
    def outputs(params, stack, action):
        root = model.represent(params.representation, stack)
        next_latent, reward_logits = model.step(params.dynamics, root, action)
        return root, next_latent, reward_logits, *model.predict(params.prediction, next_latent)

    return settings, jax.jit(model.init)(jax.random.key(0)), outputs


@pytest.mark.parametrize("kind", ["planes", "vector"])
def test_latents_fill_the_unit_interval_and_heads_start_at_exactly_zero(kind):
    settings, params, outputs = _small(kind)
    stacks = 100.0 * np.random.default_rng(0).normal(size=(4, *settings["stack_shape"])).astype(
        np.float32
    )
    for action, stack in enumerate(stacks):
        root, next_latent, *logits = outputs(params, stack, action % 3)
        for latent in (root, next_latent):
            assert float(latent.min()) == 0.0 and float(latent.max()) == pytest.approx(
                1.0, abs=1e-6
            )
        assert not np.array_equal(root, next_latent)
        assert [np.count_nonzero(x) for x in logits] == [0, 0, 0]


@pytest.mark.parametrize("kind", ["planes", "vector"])
def test_outputs_depend_on_stack_and_action_once_trained(kind):
    settings, params, outputs = _small(kind)
    params = _random(params)
    stacks = np.random.default_rng(1).random((2, *settings["stack_shape"])).astype(np.float32)
    first, other_stack, other_action = (
        outputs(params, stacks[i], a) for i, a in [(0, 0), (1, 0), (0, 1)]
    )
    assert all(not np.allclose(x, y) for x, y in zip(first, other_stack, strict=True))
    assert np.array_equal(first[0], other_action[0])  # the root knows no action
    assert all(not np.allclose(x, y) for x, y in zip(first[1:], other_action[1:], strict=True))


def test_scaling_of_latents_is_literal():
    assert networks.scale_latent(jnp.array([[2.0, 4.0], [3.0, 6.0]])).tolist() == [
        [0.0, 0.5],
        [0.25, 1.0],
    ]
    assert networks.scale_latent(jnp.full(3, 7.0)).tolist() == [0.0, 0.0, 0.0]
    # Below the floor 1e-5: not stretched to 1
    narrow = networks.scale_latent(jnp.array([0.0, 1e-6]))
    np.testing.assert_allclose(narrow, [0.0, 0.1], rtol=1e-5)
    gradient = jax.jit(jax.grad(lambda x: networks.scale_latent(x).sum()))(jnp.full(3, 7.0))
    assert np.all(np.isfinite(gradient))


def _normal(*shape):
    return np.random.default_rng(4).normal(size=shape).astype(np.float32)


def test_a_residual_block_adds_to_its_input():
    block = hk.without_apply_rng(hk.transform(lambda x: networks.ResidualBlock()(x)))
    x = _normal(4, 5, 3)
    params = _random(jax.eval_shape(block.init, jax.random.key(0), x))
    layers = reference.Layers(params)
    expected = x + layers.conv(1, layers.norm_relu(1, layers.conv(0, layers.norm_relu(0, x))))
    np.testing.assert_allclose(jax.jit(block.apply)(params, x), expected, rtol=1e-4, atol=1e-4)


def test_pooling_takes_means():
    x = _normal(6, 4, 2)
    np.testing.assert_allclose(
        networks.average_pool(x), reference.average_pool(x), rtol=1e-5, atol=1e-6
    )


@pytest.mark.parametrize("shape, block", [((8, 12, 3), 4), ((5, 4, 2), 2)])
def test_pixels_of_a_block_become_channels_row_by_row(shape, block):
    x = _normal(*shape)
    np.testing.assert_array_equal(
        networks.space_to_depth(x, block), reference.space_to_depth(x, block)
    )


def _dynamics(kind):
    """Returns (layers, a latent, the next latent and the reward logits for action 1) of a network
    without blocks.
    """
    settings = _small_settings(kind) | dict(num_blocks=0)
    params, latent = (
        _random(_init_shapes(settings).dynamics),
        _normal(*{"planes": (6, 6, 8), "vector": (6,)}[kind]),
    )
    return reference.Layers(params), latent, jax.jit(make_model(**settings).step)(params, latent, 1)


def test_the_dynamics_of_planes_add_a_convolution_of_latent_and_action():
    layers, latent, (next_latent, reward_logits) = _dynamics("planes")
    action = np.tile([0.0, 1.0, 0.0], (6, 6, 1))
    expected = reference.scaled_to_one(
        latent + layers.conv(0, np.concatenate([latent, action], axis=-1))
    )
    np.testing.assert_allclose(next_latent, expected, atol=1e-5)
    head = layers.norm_relu(0, layers.conv(1, expected)).reshape(-1)
    np.testing.assert_allclose(reward_logits, layers.linear(0, head), rtol=1e-4, atol=1e-3)


def test_the_dynamics_of_a_vector_add_what_latent_and_action_say():
    layers, latent, (next_latent, reward_logits) = _dynamics("vector")
    hidden = layers.norm_relu(0, layers.linear(0, np.concatenate([latent, [0.0, 1.0, 0.0]])))
    change = layers.linear(2, layers.norm_relu(1, layers.linear(1, hidden)))
    expected = reference.scaled_to_one(latent + change)
    np.testing.assert_allclose(next_latent, expected, atol=1e-5)
    head = layers.norm_relu(2, layers.linear(4, np.concatenate([hidden, expected])))
    np.testing.assert_allclose(reward_logits, layers.linear(3, head), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", ["planes", "vector"])
def test_policy_and_value_heads_share_no_parameter(kind):
    settings = _small_settings(kind)
    model, params = make_model(**settings), _random(_init_shapes(settings).prediction)
    latent = jnp.asarray(
        np.random.default_rng(0).random((6, 6, 8) if kind == "planes" else 6), jnp.float32
    )

    def sums(p):
        return [jnp.sum(jnp.sin(logits)) for logits in model.predict(p, latent)]

    touched = []
    for gradient in jax.jit(jax.jacrev(sums))(params):
        touched.append([bool(np.any(leaf != 0)) for leaf in jax.tree.leaves(gradient)])
    assert sum(touched[0]) > 2 and [not used for used in touched[0]] == touched[1]


# --- Unroll


def test_an_unroll_is_aligned_with_its_actions():
    """Latents are decimal numbers that spell the actions taken; logits say which latent they come
    from.
    """
    marker = Model(
        init=None,
        represent=lambda params, stack: stack[:1],
        step=lambda params, latent, action: (
            10 * latent + action,
            jnp.stack([latent[0], action.astype(jnp.float32)]),
        ),
        predict=lambda params, latent: (latent + 0.5, latent + 0.25),
    )
    output = unroll(marker, Params(None, None, None), jnp.array([7.0, 99.0]), jnp.array([1, 2, 3]))
    assert output.latent[:, 0].tolist() == [7.0, 71.0, 712.0, 7123.0]
    assert output.reward_logits.tolist() == [[7.0, 1.0], [71.0, 2.0], [712.0, 3.0]]
    assert output.policy_logits[:, 0].tolist() == [7.5, 71.5, 712.5, 7123.5]
    assert output.value_logits[:, 0].tolist() == [7.25, 71.25, 712.25, 7123.25]


def test_half_of_the_gradient_passes():
    value, gradient = jax.value_and_grad(halve_gradient)(3.0)
    assert float(value) == 3.0 and float(gradient) == 0.5


def _linear_model():
    """latent' = w · latent + action, reward = latent', value = latent."""

    def step(w, latent, action):
        return (w * latent + action, w * latent + action)

    return Model(None, lambda scale, stack: scale * stack, step, lambda _, latent: (latent, latent))


def test_gradient_of_a_linear_unroll_is_literal():
    """z⁰ = 2·1, zᵏ = 3 zᵏ⁻¹ + k: 2, 7, 23, 72; every dynamics step halves what flows back through
    it.
    """
    actions = jnp.array([1.0, 2.0, 3.0])

    def predictions(params):
        return unroll(_linear_model(), params, jnp.array([1.0]), actions)

    params = Params(jnp.array(2.0), jnp.array(3.0), None)
    assert predictions(params).value_logits[:, 0].tolist() == [2.0, 7.0, 23.0, 72.0]
    jacobian = jax.jit(jax.jacobian(lambda p: predictions(p)._asdict()))(params)

    def into_root(name):
        return jacobian[name].representation[:, 0].tolist()

    assert into_root("value_logits") == [1.0, 3 / 2, 9 / 4, 27 / 8]
    assert into_root("policy_logits") == [1.0, 3 / 2, 9 / 4, 27 / 8]
    assert into_root("reward_logits") == [3 / 2, 9 / 4, 27 / 8]
    # The parameters of the last step are reached in full, those of the step before it through one
    # half.
    into_dynamics = jacobian["value_logits"].dynamics[:, 0].tolist()
    assert into_dynamics == [0.0, 2.0, 7 + 3 / 2 * 2, 23 + 3 / 2 * (7 + 3 / 2 * 2)]


def _plain_unroll(model, params, stack, actions):
    """Returns the latents of an unroll in a Python loop that halves nothing."""
    latents = [model.represent(params.representation, stack)]
    for action in actions:
        latents.append(model.step(params.dynamics, latents[-1], action)[0])
    return latents


def test_the_representation_gets_two_to_the_minus_k_of_the_gradient():
    params = tiny.MODEL.init(jax.random.key(1))
    stack = np.random.default_rng(2).normal(size=tiny.STACK_SIZE).astype(np.float32)
    actions = np.array([2, 0, 1], np.int32)

    def gradients(latents_of):
        def model(rep):
            return latents_of(tiny.MODEL, params._replace(representation=rep), stack, actions)

        return jax.jit(jax.jacrev(lambda rep: [jnp.sum(jnp.sin(latent)) for latent in model(rep)]))(
            params.representation
        )

    plain, halved = gradients(_plain_unroll), gradients(lambda *args: unroll(*args).latent)
    assert len(plain) == len(halved) == 4
    for k, factor in enumerate([1.0, 0.5, 0.25, 0.125]):
        assert np.abs(plain[k]["w"]).max() > 1e-2
        np.testing.assert_allclose(halved[k]["w"], factor * plain[k]["w"], rtol=1e-4, atol=1e-7)


# --- Memory and types


def _gradient(**changes):
    """Returns outputs of a small network, the gradient of something of all of them, and the types
    of everything.
    """
    settings = SMALL | dict(encoder="light", latent="planes") | changes
    model, shapes = make_model(**settings), _init_shapes(settings)
    params = _random(shapes)
    stack = np.random.default_rng(2).random(SMALL["stack_shape"]).astype(np.float32)

    def loss(params):
        root = model.represent(params.representation, stack)
        latent, reward = model.step(params.dynamics, root, 1)
        outputs = (root, latent, reward, *model.predict(params.prediction, latent))
        return sum(jnp.sum(x**2) for x in outputs), outputs

    gradient, outputs = jax.jit(jax.grad(loss, has_aux=True))(params)
    return outputs, gradient, {x.dtype.name for x in jax.tree.leaves((shapes, outputs, gradient))}


def _largest_difference(tree, other):
    pairs = zip(jax.tree.leaves(tree), jax.tree.leaves(other), strict=True)
    return max(float(jnp.abs(x - y).max() / (jnp.abs(y).max() + 1e-6)) for x, y in pairs)


def test_remat_computes_blocks_again_in_the_backward_pass():
    def num_convolutions(remat):
        settings = SMALL | dict(encoder="muzero", latent="planes", num_blocks=1, remat=remat)
        model, params = make_model(**settings), _random(_init_shapes(settings))
        stack = np.ones(SMALL["stack_shape"], np.float32)

        def loss(params):
            return jnp.sum(model.represent(params.representation, stack))

        return str(jax.make_jaxpr(jax.grad(loss))(params)).count("conv_general_dilated[")

    assert num_convolutions(True) > num_convolutions(False) > 0


def test_remat_changes_no_number_and_bfloat16_changes_them_a_little_with_all_kept_in_float32():
    outputs, gradient, _ = _gradient()
    same_outputs, same_gradient, _ = _gradient(remat=True)
    assert _largest_difference((same_outputs, same_gradient), (outputs, gradient)) < 1e-4
    half_outputs, half_gradient, types = _gradient(compute_dtype="bfloat16")
    assert types == {"float32"}
    assert 1e-4 < _largest_difference(half_outputs, outputs) < 0.2
    assert 1e-4 < _largest_difference(half_gradient, gradient) < 0.3  # 1 where it is stopped
