"""From a configuration to the parts of a run: every part is handed its section whole."""

import functools
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import jax
import numpy as np

from actors.environments import EnvironmentSpec, Stream, environment_spec, make_environment
from actors.pool import ActorPool
from actors.rollout import Rollout
from actors.rounds import RoundPool
from configs.schema import Config, EnvConfig
from learner.feed import BatchFeed
from learner.loop import Counters, LearnerLoop
from learner.passes import DealtPasses, DrawnPasses, PassMaker
from learner.replay import Replay, ReplaySettings
from learner.state import LearnerState, init_state, make_optimiser
from learner.update import UpdateFns, make_mesh, make_update, place
from muzero.advantages import init_statistics
from muzero.losses import Loss
from muzero.model import Model, make_model
from muzero.observation import stack_shape
from muzero.search import Describe, SearchFn, make_search, search_stats
from muzero.support import Support
from muzero.types import Params, PyTree, RolloutResult
from scripts.program.reexecution import jemalloc_env_vars


def env_spec(env: EnvConfig) -> EnvironmentSpec:
    """Returns shapes and action count of a run's environment."""
    instance = make_environment(env, training=True)
    try:
        return environment_spec(instance)
    finally:
        instance.close()


def split_cpu(config: Config) -> None:
    """Has JAX make `learner.num_devices` devices of this machine's CPU; to be called before JAX is
    first used.
    """
    if (config.learner.num_devices or 1) > 1:
        jax.config.update("jax_num_cpu_devices", config.learner.num_devices)


def build_model(config: Config, spec: EnvironmentSpec) -> tuple[Model, Support]:
    """Returns the networks and the categorical support of a run."""
    support = Support(config.support)
    model = make_model(
        config.network,
        stack_shape=stack_shape(spec.observation_shape, config.network.history_length),
        num_actions=spec.num_actions,
        num_bins=support.num_bins,
    )
    return model, support


def build_search(
    config: Config,
    spec: EnvironmentSpec,
    *,
    root_noise: bool = True,
    describe: Describe = search_stats,
) -> SearchFn:
    """Returns the search that actors act with; without `root_noise` that of scored games.

    `describe` makes the output's `stats`, see `make_search`.
    """
    model, support = build_model(config, spec)
    return make_search(
        model,
        support,
        config.search,
        num_actions=spec.num_actions,
        discount_factor=config.loss.discount_factor,
        root_noise=root_noise,
        describe=describe,
    )


def build_streams(config: Config, seed: int, num_environments: int) -> list[Stream]:
    """Returns that many streams as actors play them, each with a seed of its own."""
    return [
        Stream(
            make_environment(config.env, training=True),
            seed=(seed + 7919 * n) % 2**30,  # those above are for scores
            reward_clip=config.env.reward_clip,
            start_spread=config.actors.start_spread,
        )
        for n in range(num_environments)
    ]


def build_rollout(config: Config, seed: int) -> Rollout:
    """Returns one worker's rollout; `seed` is the worker's own."""
    num_environments = config.actors.environments_per_worker
    streams = build_streams(config, seed, num_environments)
    num_groups = 1 if config.actors.device == "cpu" else min(2, num_environments)
    return make_rollout(config, streams, seed, num_groups=num_groups)


def make_rollout(
    config: Config, streams: Sequence[Stream], seed: int, *, num_groups: int = 1
) -> Rollout:
    """Returns a rollout in these streams, with the search and the sequences of a run."""
    return Rollout(
        streams,
        build_search(config, streams[0].spec),
        config.actors,
        num_actions=streams[0].spec.num_actions,
        history_length=config.network.history_length,
        seed=seed,
        num_groups=num_groups,
    )


def rollout_builder(config: Config) -> Callable[[int], Rollout]:
    """Returns the picklable `seed -> Rollout` that travels to the workers; they import from the
    directory of here, where the module of a user's environment may be.
    """
    return functools.partial(_build_elsewhere, config, os.getcwd())


def _build_elsewhere(config: Config, directory: str, seed: int) -> Rollout:
    if directory not in sys.path:
        sys.path.append(directory)
    return build_rollout(config, seed)


def num_starts(config: Config) -> int:
    """Returns S, the start states of a sequence: those that its neighbours do not train on; of a
    drawn window one.
    """
    if config.replay.capacity:
        return 1
    return config.actors.sequence_length - config.actors.sequence_overlap


