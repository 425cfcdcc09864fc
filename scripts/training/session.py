"""One session of a run, new or resumed: actors on one side, the learner on the other, files below."""

import collections
import contextlib
import time
from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np

from actors.pool import ActorPool, ActorPoolError
from actors.rounds import RoundPool
from configs.schema import Config
from learner.feed import Batch
from learner.loop import Counters, LearnerLoop, NonFiniteError
from learner.multihost import Silent, is_first_process, make_batches
from learner.records.episodes import EpisodeLog
from learner.records.metrics import MetricWriter
from learner.records.progress import Progress, ProgressState
from learner.records.run_directory import RunDirectory
from learner.state import LearnerState
from learner.update import make_put, place
from muzero.types import Params, PublishedParams
from scripts.playing import evaluation
from scripts.program.assemble import build_feed, build_learner, build_loop, env_spec, rollout_builder
from scripts.program.reexecution import jemalloc_env_vars
from scripts.training import core_shares
from scripts.training.interrupts import Interrupted, Interrupts
from scripts.training.saver import Saver
from scripts.training.timer import Timer


class Start(NamedTuple):
    """Where a session begins: at a new state, at stored weights, or at a checkpoint of the same run."""

    resume: bool = False
    load_params: Callable[[], Params] | None = None  # --init-from
    ray_address: str | None = None


