"""From a configuration to the parts: the only place that knows config sections, actors and learner."""

import functools
from collections.abc import Callable

import jax

from actors.environments import EnvironmentSpec, Stream, environment_spec, make_environment
from actors.rollout import Rollout
from configs.schema import Config, EnvConfig
from configs.serialise import section
from learner.state import LearnerState, init_state, make_optimiser
from learner.update import UpdateFns, make_mesh, make_update, place
from muzero.losses import make_loss
from muzero.model import Model, make_model
from muzero.observation import stack_shape
from muzero.search import SearchFn, make_search
from muzero.support import Support


def make_env(env: EnvConfig, *, training: bool, render: bool = False):
    """Returns the environment of a run, as trained on or (`training` false) as evaluated on: lives ignored."""
    kwargs = section(env)
    del kwargs["reward_clip"]  # the stream's
    return make_environment(kwargs.pop("name"), training=training, render=render, **kwargs)


def env_spec(env: EnvConfig) -> EnvironmentSpec:
    """Returns shapes and action count of a run's environment."""
    instance = make_env(env, training=True)
    try:
        return environment_spec(instance)
    finally:
        instance.close()


def split_cpu(config: Config) -> None:
    """Has JAX make `learner.num_devices` devices of this machine's CPU; to be called before JAX is first used."""
    if (config.learner.num_devices or 1) > 1:
        jax.config.update("jax_num_cpu_devices", config.learner.num_devices)


def build_model(config: Config, spec: EnvironmentSpec) -> tuple[Model, Support]:
    """Returns the networks and the categorical support of a run."""
    network = section(config.network)
    shape = stack_shape(spec.observation_shape, config.network.history_length)
    support = Support(**section(config.support))
    model = make_model(stack_shape=shape, num_actions=spec.num_actions, num_bins=support.num_bins, **network)
    return model, support


def build_search(config: Config, spec: EnvironmentSpec) -> SearchFn:
    """Returns the search that actors act with."""
    model, support = build_model(config, spec)
    return make_search(
        model,
        support,
        num_actions=spec.num_actions,
        discount_factor=config.loss.discount_factor,
        **section(config.search),
    )


def build_rollout(config: Config, seed: int) -> Rollout:
    """Returns one worker's rollout; `seed` is the worker's own."""
    num_environments = config.actors.environments_per_worker
    streams = [
        Stream(make_env(config.env, training=True), seed=(seed + 7919 * n) % 2**31, reward_clip=config.env.reward_clip)
        for n in range(num_environments)
    ]
    return Rollout(
        streams,
        build_search(config, streams[0].spec),
        num_actions=streams[0].spec.num_actions,
        sequence_length=config.actors.sequence_length,
        sequence_overlap=config.actors.sequence_overlap,
        history_length=config.network.history_length,
        seed=seed,
        num_groups=1 if config.actors.device == "cpu" else 2,
    )


def rollout_builder(config: Config) -> Callable[[int], Rollout]:
    """Returns the picklable `seed -> Rollout` that travels to the workers."""
    return functools.partial(build_rollout, config)


def num_starts(config: Config) -> int:
    """Returns S, the start states of a sequence: those that its neighbours do not train on."""
    return config.actors.sequence_length - config.actors.sequence_overlap


def build_learner(config: Config, spec: EnvironmentSpec) -> tuple[LearnerState, UpdateFns, jax.sharding.Mesh]:
    """Returns the state before the first update, replicated over the devices, its programs and its mesh."""
    model, support = build_model(config, spec)
    loss = make_loss(
        model,
        support,
        num_actions=spec.num_actions,
        num_starts=num_starts(config),
        chunk_size=config.value_buffer.chunk_size,
        **section(config.loss),
    )
    optimiser, schedule = make_optimiser(**section(config.optimiser))
    mesh = make_mesh(config.learner.num_devices)
    update_fns = make_update(
        loss,
        optimiser,
        schedule,
        mesh,
        search_average_rate=config.learner.search_average_rate,
        target_average_rate=config.learner.target_average_rate,
        push_interval=config.value_buffer.push_interval,
    )
    state = init_state(
        model.init, optimiser, value_buffer_size=config.value_buffer.size, rng_key=jax.random.key(config.seed)
    )
    return place(state, mesh), update_fns, mesh
