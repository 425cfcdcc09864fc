"""A network small enough for NumPy, as JAX model and float64 oracle; random trajectories; a learner
that counts.
"""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from configs.schema import LearnerConfig, LossConfig, SupportConfig
from learner.state import init_state
from learner.update import Minibatch, UpdateFns, make_mesh, make_put, make_update, place
from muzero import value_buffer
from muzero.losses import Loss, LossOutput, Prepared
from muzero.model import Model
from muzero.support import Support
from muzero.types import Params, Trajectory
from tests import reference

NUM_ACTIONS, HISTORY, OBSERVATION_SIZE, LATENT_SIZE = 3, 3, 2, 3
STACK_SIZE = HISTORY * OBSERVATION_SIZE + HISTORY - 1
NUM_DECISIONS, NUM_STARTS, NUM_UNROLL_STEPS = 12, 8, 3
SUPPORT = Support(SupportConfig(min_value=-4.0, max_value=4.0, num_bins=11, epsilon=0.01))

LOSS_SETTINGS = LossConfig(
    num_unroll_steps=NUM_UNROLL_STEPS,
    discount_factor=0.97,
    td_lambda=0.8,
    reward_weight=1.3,
    value_weight=0.25,
    policy_weight=0.7,
    past_weight=0.6,
    past_clip=1.0,
    past_latents="target",
)


class Net(NamedTuple):
    """The network of one set of parameters, of one sample."""

    represent: callable
    step: callable
    predict: callable


def functions(xp) -> Net:
    """Returns (represent, step, predict) in NumPy or JAX; their first argument is the network's
    parameters.
    """

    def represent(params, stack):
        return xp.tanh(stack @ params["w"])

    def step(params, latent, action):
        next_latent = xp.tanh(latent @ params["u"] + params["a"][action])
        return next_latent, next_latent @ params["r"]

    def predict(params, latent):
        return latent @ params["p"], latent @ params["v"]

    return Net(represent, step, predict)


def init_params(rng_key) -> Params:
    """Returns random parameters, none of them near zero in effect."""
    keys = iter(jax.random.split(rng_key, 6))

    def normal(*shape):
        return jax.random.normal(next(keys), shape)

    return Params(
        representation={"w": 0.5 * normal(STACK_SIZE, LATENT_SIZE)},
        dynamics={
            "u": normal(LATENT_SIZE, LATENT_SIZE),
            "a": normal(NUM_ACTIONS, LATENT_SIZE),
            "r": normal(LATENT_SIZE, SUPPORT.num_bins),
        },
        prediction={
            "p": normal(LATENT_SIZE, NUM_ACTIONS),
            "v": normal(LATENT_SIZE, SUPPORT.num_bins),
        },
    )


MODEL = Model(init_params, *functions(jnp))


def numpy_net(params: Params) -> Net:
    """Returns the float64 twin of the model with these parameters."""
    represent, step, predict = functions(np)
    float64 = jax.tree.map(lambda x: np.asarray(x, np.float64), params)
    return Net(
        lambda stack: represent(float64.representation, stack),
        lambda latent, action: step(float64.dynamics, latent, action),
        lambda latent: predict(float64.prediction, latent),
    )


def trajectory(seed: int, event_prob: float = 0.1) -> Trajectory:
    """Returns a random sequence of one environment with terminations, truncations, life losses and
    resets.
    """
    rng = np.random.default_rng(seed)
    seq = reference.random_sequence(rng, NUM_DECISIONS, event_prob)

    def normal(*shape):
        return rng.normal(size=shape).astype(np.float32)

    return Trajectory(
        observation=normal(NUM_DECISIONS + 1, OBSERVATION_SIZE),
        is_first=seq.is_first,
        search_policy=rng.dirichlet([0.7] * NUM_ACTIONS, NUM_DECISIONS + 1).astype(np.float32),
        search_value=seq.value.astype(np.float32),
        params_version=np.zeros(NUM_DECISIONS + 1, np.int32),
        action=rng.integers(NUM_ACTIONS, size=NUM_DECISIONS).astype(np.int32),
        reward=seq.reward.astype(np.float32),
        discount=seq.discount.astype(np.float32),
        behaviour_prob=seq.behaviour_prob.astype(np.float32),
        history_observation=normal(HISTORY - 1, OBSERVATION_SIZE),
        history_action=rng.integers(NUM_ACTIONS, size=HISTORY - 1).astype(np.int32),
        history_is_first=rng.random(HISTORY - 1) < 0.2,
    )


