"""One update: literal averages, pushes and learning rates, donation, one compilation."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from configs.schema import OptimiserConfig
from learner.records.metrics import documented_tag
from learner.state import init_state, make_optimiser
from learner.update import (
    SKIPPED,
    Minibatch,
    make_mesh,
    make_put,
    make_update,
    moving_average,
    place,
)
from muzero import value_buffer
from muzero.losses import LossOutput
from muzero.types import Params
from tests import tiny

pytestmark = pytest.mark.usefixtures("quick_compilation")


# --- Averages, pushes, steps


def test_two_averages_with_two_rates_and_who_reads_which():
    """θ = 1, 2, 3, 4 after the updates; θ' ← θ' + rate (θ − θ') from 0, rates 0.1 (search) and 0.5
    (target).
    """
    state, fns = tiny.counting_learner()
    update = tiny.whole(fns)
    rows = []
    for _ in range(4):
        state, metrics = update(state, tiny.batch_of_ones())
        averages = (state.params, state.search_average, state.target_average)
        read = (metrics["loss/value"], metrics["loss/past"])
        rows.append([*(float(x.representation) for x in averages), *map(float, read)])
    expected = [
        # θ, search average, target average; the targets read the target average and θ of before the
        # update
        [1.0, 0.1, 0.5, 0.0, 0.0],
        [2.0, 0.29, 1.25, 0.5, 1.0],
        [3.0, 0.561, 2.125, 1.25, 2.0],
        [4.0, 0.9049, 3.0625, 2.125, 3.0],
    ]
    np.testing.assert_allclose(rows, expected, rtol=1e-6)
    # Pushed after updates 2 and 4: the target average's head, which starts at 100.
    np.testing.assert_allclose(state.value_buffer.head_params, [101.25, 103.0625, 0.0])
    assert state.value_buffer.push_update.tolist() == [2, 4, -1]


def test_averages_start_at_the_parameters():
    optimiser, _ = make_optimiser(
        OptimiserConfig(
            learning_rate=1.0,
            final_learning_rate=0.0,
            schedule_num_updates=4,
            max_gradient_norm=None,
            weight_decay=0.0,
        )
    )
    state = init_state(tiny.init_params, optimiser, value_buffer_size=2, rng_key=jax.random.key(4))
    for average in (state.search_average, state.target_average):
        jax.tree.map(np.testing.assert_array_equal, average, state.params)
    assert int(state.num_updates) == 0 and state.value_buffer.push_update.tolist() == [-1, -1]
    leaves = jax.tree.leaves(state)
    # Donated buffers are not shared
    assert len({leaf.unsafe_buffer_pointer() for leaf in leaves}) == len(leaves)


def test_moving_average_is_literal():
    """Running statistics are those of the parameters: an average of averages would lag behind."""
    average, params = (Params(*jnp.full(3, x), {"advantage": x}) for x in (2.0, 10.0))
    moved = moving_average(average, params, 0.25)
    assert [float(x) for x in moved[:3]] == [4.0, 4.0, 4.0]
    assert moved.statistics == {"advantage": 10.0}


@pytest.mark.parametrize(
    "push_interval, num_updates, expected", [(3, 7, [3, 6, -1]), (2, 9, [8, 4, 6])]
)
def test_heads_are_pushed_at_multiples_of_the_interval_and_never_at_zero(
    push_interval, num_updates, expected
):
    state, fns = tiny.counting_learner(push_interval=push_interval)
    update = tiny.whole(fns)
    history = [state.value_buffer.push_update.tolist()]
    for _ in range(num_updates):
        state, metrics = update(state, tiny.batch_of_ones())
        history.append(state.value_buffer.push_update.tolist())
    assert history[: push_interval + 1] == [[-1, -1, -1]] * push_interval + [
        [push_interval, -1, -1]
    ]
    assert history[-1] == expected
    assert float(metrics["value_buffer/filled"]) == sum(x >= 0 for x in expected)
    ages = [num_updates - x for x in expected if x >= 0]
    assert float(metrics["value_buffer/age_mean"]) == pytest.approx(np.mean(ages))


def test_the_papers_interval_pushes_after_updates_50_and_100():
    state, fns = tiny.counting_learner(push_interval=50)
    update = tiny.whole(fns)
    batch = make_put(make_mesh(1))(tiny.batch_of_ones())
    pushed = []
    for _ in range(101):
        state, metrics = update(state, batch)
        pushed.append(float(metrics["value_buffer/filled"]))
    assert pushed == [0.0] * 49 + [1.0] * 50 + [2.0] * 2
    assert state.value_buffer.push_update.tolist() == [50, 100, -1]


def test_the_step_follows_the_linear_schedule():
    """Adam's step for a constant gradient is the learning rate itself."""
    optimiser, schedule = make_optimiser(
        OptimiserConfig(
            learning_rate=1e-2,
            final_learning_rate=2e-3,
            schedule_num_updates=4,
            max_gradient_norm=None,
            weight_decay=0.0,
        )
    )

    def init_params(rng_key):
        return tiny.counting_params(rng_key)._replace(dynamics=jnp.full((), 7.0))

    state = init_state(init_params, optimiser, value_buffer_size=3, rng_key=jax.random.key(0))
    fns = make_update(
        tiny.COUNTING_LOSS, optimiser, schedule, make_mesh(1), tiny.RATES, push_interval=2
    )
    update = tiny.whole(fns)
    values, rates = [0.0], []
    for _ in range(6):
        state, metrics = update(state, tiny.batch_of_ones())
        values.append(float(state.params.representation))
        rates.append(float(metrics["optimiser/learning_rate"]))
    np.testing.assert_allclose(rates, [1e-2, 8e-3, 6e-3, 4e-3, 2e-3, 2e-3], rtol=1e-5)
    np.testing.assert_allclose(np.diff(values), rates, rtol=1e-3)
    assert float(metrics["optimiser/update_norm"]) == pytest.approx(2e-3 * 2**0.5, rel=1e-3)
    assert float(state.params.dynamics) == 7.0  # no gradient, no decay


def test_two_steps_of_adam_with_decay_are_literal():
    """Moments keep 0.9 and 0.999 of themselves, ε = 1e-8; the decay is taken off beside the step,
    not through it.
    """
    optimiser, _ = make_optimiser(
        OptimiserConfig(
            learning_rate=0.1,
            final_learning_rate=0.1,
            schedule_num_updates=4,
            max_gradient_norm=None,
            weight_decay=0.5,
        )
    )
    params = {"a": jnp.full((), 2.0), "b": jnp.zeros(())}
    state, rows = optimiser.init(params), []
    for gradient in (1.0, 3.0):  # of a; that of b is as small as ε
        step, state = optimiser.update(
            {"a": jnp.full((), gradient), "b": jnp.full((), 1e-8)}, state, params
        )
        params = optax.apply_updates(params, step)
        rows.append(params)
    # a: 2 − 0.1 (1 / √1 + 0.5 · 2); then m = 0.39 / 0.19 and v = 0.009999 / 0.001999.
    expected = [1.8, 1.8 - 0.1 * (0.39 / 0.19 / (9.999 / 1.999) ** 0.5 + 0.5 * 1.8)]
    np.testing.assert_allclose([row["a"] for row in rows], expected, rtol=1e-5)
    assert float(rows[0]["b"]) == pytest.approx(-0.1 / 2, rel=1e-5)


@pytest.mark.parametrize(
    "limit, expected", [(None, [3.0, 4.0]), (1.0, [0.6, 0.8]), (10.0, [3.0, 4.0])]
)
def test_gradients_are_clipped_to_their_global_norm_if_asked(limit, expected):
    optimiser, _ = make_optimiser(OptimiserConfig(max_gradient_norm=limit))
    params = {"a": jnp.zeros(()), "b": jnp.zeros(())}
    _, state = optimiser.update(
        {"a": jnp.array(3.0), "b": jnp.array(4.0)}, optimiser.init(params), params
    )
    moments = optax.tree.get(state, "mu")  # of both parameters, flat: a tenth of the first gradient
    np.testing.assert_allclose(10 * moments, expected, rtol=1e-5)


def literal_loss(params, trajectory):
    """Every number of the output is one of the trajectory's rewards."""
    x = trajectory.reward
    tags = [
        "loss/value",
        *[f"value_buffer/{name}" for name in ("target_mean", "target_square", "error_square")],
    ]
    sums = {tag: x[2 + 2 * i] for i, tag in enumerate(tags)}
    return LossOutput(
        x[0] * (1 + params.dynamics), x[1], sums, {tag: x[3 + 2 * i] for i, tag in enumerate(tags)}
    )


def test_the_loss_and_its_metrics_are_means_over_the_whole_batch():
    rewards = np.array(
        [
            [9.0, 1.0, 3.0, 1.0, 1.0, 1.0, 4.0, 1.0, 0.0, 1.0],
            [6.0, 4.0, 5.0, 3.0, 7.0, 3.0, 36.0, 3.0, 3.0, 3.0],
        ]
    )
    batch = tiny.batch(range(2))
    batch = batch._replace(reward=np.pad(rewards, ((0, 0), (0, 2))).astype(np.float32))
    state, mesh = tiny.counting_learner()[0], make_mesh(1)
    fns = make_update(
        tiny.loss_of(literal_loss),
        optax.sgd(1.0),
        optax.constant_schedule(1.0),
        mesh,
        tiny.RATES,
        push_interval=2,
    )
    state, metrics = tiny.whole(fns)(state, batch)
    assert float(metrics["loss/total"]) == 3.0  # (9 + 6) / (1 + 4) start states
    assert float(metrics["optimiser/gradient_norm"]) == 3.0 and float(state.params.dynamics) == -3.0
    assert float(metrics["loss/value"]) == 2.0  # (3 + 5) / (1 + 3)
    # Targets: mean (1 + 7) / 4 = 2, mean square (4 + 36) / 4 = 10, so variance 6; mean square error
    # 3 / 4.
    assert float(metrics["value_buffer/explained_variance"]) == pytest.approx(1 - 0.75 / 6)
    assert not {
        "value_buffer/target_mean",
        "value_buffer/target_square",
        "value_buffer/error_square",
    } & set(metrics)


# --- The real loss

NUM_SEQUENCES = 8


def keep_gradient():
    """An optimiser that moves nothing and keeps the gradient as its state."""
    return optax.GradientTransformation(
        init=lambda params: jax.tree.map(jnp.zeros_like, params),
        update=lambda gradient, state, params: (
            jax.tree.map(jnp.zeros_like, gradient),
            jax.tree.map(
                lambda new, old: new + 0 * old, gradient, state
            ),  # an unused argument would not be donated
        ),
    )


@functools.cache
def tiny_update():
    """Returns the programs of the tiny network, the same for all tests."""
    loss = tiny.make_loss()
    schedule = optax.constant_schedule(0.0)
    return make_update(loss, keep_gradient(), schedule, make_mesh(1), tiny.RATES, push_interval=3)


def tiny_state(num_heads=2):
    """Returns the state of the tiny network with some stored heads."""
    state = init_state(
        tiny.MODEL.init, keep_gradient(), value_buffer_size=3, rng_key=jax.random.key(0)
    )
    state = state._replace(value_buffer=tiny.buffer_of(tiny.heads(num_heads), 3))
    return place(state, make_mesh(1))


def gradient_and_metrics(batch):
    """Returns what the update makes of the batch."""
    state, metrics = tiny.whole(tiny_update())(tiny_state(), make_put(make_mesh(1))(batch))
    return jax.device_get(state.optimiser_state), jax.device_get(metrics)


def test_the_state_is_donated_and_nothing_is_compiled_twice():
    state, fns = tiny_state(num_heads=0), tiny_update()
    structure = jax.tree.map(lambda x: (x.shape, x.dtype), state)
    for i in range(4):
        old = jax.tree.leaves(state)
        batch = make_put(make_mesh(1))(tiny.batch(range(i, i + NUM_SEQUENCES)))
        state, metrics = tiny.whole(fns)(state, batch)
        assert all(leaf.is_deleted() for leaf in old)
        assert (fns.prepare._cache_size(), fns.update._cache_size()) == (1, 1)
        assert float(metrics["value_buffer/filled"]) == (1.0 if i >= 2 else 0.0)
    assert jax.tree.map(lambda x: (x.shape, x.dtype), state) == structure
    assert all(np.isfinite(x) and x.shape == () for x in jax.device_get(metrics).values())
    assert [tag for tag in metrics if documented_tag(tag) is None] == []


def test_the_stored_heads_are_never_copied():
    """A second value buffer would be the largest array of an update: the paper's has 128 heads."""
    state, fns = tiny.counting_learner()
    state = state._replace(value_buffer=value_buffer.init(state.params.prediction, 1_000_000))
    batch = tiny.batch_of_ones()
    minibatch = Minibatch(
        batch, jax.eval_shape(fns.prepare, state, batch), np.zeros((2, 1), np.int32)
    )
    program = fns.update.lower(state, minibatch).compile()
    assert (
        program.memory_analysis().temp_size_in_bytes < 0.5 * state.value_buffer.head_params.nbytes
    )


def without_starts(batch):
    """Returns the batch with nothing but decisions that are not real."""
    is_first = batch.is_first.copy()
    is_first[:, 1:] = True
    return batch._replace(is_first=is_first)


def test_a_batch_without_a_start_state_changes_nothing():
    gradient, metrics = gradient_and_metrics(without_starts(tiny.batch(range(NUM_SEQUENCES))))
    assert all(not np.any(leaf) for leaf in jax.tree.leaves(gradient))
    assert float(metrics["loss/total"]) == 0.0 and all(np.isfinite(x) for x in metrics.values())
    assert np.any(gradient_and_metrics(tiny.batch(range(NUM_SEQUENCES)))[0].prediction["v"])


# --- Numbers that go wrong


def nan_reward(rows):
    rows.reward[1, 3] = np.nan
    return rows


def infinite_search_policy(rows):
    # Not read by the counting loss: it is refused all the same
    rows.search_policy[0, 0, 0] = np.inf
    return rows


def nan_gradient(rows):
    return rows._replace(reward=np.full_like(rows.reward, 3e38))  # finite, but not their sum


@pytest.mark.parametrize(
    "spoil", [nan_reward, infinite_search_policy, nan_gradient], ids=lambda f: f.__name__
)
def test_an_update_on_a_number_that_is_not_finite_changes_nothing(spoil):
    state, fns = tiny.counting_learner(push_interval=2)
    update = tiny.whole(fns)
    state, metrics = update(state, tiny.batch_of_ones())
    assert float(metrics[SKIPPED]) == 0.0
    before = jax.device_get(state)
    state, metrics = update(state, spoil(jax.tree.map(np.array, tiny.batch_of_ones())))
    assert float(metrics[SKIPPED]) == 1.0
    # No head is pushed either
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(state), before)
    state, metrics = update(state, tiny.batch_of_ones())
    assert float(metrics[SKIPPED]) == 0.0 and int(state.num_updates) == 2
    assert float(
        state.params.representation
    ) == 2.0 and state.value_buffer.push_update.tolist() == [2, -1, -1]