def replay_settings(config: Config, spec: EnvironmentSpec) -> ReplaySettings:
    """Returns what one learner process stores."""
    return ReplaySettings(
        num_workers=config.actors.num_workers,
        environments_per_worker=config.actors.environments_per_worker,
        capacity=config.replay.capacity // config.learner.num_processes,
        observation_shape=spec.observation_shape,
        observation_dtype=np.dtype(spec.observation_dtype).name,
        num_actions=spec.num_actions,
        history_length=config.network.history_length,
        sequence_length=config.actors.sequence_length,
        sequence_overlap=config.actors.sequence_overlap,
        window_length=config.loss.num_unroll_steps + config.replay.tail_steps,
    )


def build_passes(
    config: Config,
    spec: EnvironmentSpec,
    put: Callable[[PyTree], PyTree],
    counters: Counters,
    process: int,
) -> PassMaker:
    """Returns what one learner process, of this index, learns from; it goes on after `counters`."""
    learner, replay = config.learner, config.replay
    if replay.capacity:
        return DrawnPasses(
            Replay(replay_settings(config, spec)),
            put,
            replay,
            num_processes=learner.num_processes,
            seed=(config.seed, process),
            num_updates=counters.num_updates + counters.num_skipped,
        )
    return DealtPasses(put, learner, num_starts=num_starts(config), seed=config.seed)


def build_feed(
    config: Config,
    next_rollout: Callable[[], RolloutResult],
    make_passes: PassMaker,
    counters: Counters,
    *,
    num_skipped: Callable[[], int] = lambda: 0,
) -> BatchFeed:
    """Returns the feed of one learner process, which goes on after `counters`.

    Args:
      config: of the run.
      next_rollout: of the actors of this process.
      make_passes: what is learned from the batches, see `build_passes`.
      counters: at the beginning of the session.
      num_skipped: returns the updates of this session that were not made.
    """
    return BatchFeed(
        next_rollout,
        make_passes,
        config.learner,
        num_batches=counters.num_batches,
        first_update=counters.num_updates,
        num_skipped=num_skipped,
    )


def build_pool(
    config: Config, *, cores_per_worker: int | None, log_dir: Path, seed: int
) -> ActorPool | RoundPool:
    """Returns the actors of one learner process; Ray has to run.

    Args:
      config: of the run.
      cores_per_worker: that every worker claims, None for none.
      log_dir: for what the workers print.
      seed: of the workers; each derives its own from it.
    """
    build_rollout = rollout_builder(config)
    worker = dict(
        cores_per_worker=cores_per_worker, seed=seed, log_dir=log_dir, env_vars=jemalloc_env_vars()
    )
    if config.deterministic:
        return RoundPool(build_rollout, config.actors, **worker)
    return ActorPool(
        build_rollout, config.actors, in_rounds=not config.learner.collect_ahead, **worker
    )


def build_loop(
    config: Config,
    state: LearnerState,
    counters: Counters,
    update_fns: UpdateFns,
    publish: Callable[[int, Params], None],
) -> LearnerLoop:
    """Returns the loop that trains `state`, which has consumed `counters`."""
    return LearnerLoop(
        state,
        counters,
        config.learner,
        update_fns=update_fns,
        publish=publish,
    )


def build_learner(
    config: Config, spec: EnvironmentSpec
) -> tuple[LearnerState, UpdateFns, jax.sharding.Mesh]:
    """Returns the state before the first update, replicated over the devices, its programs and its
    mesh.
    """
    model, support = build_model(config, spec)
    loss = Loss(
        model,
        support,
        config.loss,
        num_actions=spec.num_actions,
        num_starts=num_starts(config),
        chunk_size=config.value_buffer.chunk_size,
    )
    optimiser, schedule = make_optimiser(config.optimiser)
    mesh = make_mesh(config.learner.num_devices)
    update_fns = make_update(
        loss,
        optimiser,
        schedule,
        mesh,
        config.learner,
        push_interval=config.value_buffer.push_interval,
    )
    has_statistics = config.search.normalisation == "advantages" or config.loss.return_weight > 0
    state = init_state(
        model.init,
        optimiser,
        value_buffer_size=config.value_buffer.size,
        rng_key=jax.random.key(config.seed),
        statistics=init_statistics() if has_statistics else None,
    )
    return place(state, mesh), update_fns, mesh