class Session:
    """Trains until a limit of `config.stop`, Ctrl-C or SIGTERM; leaves a checkpoint of what it did.

    But for a deterministic session whose actors are gone: then the checkpoint before it stands.
    """

    def __init__(self, config: Config, directory: RunDirectory, start: Start, interrupts: Interrupts | None = None):
        self._config, self._directory = config, directory
        self._batch_size = config.learner.batch_size // config.learner.num_processes  # of this process
        self._process = () if is_first_process() else (jax.process_index(),)
        self._share = core_shares.given_share(config, start.ray_address)
        self._spec = env_spec(config.env)
        self._actor_states: dict[str, np.ndarray] = {}
        self._loop, self._saver, self._mesh = self._make_loop(start)
        counters = self._loop.counters
        resumed_at = counters.num_frames if start.resume else None
        self._row_updates, self._skipped_before = counters.num_updates, counters.num_skipped
        if is_first_process():
            self._metrics = MetricWriter(directory.path, resume_from_frames=resumed_at)
            self._episodes = EpisodeLog(directory.path, resume_from_frames=counters.num_frames)
        else:
            self._metrics = self._episodes = self._saver = Silent()
        self._recent_returns: collections.deque[float] = collections.deque(maxlen=100)
        self._started = time.monotonic()
        self.num_lost = 0  # sequences played and not trained on: in flight, or of a batch not taken
        self._interrupts = interrupts or Interrupts(after_grace=lambda: self._pool.close())

    def run(self) -> Counters:
        """Trains; returns the counters at the end."""
        self._save()  # a run that is killed before its first checkpoint can be resumed
        self._pool = pool = self._make_pool()
        progress = Progress() if is_first_process() else Silent()
        with self._interrupts, contextlib.ExitStack() as parts:
            for part in (progress, self._saver, self._episodes, self._metrics, pool):
                parts.callback(part.close)  # the last first, and all of them even if one raises
            if self._actor_states:
                pool.load(self._actor_states)
                self._actor_states = {}
            self._loop.publish()
            self._train(pool, progress)
        return self._loop.counters

    @property
    def interrupted(self) -> str | None:
        """The signal that ended the session, None if a limit did."""
        return self._interrupts.name

    def _make_loop(self, start: Start) -> tuple[LearnerLoop, Saver, jax.sharding.Mesh]:
        state, update_fns, mesh = build_learner(self._config, self._spec)
        abstract = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), state)
        saver = Saver(self._config, self._directory, abstract)
        counters = Counters()
        if start.resume:
            checkpoint, counters = saver.restore()
            self._actor_states = checkpoint.arrays
            state = place(checkpoint.state, mesh)
        elif start.load_params is not None:
            state = _with_params(state, start.load_params(), mesh)
        publish = lambda version, params: self._pool.publish(PublishedParams(version, params))
        loop = build_loop(self._config, state, counters, update_fns, publish)
        return loop, saver, mesh

    def _make_pool(self) -> ActorPool | RoundPool:
        actors = self._config.actors
        # A resumed session must not replay the games of the one before it.
        entropy = (self._config.seed, self._loop.counters.num_batches, *self._process)
        seed = int(np.random.SeedSequence(entropy).generate_state(1)[0])
        shared = dict(
            cores_per_worker=self._share.cores_per_worker,
            seed=seed,
            log_dir=self._directory.logs.joinpath(*map(str, self._process)),
            env_vars=jemalloc_env_vars(),
        )
        if self._config.deterministic:
            return RoundPool(rollout_builder(self._config), actors, **shared)
        in_rounds = not self._config.learner.collect_ahead
        return ActorPool(rollout_builder(self._config), actors, in_rounds=in_rounds, **shared)

    def _train(self, pool: ActorPool | RoundPool, progress: Progress) -> None:
        self._feed = build_feed(self._config, pool.next_rollout, make_put(self._mesh), self._loop.counters)
        batches = make_batches(self._feed, self._batch_size * self._config.actors.sequence_length)
        print(self._share, flush=True)
        log, actors, num_taken = self._config.log, self._config.actors, 0
        due_row, due_checkpoint = Timer(log.interval_seconds), Timer(60 * log.checkpoint_interval_minutes)
        due_evaluation = Timer(60 * (log.evaluation_interval_minutes or float("inf")))
        try:
            while not self._is_done():
                self._take_in(self._loop.run_batch(batches))
                num_taken += self._batch_size
                self._saver.check()
                if due_row.rings():
                    self._report(progress)
                if due_checkpoint.rings():
                    self._save()
                if due_evaluation.rings() and is_first_process():
                    self._evaluate()
                    due_evaluation.restart()
            batches.end()
        except StopIteration:
            pass  # the first process has called `end`
        except ActorPoolError:  # the actors are gone, the learner is whole
            self._save()
            if self.interrupted is None:
                raise
        except NonFiniteError as error:
            if error.batch is not None:  # else it is the state itself that must not be kept
                self._saver.save_evidence(error.batch, self._loop.counters)
                self._save()
            raise
        finally:
            self._interrupts.settle()
            self._feed.close()
            self.num_lost = self._feed.num_collected - num_taken + pool.num_in_flight * actors.environments_per_worker
        self._save()
        if self._loop.counters.num_updates > self._row_updates:  # else it would repeat the last row
            self._report(progress)
        if self.interrupted is None and log.evaluation_interval_minutes is not None and is_first_process():
            self._evaluate()

    def _take_in(self, batch: Batch) -> None:
        self._feed.num_skipped = self._loop.counters.num_skipped - self._skipped_before
        self._episodes.write(self._loop.counters.num_frames, batch.episodes)
        self._recent_returns.extend(episode.episode_return for episode in batch.episodes)

    def _is_done(self) -> bool:
        if not is_first_process():
            return False
        return self.interrupted is not None or max(self._fractions_done(), default=0.0) >= 1.0

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
        scalars |= self._feed.pop_metrics() | self._pool_metrics()
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

    def _pool_metrics(self) -> dict[str, float]:
        dropped = self._pool.num_dropped * self._config.actors.environments_per_worker
        return {"perf/rollouts_waiting": float(self._pool.num_waiting), "perf/sequences_dropped": float(dropped)}

    def _save(self) -> None:
        if self._saver.has(self._loop.counters.num_updates):
            return
        arrays = {}
        if self._config.deterministic and self._loop.counters.num_batches:
            if self._pool.is_closed:  # a state without the actors' is none: the last one stands
                return
            arrays = self._pool.save()
        self._saver.save(self._loop, arrays)

    def _evaluate(self) -> None:
        """Plays greedy games with the present search average; keeps the state if it is the best so far."""
        self._save()  # the games may take longer than the grace period of a signal
        counters = self._loop.counters
        try:
            result = evaluation.evaluate_params(
                self._config,
                jax.device_get(self._loop.state.search_average),
                num_episodes=self._config.log.evaluation_episodes,
                seed=evaluation.selection_seed(self._config.seed, counters.num_updates),
                checkpoint=counters.num_updates,
                on_decision=self._interrupts.check,
            )
        except Interrupted:
            return
        evaluation.write_result(self._directory, result, name=f"training-{counters.num_updates:09d}")
        print(f"greedy return {result['mean']:.2f} over {len(result['returns'])} games", flush=True)
        self._saver.save_if_best(self._loop, result["mean"])


def _with_params(state: LearnerState, params: Params, mesh) -> LearnerState:
    if params.statistics is None:  # of a run that had none
        params = params._replace(statistics=state.params.statistics)
    fresh = lambda: place(params, mesh)
    return state._replace(params=fresh(), search_average=fresh(), target_average=fresh())
