"""The bare loops: emulator, search and update with nothing around them, as small and fast as they
can be written.

They share the network, the Q normalisation and the loss with the system, and nothing of its
rollouts, workers, pool, feed or loop.
"""

import functools
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import mctx
import numpy as np
from ale_py.vector_env import AtariVectorEnv

from actors.atari import find_game
from configs.schema import Config, SearchConfig
from learner.update import Minibatch, make_put
from muzero.search import qtransform_by_whole_tree
from muzero.types import Array, Params
from scripts.benchmarks.measure import Loop, timed_loop
from scripts.benchmarks.settings import synthetic_rollout
from scripts.program.assemble import build_learner, build_model, env_spec, num_starts


def make_search(config: Config) -> tuple[Callable, Params]:
    """Returns the jitted `search(params, number, frames [N, H, h, w] uint8) -> actions [N]` and
    parameters for it.
    """
    spec = env_spec(config.env)
    model, support = build_model(config, spec)
    represent = jax.vmap(model.represent, (None, 0))
    step = jax.vmap(model.step, (None, 0, 0))
    predict = jax.vmap(model.predict, (None, 0))
    choose = {"visits": _by_visits, "gumbel": _by_improved_policy}[config.search.policy](
        config.search
    )

    def recurrent_fn(params, rng_key, action, latent):
        latent, reward = step(params.dynamics, latent, action)
        policy, value = predict(params.prediction, latent)
        reward = support.from_logits(reward)
        discount = jnp.full_like(reward, config.loss.discount_factor)
        value = support.from_logits(value)
        return mctx.RecurrentFnOutput(
            reward=reward, discount=discount, prior_logits=policy, value=value
        ), latent

    @jax.jit
    def search(params: Params, number: Array, frames: Array) -> Array:
        latent = represent(params.representation, stack(frames))
        policy, value = predict(params.prediction, latent)
        root = mctx.RootFnOutput(
            prior_logits=policy, value=support.from_logits(value), embedding=latent
        )
        return choose(
            params,
            jax.random.key(number),
            root,
            recurrent_fn,
            num_simulations=config.search.num_simulations,
        )

    return search, model.init(jax.random.key(0))


def _by_visits(search: SearchConfig) -> Callable[..., Array]:
    policy = functools.partial(
        mctx.muzero_policy,
        dirichlet_fraction=search.dirichlet_fraction,
        dirichlet_alpha=search.dirichlet_alpha,
        qtransform=functools.partial(qtransform_by_whole_tree, floor=search.floor),
    )
    return lambda *args, **settings: policy(*args, **settings).action


def _by_improved_policy(search: SearchConfig) -> Callable[..., Array]:
    transform = functools.partial(
        mctx.qtransform_completed_by_mix_value, value_scale=search.value_scale, rescale_values=False
    )

    def choose(params: Params, rng_key: Array, *args, **settings) -> Array:
        out = mctx.gumbel_muzero_policy(params, rng_key, *args, qtransform=transform, **settings)
        return jax.random.categorical(rng_key, jnp.log(out.action_weights))

    return choose


def stack(frames: Array) -> Array:
    """Returns the network's input [N, h, w, 2H − 1] of frames [N, H, h, w], with action planes of
    zeros.
    """
    images = jnp.moveaxis(frames, 1, -1).astype(jnp.float32) / 255
    return jnp.pad(images, ((0, 0), (0, 0), (0, 0), (0, frames.shape[1] - 1)))


def make_actor(config: Config, num_environments: int) -> Loop:
    """Returns what plays `num_environments` games for some seconds and returns decisions per
    second.
    """
    search, params = make_search(config)
    size, game = config.env.frame_size, find_game(config.env.name).kwargs["game"]
    envs = AtariVectorEnv(
        game,
        num_environments,
        num_threads=1,
        img_height=size,
        img_width=size,
        stack_num=config.network.history_length,
    )
    frames, number = envs.reset(seed=0)[0], 0

    def step() -> float:
        nonlocal frames, number
        frames, number = envs.step(np.asarray(search(params, number, frames)))[0], number + 1
        return num_environments

    step()
    return timed_loop(step)


def make_learner(config: Config) -> Loop:
    """Returns what updates on one batch in memory for some seconds and returns updates per
    second.
    """
    spec = env_spec(config.env)
    state, fns, mesh = build_learner(config, spec)
    put = make_put(mesh)
    batch = put(synthetic_rollout(config, spec, config.learner.batch_size).trajectory)
    in_order = np.tile(
        np.arange(num_starts(config), dtype=np.int32), (config.learner.batch_size, 1)
    )
    pieces = [put(starts) for starts in np.split(in_order, config.learner.num_minibatches, axis=1)]

    def one_pass() -> None:
        nonlocal state
        prepared = fns.prepare(state, batch)
        for starts in pieces:
            state = fns.update(state, Minibatch(batch, prepared, starts))[0]
            jax.block_until_ready(state.num_updates)  # else the whole loop is dispatched at once

    def loop(seconds: float) -> float:
        count, started = 0, time.perf_counter()
        while time.perf_counter() - started < seconds or count == 0:
            one_pass()
            count += len(pieces)
        return count / (time.perf_counter() - started)

    one_pass()

    return loop
