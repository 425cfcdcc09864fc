"""Ray workers against bare loops of emulator and search, pinned to a core each, and against one
unpinned loop.
"""

import contextlib
import dataclasses
import os
import tempfile
import time
from collections.abc import Iterator

import jax
import numpy as np

from actors.pool import ActorPool
from configs.schema import Config
from muzero.types import PublishedParams
from scripts.benchmarks import bare, settings
from scripts.benchmarks.measure import alternate, ratios, report, slow_bare_loop, summary
from scripts.benchmarks.pinned import PinnedProcess, run_together
from scripts.program.assemble import build_model, env_spec, rollout_builder
from scripts.program.reexecution import jemalloc_env_vars
from scripts.training import cluster

# Of the bare loop with the reference network, on cores of 80 GFLOP/s
STEPS_PER_SECOND_AND_CORE = 275.0


def run(rounds: int, seconds: float, tiny: bool) -> dict:
    """Returns the report: decisions per second of all workers together, one a core."""
    cores = sorted(os.sched_getaffinity(0))
    config = settings.reference(tiny)
    config = dataclasses.replace(
        config, actors=dataclasses.replace(config.actors, num_workers=len(cores))
    )
    num_environments = config.actors.environments_per_worker
    with contextlib.ExitStack() as stack:
        pool = stack.enter_context(running_pool(config, cores_per_worker=1))

        def enter(of, count):
            return stack.enter_context(PinnedProcess(of, bare.make_actor, config, count))

        pinned = [enter({core}, num_environments) for core in cores]
        unpinned = enter(cores, num_environments * len(cores))
        loops = {
            "workers": lambda seconds: pool_rate(pool, config, seconds),
            "bare": lambda seconds: sum(run_together(pinned, seconds)),
            "one_unpinned": unpinned.result,
        }
        rates = alternate(loops, "workers", "bare", rounds=rounds, seconds=seconds)
    out = report(
        "actors", rates, "workers", "bare", unit="decisions/s",
        ratio_to_one_unpinned=summary(ratios(rates, "workers", "one_unpinned")),
        sizes={"workers": len(cores), "environments_per_worker": num_environments},
    )  # fmt: skip
    required = 0.0 if tiny else STEPS_PER_SECOND_AND_CORE * len(cores)
    failure = slow_bare_loop(
        out["matmul_gflops_per_core"], out["rates"]["bare"]["median"], required
    )
    return out | {"failure": failure}


@contextlib.contextmanager
def running_pool(config: Config, *, cores_per_worker: int | None) -> Iterator[ActorPool]:
    """Starts Ray and a pool of the configuration's workers with published parameters; ends both."""
    actors = config.actors
    cluster.start_ray(None, num_cpus=actors.num_workers * actors.cpus_per_worker)
    try:
        with tempfile.TemporaryDirectory() as folder:
            pool = ActorPool(
                rollout_builder(config),
                actors,
                in_rounds=not config.learner.collect_ahead,
                seed=0,
                log_dir=folder,
                cores_per_worker=cores_per_worker,
                env_vars=jemalloc_env_vars(),
            )
            params = build_model(config, env_spec(config.env))[0].init(jax.random.key(0))
            pool.publish(PublishedParams(0, jax.tree.map(np.asarray, params)))
            yield pool
            pool.close()
    finally:
        cluster.stop_ray()


def pool_rate(pool: ActorPool, config: Config, seconds: float) -> float:
    """Returns decisions per second of a pool that is idle before and after.

    A worker's time ends with its last rollout, as that of a bare loop ends with its last step: the
    workers of a pool that is asked no more finish one after the other.
    """
    started, num_steps, ends = time.perf_counter(), 0, []
    while not ends or ends[-1] < seconds:
        num_steps += pool.next_rollout().num_steps
        ends.append(time.perf_counter() - started)
    for result in pool.drain():
        num_steps += result.num_steps
        ends.append(time.perf_counter() - started)
    return num_steps / float(np.mean(ends[-config.actors.num_workers :]))
