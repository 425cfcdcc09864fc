"""How many actors one learner host can serve: frames from actors through the feed to a device,
parameters back.

sender 0 ─┐ one object a rollout, every frame freshly written
sender 1 ─┼──▶ object store ──▶ BatchFeed (one copy) ──▶ device ──▶ jitted checksum = the senders'
sender 2 ─┘
"""

import contextlib
import dataclasses
import functools
import os
import tempfile
import time
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
import ray

from actors.pool import ActorPool
from configs.presets import PRESETS
from configs.schema import ActorsConfig, Config, EnvConfig
from learner.feed import Batch, BatchFeed
from learner.loop import Counters
from muzero.types import PublishedParams, RolloutResult, Trajectory
from scripts.benchmarks import settings
from scripts.benchmarks.measure import alternate, report, summary
from scripts.benchmarks.operations import decision_flops
from scripts.program.assemble import build_feed, build_passes, env_spec, num_starts
from scripts.program.reexecution import jemalloc_env_vars
from scripts.training import cluster

REQUIRED_BYTES_PER_SECOND = 1e9
PARAMETER_MEGABYTES = (40, 190)  # the reference of a small network, and MuZero's
PUBLISHED_FRAMES, PUBLISHED_HOURS = 200e6, 9.0  # Sebulba's MuZero on 16 TPU v3 cores
FRAMES_PER_STEP = 4
CORE_FLOPS = 80e9  # of a core that searches, a second, on paper: the matrix peak of a common one


