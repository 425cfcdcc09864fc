"""One session of a run, new or resumed: actors on one side, the learner on the other, files below."""

import collections
import signal
import threading
import time
from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np

from actors.pool import ActorPool, ActorPoolError
from configs.schema import Config
from learner.batcher import Batch, BatchFeed
from learner.checkpoint import Checkpointer
from learner.episodes import EpisodeLog
from learner.loop import Counters, LearnerLoop
from learner.metrics import MetricWriter, Progress, ProgressState
from learner.run_directory import RunDirectory
from learner.state import LearnerState
from learner.update import batch_sharding, replicated
from muzero.types import Params, PublishedParams
from scripts import evaluation, process
from scripts.assemble import build_learner, env_spec, rollout_builder

_GRACE_SECONDS = 10.0  # for the batch under way after Ctrl-C or SIGTERM; cluster managers kill after 30 s


class Start(NamedTuple):
    """Where a session begins: at a new state, at stored weights, or at a checkpoint of the same run."""

    resume: bool = False
    load_params: Callable[[], Params] | None = None  # --init-from


class Session:
    """Trains until a limit of `config.stop`, Ctrl-C or SIGTERM; always leaves a checkpoint of what it did."""

    def __init__(self, config: Config, directory: RunDirectory, start: Start):
        self._config, self._directory = config, directory
        self._spec = env_spec(config.env)
        self._loop, self._checkpointer, self._mesh = self._make_loop(start)
        counters = self._loop.counters
        resumed_at = counters.num_frames if start.resume else None
        self._metrics = MetricWriter(directory.path, resume_from_frames=resumed_at)
        self._row_updates = counters.num_updates
        self._episodes = EpisodeLog(directory.path, resume_from_frames=counters.num_frames)
        self._recent_returns: collections.deque[float] = collections.deque(maxlen=100)
        self._best = evaluation.best_so_far(directory)
        self._started = time.monotonic()
        self._interrupted: str | None = None

    def run(self) -> Counters:
        """Trains; returns the counters at the end."""
        handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
        self._save()  # a run that is killed before its first checkpoint can be resumed
        self._pool = pool = self._make_pool()
        for number in handlers:  # after Ray, which takes SIGTERM for itself and would leave without saving
            signal.signal(number, self._interrupt)
        try:
            self._loop.publish()
            self._train(pool)
        finally:
            pool.close()
            self._metrics.close()
            self._episodes.close()
            self._checkpointer.close()
            for number, handler in handlers.items():
                signal.signal(number, handler)
        return self._loop.counters

    @property
    def interrupted(self) -> str | None:
        """The signal that ended the session, None if a limit did."""
        return self._interrupted

    def _make_loop(self, start: Start) -> tuple[LearnerLoop, Checkpointer, jax.sharding.Mesh]:
        state, update_fn, mesh = build_learner(self._config, self._spec)
        abstract = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), state)
        checkpointer = Checkpointer(
            self._directory.checkpoints, max_to_keep=self._config.log.checkpoints_kept, abstract_state=abstract
        )
        counters = Counters()
        if start.resume:
            checkpoint = checkpointer.restore()
            state = jax.device_put(checkpoint.state, replicated(mesh))
            counters = Counters(**checkpoint.metadata["counters"])
        elif start.load_params is not None:
            state = _with_params(state, start.load_params(), mesh)
        loop = LearnerLoop(
            state,
            counters,
            update_fn=update_fn,
            publish=lambda version, params: self._pool.publish(PublishedParams(version, params)),
            publish_interval=self._config.learner.publish_interval,
        )
        return loop, checkpointer, mesh

    def _make_pool(self) -> ActorPool:
        actors = self._config.actors
        # A resumed session must not replay the games of the one before it.
        seed = int(np.random.SeedSequence([self._config.seed, self._loop.counters.num_batches]).generate_state(1)[0])
        return ActorPool(
            rollout_builder(self._config),
            num_workers=actors.num_workers,
            max_in_flight=actors.max_in_flight,
            cpus_per_worker=actors.cpus_per_worker,
            seed=seed,
            log_dir=self._directory.logs,
            env_vars=process.WORKER_ENV_VARS,
        )

    def _make_feed(self, pool: ActorPool) -> BatchFeed:
        learner, sharding = self._config.learner, batch_sharding(self._mesh)
        return BatchFeed(
            pool.next_rollout,
            lambda minibatch: jax.device_put(minibatch, sharding),
            batch_size=learner.batch_size,
            collect_ahead=learner.collect_ahead,
            num_passes=learner.num_passes,
            num_minibatches=learner.num_minibatches,
            seed=self._config.seed + self._loop.counters.num_batches,
        )

    def _train(self, pool: ActorPool) -> None:
        feed, progress = self._make_feed(pool), Progress()
        log = self._config.log
        due_row, due_checkpoint = _Timer(log.interval_seconds), _Timer(60 * log.checkpoint_interval_minutes)
        due_evaluation = _Timer(60 * (log.evaluation_interval_minutes or float("inf")))
        try:
            while not self._is_done():
                self._take_in(self._loop.run_batch(feed))
                if due_row.rings():
                    self._report(progress)
                if due_checkpoint.rings():
                    self._save()
                if due_evaluation.rings():
                    self._evaluate()
        except ActorPoolError:  # the actors are gone, the learner is whole
            self._save()
            if self._interrupted is None:
                raise
        finally:
            feed.close()
            progress.close()
        if self._loop.counters.num_updates > self._row_updates:  # else it would repeat the last row
            self._report(progress)
        self._save()
        if self._interrupted is None and log.evaluation_interval_minutes is not None:
            self._evaluate()

    def _take_in(self, batch: Batch) -> None:
        self._episodes.write(self._loop.counters.num_frames, batch.episodes)
        self._recent_returns.extend(episode.episode_return for episode in batch.episodes)

    def _is_done(self) -> bool:
        return self._interrupted is not None or max(self._fractions_done(), default=0.0) >= 1.0

    def _fractions_done(self) -> tuple[float, ...]:
        stop, counters = self._config.stop, self._loop.counters
        minutes = (time.monotonic() - self._started) / 60
        limits = (
            (counters.num_frames, stop.num_frames),
            (counters.num_updates, stop.num_updates),
            (minutes, stop.minutes),
        )
        return tuple(done / limit for done, limit in limits if limit is not None)

    def _report(self, progress: Progress) -> None:
        counters, scalars = self._loop.report()
        self._row_updates = counters.num_updates
        scalars["perf/sequences_dropped"] = self._pool.num_dropped * self._config.actors.environments_per_worker
        self._metrics.write(
            counters.num_frames, scalars, num_updates=counters.num_updates, wall_seconds=counters.seconds
        )
        progress.update(
            ProgressState(
                mean_return=float(np.mean(self._recent_returns)) if self._recent_returns else None,
                num_frames=counters.num_frames,
                total_frames=self._config.stop.num_frames,
                frames_per_second=scalars["perf/frames_per_second"],
                updates_per_second=scalars["perf/updates_per_second"],
                lag=scalars.get("lag/params_version_mean", 0.0),
                fractions_done=self._fractions_done(),
            )
        )

    def _metadata(self) -> dict:
        return {"counters": self._loop.counters._asdict(), "environment": self._config.env.name}

    def _save(self) -> None:
        if self._checkpointer.latest() != self._loop.counters.num_updates:
            self._checkpointer.save(self._loop.counters.num_updates, self._loop.state, self._metadata())

    def _evaluate(self) -> None:
        """Plays greedy games with the present search average; keeps the state if it is the best so far."""
        result = evaluation.evaluate_params(
            self._config,
            jax.device_get(self._loop.state.search_average),
            num_episodes=self._config.log.evaluation_episodes,
            seed=evaluation.selection_seed(self._config.seed, self._loop.counters.num_updates),
            checkpoint=self._loop.counters.num_updates,
        )
        evaluation.write_result(self._directory, result, name=f"training-{self._loop.counters.num_updates:09d}")
        print(f"greedy return {result['mean']:.2f} over {len(result['returns'])} games", flush=True)
        if self._best is None or result["mean"] > self._best:
            self._best = result["mean"]
            self._checkpointer.save_best(self._loop.counters.num_updates, self._loop.state, self._metadata())

    def _interrupt(self, number: int, frame) -> None:
        if self._interrupted is not None:
            raise KeyboardInterrupt  # asked twice: no checkpoint
        self._interrupted = signal.Signals(number).name
        # The same signal may have reached Ray's processes, and then the batch never ends.
        deadline = threading.Timer(_GRACE_SECONDS, self._pool.close)
        deadline.daemon = True
        deadline.start()
        print(
            f"\n{self._interrupted}: finishing the batch, then saving. Once more to leave without saving.", flush=True
        )


class _Timer:
    """Rings every `seconds`."""

    def __init__(self, seconds: float):
        self._seconds, self._next = seconds, time.monotonic() + seconds

    def rings(self) -> bool:
        now = time.monotonic()
        if now < self._next:
            return False
        self._next = now + self._seconds
        return True


def _with_params(state: LearnerState, params: Params, mesh) -> LearnerState:
    place = lambda: jax.device_put(params, replicated(mesh))
    return state._replace(params=place(), search_average=place(), target_average=place())
