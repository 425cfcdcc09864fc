"""The learner as it runs, feed, loop and log included, against its jitted update fed from
memory.
"""

import contextlib
import functools
import time
from collections.abc import Iterator

import jax
import numpy as np

from configs.schema import Config
from learner.feed import BatchFeed
from learner.loop import Counters, LearnerLoop
from learner.update import make_put
from muzero.types import RolloutResult
from scripts.benchmarks import bare, settings
from scripts.benchmarks.measure import alternate, report
from scripts.program.assemble import (
    build_feed,
    build_learner,
    build_loop,
    build_passes,
    env_spec,
    num_starts,
)


def run(rounds: int, seconds: float, tiny: bool) -> dict:
    """Returns the report: updates per second on rollouts that are there at once."""
    config = settings.atari_cpu(tiny)
    with memory_feed(config) as (loop, feed):
        loops = {
            "learner": functools.partial(update_rate, loop, feed),
            "bare": bare.make_learner(config),
        }
        rates = alternate(loops, "learner", "bare", rounds=rounds, seconds=seconds)
    starts = config.learner.batch_size * num_starts(config) // config.learner.num_minibatches
    return report(
        "learner", rates, "learner", "bare", unit="updates/s", start_states_per_update=starts
    )


@contextlib.contextmanager
def memory_feed(config: Config) -> Iterator[tuple[LearnerLoop, BatchFeed]]:
    """Starts a learner loop and a feed whose rollouts are copies of one that is in memory."""
    spec = env_spec(config.env)
    rollout = settings.synthetic_rollout(config, spec, config.actors.environments_per_worker)
    state, fns, mesh = build_learner(config, spec)
    loop = build_loop(config, state, Counters(), fns, lambda version, params: None)
    passes = build_passes(config, spec, make_put(mesh), Counters(), process=0)
    feed = build_feed(config, lambda: delivered(rollout), passes, Counters())
    try:
        yield loop, feed
    finally:
        feed.close()


def delivered(rollout: RolloutResult) -> RolloutResult:
    """Returns `rollout` as read-only arrays, as Ray delivers it."""
    views = jax.tree.map(np.ndarray.view, rollout.trajectory)
    for view in views:
        view.flags.writeable = False
    return rollout._replace(trajectory=views)


def update_rate(loop: LearnerLoop, feed: BatchFeed, seconds: float) -> float:
    """Returns updates per second of a learner that trains for so long and reports a row of
    the log.
    """
    before, started = loop.counters.num_updates, time.perf_counter()
    while time.perf_counter() - started < seconds or loop.counters.num_updates == before:
        loop.run_batch(feed)
    loop.report()
    jax.block_until_ready(loop.state)
    return (loop.counters.num_updates - before) / (time.perf_counter() - started)