class Sender:
    """A worker whose rollouts are written, not played."""

    def __init__(self, config: Config, num_environments: int, seed: int):
        self._rollout = settings.synthetic_rollout(
            config, env_spec(config.env), num_environments, seed
        )
        self._count = 0

    def run(self, published: PublishedParams) -> RolloutResult:
        """Returns the next rollout: every frame written anew, and their sum as a statistic."""
        self._count += 1

        def write(frames):
            return np.full_like(frames, (37 * self._count + 1) % 251)

        old = self._rollout.trajectory
        new = old._replace(
            observation=write(old.observation), history_observation=write(old.history_observation),
            params_version=np.full_like(old.params_version, published.version),
        )  # fmt: skip
        frames = new.observation, new.history_observation
        # Four equal bytes are a word
        total = sum(x.size // 4 * int(x.flat[0]) * 0x01010101 for x in frames)
        return self._rollout._replace(trajectory=new, search_stats={"sum": float(total % 2**32)})


def run(rounds: int, seconds: float, tiny: bool) -> dict:
    """Returns the report: bytes of frames per second that reach the device; the bare loop sums a
    batch in memory.
    """
    config = (
        settings.TINY
        if tiny
        else dataclasses.replace(PRESETS["atari-paper"], env=EnvConfig(name="breakout"))
    )
    learner = dataclasses.replace(
        config.learner, batch_size=2 * config.actors.environments_per_worker
    )
    config = dataclasses.replace(config, learner=learner)
    counts = [1, 2] if tiny else [1, 2, 4, 8]
    sizes = [0.1] if tiny else PARAMETER_MEGABYTES
    with cluster_of(max(counts)):
        with feed_of_senders(config, num_senders=2) as feed:
            batch = sequences(next(feed))
            loops = {
                "feed": functools.partial(feed_rate, feed),
                "bare": functools.partial(checksum_rate, batch),
            }
            rates = alternate(loops, "feed", "bare", rounds=rounds, seconds=seconds)
        publishing = {
            f"{size} MB": [publish_seconds(size, count) for count in counts] for size in sizes
        }
    bytes_per_step = frame_bytes(batch) / batch.action.shape[0] / num_starts(config)
    median = summary(rates["feed"])["median"]
    return report(
        "ingest", rates, "feed", "bare", unit="bytes of frames/s",
        bytes_per_sequence=frame_bytes(batch) // batch.action.shape[0],
        bytes_per_new_step=bytes_per_step, publishing={"actors": counts, "seconds": publishing},
        **on_paper(median, bytes_per_step, decision_flops(config)),
        failure=None
        if tiny or median >= REQUIRED_BYTES_PER_SECOND
        else f"feed too slow: {median / 1e9:.2f} GB/s",
    )  # fmt: skip


def on_paper(bytes_per_second: float, bytes_per_step: float, flops_per_step: float) -> dict:
    """Returns what a host with this feed could take in, next to what the published run took in."""
    published = PUBLISHED_FRAMES / (PUBLISHED_HOURS * 3600)
    feed = bytes_per_second / bytes_per_step * FRAMES_PER_STEP

    def cores(frames_per_second):
        return frames_per_second / FRAMES_PER_STEP * flops_per_step / CORE_FLOPS

    return {
        "flops_per_decision": flops_per_step,
        "searching_cores_for_the_published_rate": cores(published),
        "searching_cores_that_this_feed_serves": cores(feed),
        "frames_per_second_of_this_feed": feed,
        "frames_per_second_published": published,
        "published_bytes_per_second_in_this_format": published / FRAMES_PER_STEP * bytes_per_step,
        "feed_over_published": feed / published,
    }


@contextlib.contextmanager
def cluster_of(num_workers: int) -> Iterator[None]:
    """Starts and ends a Ray with room for so many actors."""
    cluster.start_ray(None, num_cpus=num_workers)
    try:
        yield
    finally:
        cluster.stop_ray()


@contextlib.contextmanager
def feed_of_senders(config: Config, num_senders: int) -> Iterator[BatchFeed]:
    """Starts senders behind an actor pool and a feed whose batches are checked as they come."""
    num_environments = config.actors.environments_per_worker

    def build(seed):
        return Sender(config, num_environments, seed)

    with tempfile.TemporaryDirectory() as folder:
        pool = ActorPool(
            build,
            ActorsConfig(num_workers=num_senders, max_in_flight=2),
            seed=0,
            log_dir=folder,
            env_vars=jemalloc_env_vars(),
        )
        pool.publish(PublishedParams(0, np.zeros(1)))
        passes = build_passes(config, env_spec(config.env), jax.device_put, Counters(), process=0)
        feed = build_feed(config, pool.next_rollout, passes, Counters())
        try:
            yield feed
        finally:
            feed.close()
            pool.close()


@jax.jit
def checksum(observation, history_observation):
    """Returns the sum of all words of four bytes modulo 2³²: XLA adds words ten times faster than
    single bytes.
    """

    def words(x):
        return jax.lax.bitcast_convert_type(x.reshape(-1, 4), jnp.uint32)

    return jnp.sum(words(observation)) + jnp.sum(words(history_observation))


def sequences(batch: Batch) -> Trajectory:
    """Returns the sequences of a batch, on the device."""
    return next(iter(batch.passes(batch.num_steps))).trajectory


def frame_bytes(batch) -> int:
    """Returns the bytes of the frames of a batch."""
    return batch.observation.nbytes + batch.history_observation.nbytes


def feed_rate(feed: BatchFeed, seconds: float) -> float:
    """Returns bytes per second; raises RuntimeError if a batch is not what the senders wrote."""
    amount, started = 0, time.perf_counter()
    while time.perf_counter() - started < seconds or amount == 0:
        batch = next(feed)
        frames = sequences(batch)
        received = int(checksum(frames.observation, frames.history_observation))
        # The feed has taken the mean of two rollouts
        sent = round(2 * batch.search_stats["sum"]) % 2**32
        if received != sent:
            raise RuntimeError(f"the frames of a batch sum to {received}, the senders wrote {sent}")
        amount += frame_bytes(frames)
    return amount / (time.perf_counter() - started)


def checksum_rate(batch, seconds: float) -> float:
    """Returns bytes per second of the checksum alone."""
    amount, started = 0, time.perf_counter()
    while time.perf_counter() - started < seconds or amount == 0:
        checksum(batch.observation, batch.history_observation).block_until_ready()
        amount += frame_bytes(batch)
    return amount / (time.perf_counter() - started)


def publish_seconds(megabytes: float, num_actors: int) -> dict:
    """Returns the seconds from `ray.put` of so many parameters until every actor has read them,
    over five times.
    """
    read = ray.remote(num_cpus=0)(_Reader)
    actors = [read.remote() for _ in range(num_actors)]
    params = np.zeros(int(megabytes * 1e6) // 4, np.float32)
    try:
        ray.get([actor.read.remote(params) for actor in actors])
        return summary([_publish(params, actors) for _ in range(5)])
    finally:
        for actor in actors:
            ray.kill(actor)


def _publish(params: np.ndarray, actors: list) -> float:
    started = time.perf_counter()
    published = ray.put(params)
    ray.get([actor.read.remote(published) for actor in actors])
    return time.perf_counter() - started


class _Reader:
    def read(self, params: np.ndarray) -> int:
        """Returns the process id after the parameters have been copied,
        as `jax.device_put` would.
        """
        params.copy()
        return os.getpid()
