"""The running mean frame: against the mean of all frames so far, and what it does to a stack."""

import jax
import jax.numpy as jnp
import numpy as np

from muzero.frame_statistics import (
    MODULE,
    VARIANCE_FLOOR,
    FrameStatistics,
    copied,
    moments,
    tracked,
)
from muzero.model import _transform
from muzero.types import Params


def _params(mean, variance):
    return Params(
        {MODULE: {"mean": jnp.asarray(mean), "variance": jnp.float32(variance)}, "w": jnp.ones(2)},
        {},
        {},
    )


def test_statistics_are_those_of_all_frames_so_far_and_nothing_else_moves():
    rng = np.random.default_rng(0)
    batches = rng.integers(256, size=(5, 8, 3, 2, 1), dtype=np.uint8)
    params = _params(jnp.zeros((3, 2, 1)), 1.0)
    for number, frames in enumerate(batches):
        stepped = params._replace(
            representation=jax.tree.map(lambda x: x - 0.5, params.representation)
        )
        new = tracked(stepped, params, moments(params, jnp.asarray(frames)), jnp.int32(number))
        if number == 0:
            first_variance = np.var(frames / 255, axis=0).mean()
            np.testing.assert_allclose(
                new.representation[MODULE]["variance"], first_variance, rtol=1e-4
            )
        np.testing.assert_array_equal(new.representation["w"], params.representation["w"] - 0.5)
        params = new
    expected = (batches / 255).mean((0, 1))
    np.testing.assert_allclose(params.representation[MODULE]["mean"], expected, rtol=1e-5)
    np.testing.assert_array_equal(
        copied(params, _params(jnp.zeros((3, 2, 1)), 1.0)).representation[MODULE]["mean"],
        params.representation[MODULE]["mean"],
    )


def test_without_statistics_parameters_stay_as_they_are():
    params = Params({"w": jnp.ones(2)}, {}, {})
    assert moments(params, jnp.zeros((4, 3, 2, 1))) is None
    assert (
        tracked(params, params, None, jnp.int32(0)) is params and copied(params, params) is params
    )


def test_frames_are_centred_planes_are_not_and_statistics_have_no_gradient():
    centre = _transform(lambda stack: FrameStatistics(2)(stack))
    stack = jnp.concatenate([jnp.full((3, 2, 2), 0.75), jnp.full((3, 2, 1), 0.5)], axis=-1)
    start = centre.init(jax.random.key(0), stack)
    np.testing.assert_array_equal(centre.apply(start, stack), stack)
    params = {MODULE: {"mean": jnp.full((3, 2, 1), 0.25), "variance": jnp.float32(0.0625)}}
    np.testing.assert_allclose(centre.apply(params, stack)[..., :2], 2.0)
    np.testing.assert_array_equal(centre.apply(params, stack)[..., 2], 0.5)
    gradient = jax.grad(lambda p: jnp.sum(centre.apply(p, stack)))(params)
    assert all(not jnp.any(leaf) for leaf in jax.tree.leaves(gradient))
    black = {MODULE: {"mean": jnp.zeros((3, 2, 1)), "variance": jnp.float32(0.0)}}
    np.testing.assert_allclose(centre.apply(black, stack)[0, 0, 0], 0.75 * VARIANCE_FLOOR**-0.5)