def batch(seeds, event_prob: float = 0.1) -> Trajectory:
    """Returns the trajectories of `seeds` stacked to [B, ...]."""
    return jax.tree.map(
        lambda *rows: np.stack(rows), *[trajectory(seed, event_prob) for seed in seeds]
    )


def heads(num_heads: int) -> list:
    """Returns that many unlike prediction heads."""
    return [init_params(jax.random.key(100 + i)).prediction for i in range(num_heads)]


def buffer_of(head_list: list, size: int) -> value_buffer.ValueBuffer:
    """Returns a value buffer of `size` slots after these pushes."""
    buffer = value_buffer.init(init_params(jax.random.key(0)).prediction, size)
    for i, head in enumerate(head_list):
        buffer = value_buffer.push(buffer, head, i + 1)
    return buffer


# --- A learner in two numbers: representation and prediction grow by the learning rate at every
# update ----

RATES = LearnerConfig(search_average_rate=0.1, target_average_rate=0.5)


def whole(fns: UpdateFns, mesh=None):
    """Returns `update(state, batch)`, which prepares a batch and makes one update on all of its
    start states.
    """
    put = make_put(mesh or make_mesh(1))

    def update(state, batch):
        num_sequences = batch.action.shape[0] // jax.process_count()
        starts = put(np.tile(np.arange(NUM_STARTS, dtype=np.int32), (num_sequences, 1)))
        return fns.update(state, Minibatch(batch, fns.prepare(state, batch), starts))

    return update


class LossFns(NamedTuple):
    """Two functions in place of a `Loss`."""

    prepare: Callable
    evaluate: Callable


def make_loss(model: Model = MODEL, **changes) -> Loss:
    """Returns the loss of the tiny network or another model,
    with LOSS_SETTINGS but for `changes`.
    """
    settings = dataclasses.replace(LOSS_SETTINGS, **changes)
    sizes = dict(num_actions=NUM_ACTIONS, num_starts=NUM_STARTS, chunk_size=2)
    return Loss(model, SUPPORT, settings, **sizes)


def whole_loss(loss: Loss):
    """Returns the loss of one sequence in one step: of parameters, target average, buffer and
    trajectory.
    """

    def evaluate(params, target, buffer, trajectory, num_starts=NUM_STARTS):
        prepared = loss.prepare(params, target, buffer, trajectory)
        return loss.evaluate(params, buffer, trajectory, prepared, jnp.arange(num_starts))

    return evaluate


def loss_of(evaluate) -> LossFns:
    """Returns a loss without targets from a function of parameters and trajectory."""
    return LossFns(
        lambda *_: Prepared(None, None),
        lambda params, buffer, trajectory, *_: evaluate(params, trajectory),
    )


def _read(params, target, buffer, trajectory):
    return Prepared(
        target.representation * trajectory.reward[0], params.representation * trajectory.reward[0]
    )


def _count(params, buffer, trajectory, prepared, starts):
    loss = -(params.representation + params.prediction) * trajectory.reward[0]
    sums = {"loss/value": prepared.targets, "loss/past": prepared.past}
    return LossOutput(loss, jnp.ones(()), sums, dict.fromkeys(sums, jnp.ones(())))


COUNTING_LOSS = LossFns(_read, _count)
"""Minus the parameters, whose gradient is −1; reports what targets read: target average and online
parameters.
"""


def counting_params(rng_key) -> Params:
    """Returns the parameters before the first update."""
    return Params(
        representation=jnp.zeros(()), dynamics=jnp.zeros(()), prediction=jnp.full((), 100.0)
    )


def counting_learner(push_interval: int = 2):
    """Returns (state, programs): gradient descent with steps of exactly 1, averages with RATES, 3
    slots for heads.
    """
    optimiser, mesh = optax.sgd(1.0), make_mesh(1)
    state = init_state(counting_params, optimiser, value_buffer_size=3, rng_key=jax.random.key(0))
    schedule = optax.constant_schedule(1.0)
    fns = make_update(COUNTING_LOSS, optimiser, schedule, mesh, RATES, push_interval=push_interval)
    return place(state, mesh), fns


def batch_of_ones() -> Trajectory:
    """Returns two sequences whose rewards are 1, for `COUNTING_LOSS`."""
    rows = batch(range(2))
    return rows._replace(reward=np.ones_like(rows.reward))
