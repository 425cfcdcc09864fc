"""One session of a run, new or resumed: actors on one side, the learner on the other,
files below.
"""

import contextlib
import dataclasses
from typing import NamedTuple

import jax
import numpy as np

from actors.pool import ActorPool, ActorPoolError
from actors.rounds import RoundPool
from actors.states import nested
from configs.schema import Config
from learner.feed import BatchFeed
from learner.loop import Counters, LearnerLoop, NonFiniteError
from learner.multihost import OwnBatches, SharedBatches, is_first_process, make_batches
from learner.passes import PassMaker
from learner.records.run_directory import RunDirectory
from muzero.types import PublishedParams
from scripts.playing import evaluation
from scripts.program.assemble import build_feed, build_loop, build_pool
from scripts.training.beginning import REPLAY, Start, begin
from scripts.training.core_shares import given_share
from scripts.training.interrupts import Interrupted, Interrupts, StopRequest
from scripts.training.limits import Limits
from scripts.training.recording import NoRecording, Recording
from scripts.training.saver import NoSaver, Saver
from scripts.training.timer import Timer


class Outcome(NamedTuple):
    """How a session ended."""

    counters: Counters
    interrupted: str | None  # the signal that ended it, None if a limit did
    num_lost: int  # sequences played and not trained on: in flight, or of a batch not taken


def run_session(
    config: Config, directory: RunDirectory, start: Start, interrupts: Interrupts | StopRequest
) -> Outcome:
    """Trains until a limit of `config.stop` or an interrupt; leaves a checkpoint of what it did.

    But for a deterministic session whose actors are gone: then the checkpoint before it stands.

    Args:
      config: of the run, checked.
      directory: of the run, locked.
      start: where to begin.
      interrupts: watched while there are actors.

    Raises ActorPoolError if the actors are gone without an interrupt and NonFiniteError, both after
    saving; CheckpointError, CheckpointWriteError and NotWritten.
    """
    share = given_share(config, start.ray_address)
    state, counters, actor_states, update_fns, passes, saver = begin(config, directory, start)
    limits, recording = Limits(config.stop), NoRecording()
    if is_first_process():
        num_frames = config.stop.num_frames
        recording = Recording(directory, counters, is_resumed=start.resume, num_frames=num_frames)
    else:
        saver = NoSaver()
    if not start.resume:
        # A run that is killed before its first batch can be resumed
        saver.save(state, counters, {})
    process = () if is_first_process() else (jax.process_index(),)
    pool = build_pool(
        config,
        cores_per_worker=share.cores_per_worker,
        log_dir=directory.logs.joinpath(*map(str, process)),
        seed=actor_seed(config.seed, counters.num_batches, *process),
    )

    def publish(version, params):
        return pool.publish(PublishedParams(version, params))

    loop = build_loop(config, state, counters, update_fns, publish)
    with interrupts.watched(after_grace=pool.close), contextlib.ExitStack() as parts:
        for part in (saver, recording, pool):
            parts.callback(part.close)  # the last first, and all of them even if one raises
        if actor_states:
            pool.load(actor_states)
            actor_states.clear()
        loop.publish()

        def num_skipped():
            return loop.counters.num_skipped - counters.num_skipped

        feed = build_feed(config, pool.next_rollout, passes, counters, num_skipped=num_skipped)
        print(share, flush=True)
        print("compiling: first the search of the actors, then the update", flush=True)
        session = Session(
            config, directory, pool, feed, passes, loop, saver, recording, limits, interrupts
        )
        session.train()
        batch_size = config.learner.batch_size // config.learner.num_processes  # of this process
        num_taken = (loop.counters.num_batches - counters.num_batches) * batch_size
        num_in_flight = pool.num_in_flight * config.actors.environments_per_worker
    return Outcome(loop.counters, interrupts.name, feed.num_collected - num_taken + num_in_flight)


def actor_seed(seed: int, num_batches: int, *process: int) -> int:
    """Returns the seed of the actors of a session: a resumed one must not replay the games of the
    one before it.

    Args:
      seed: of the run.
      num_batches: that the run has consumed before the session.
      process: number of the learner process, unless it is the first.
    """
    return int(np.random.SeedSequence((seed, num_batches, *process)).generate_state(1)[0])


@dataclasses.dataclass(frozen=True)
class Session:
    """The parts of a session that has begun, and what is done with several of them."""

    config: Config
    directory: RunDirectory
    pool: ActorPool | RoundPool
    feed: BatchFeed
    passes: PassMaker
    loop: LearnerLoop
    saver: Saver | NoSaver
    recording: Recording | NoRecording
    limits: Limits
    interrupts: Interrupts | StopRequest

    def train(self) -> None:
        """Trains to the end of the session, whatever ends it, and saves."""
        evaluates = self.config.log.evaluation_interval_minutes is not None and is_first_process()
        batch_size = self.config.learner.batch_size // self.config.learner.num_processes
        batches = make_batches(self.feed, batch_size * self.config.actors.sequence_length)
        try:
            self._train_until_done(batches, evaluates)
            batches.end()
        except StopIteration:
            pass  # the first process has called `end`
        except ActorPoolError:  # the actors are gone, the learner is whole
            self.save()
            if self.interrupts.name is None:
                raise
        except NonFiniteError as error:
            if error.batch is not None:  # else it is the state itself that must not be kept
                self.saver.save_evidence(error.batch, self.loop.counters)
                self.save()
            raise
        finally:
            self.interrupts.settle()
            self.feed.close()
        self.save()
        if not self.loop.is_reported:  # else it would repeat the last row
            self.report()
        if self.interrupts.name is None and evaluates:
            self.evaluate()

    def _train_until_done(self, batches: OwnBatches | SharedBatches, evaluates: bool) -> None:
        log = self.config.log
        due_row, due_checkpoint = (
            Timer(log.interval_seconds),
            Timer(60 * log.checkpoint_interval_minutes),
        )
        due_evaluation = Timer(60 * (log.evaluation_interval_minutes or float("inf")))
        while not self._is_done():
            batch = self.loop.run_batch(batches)
            self.recording.add_games(self.loop.counters, batch.episodes)
            self.saver.check()
            if due_row.rings():
                self.report()
            if due_checkpoint.rings():
                self.save()
            if evaluates and due_evaluation.rings():
                self.evaluate()
                due_evaluation.restart()

    def _is_done(self) -> bool:
        """Returns whether the session ends here; the first process decides for all."""
        if not is_first_process():
            return False
        return self.interrupts.name is not None or self.limits.are_reached(self.loop.counters)

    def report(self) -> None:
        """Records a row: means since the row before."""
        counters, scalars = self.loop.report()
        dropped = self.pool.num_dropped * self.config.actors.environments_per_worker
        pool = {
            "perf/rollouts_waiting": float(self.pool.num_waiting),
            "perf/sequences_dropped": float(dropped),
        }
        row = scalars | self.feed.pop_metrics() | self.passes.pop_metrics() | pool
        self.recording.add_row(counters, row, self.limits.fractions_done(counters))

    def save(self) -> None:
        """Saves the learner, and the actors of a deterministic run, unless the newest checkpoint
        has them.

        What is stored to learn from is saved in a deterministic run, or if that was asked for.
        """
        counters, arrays = self.loop.counters, {}
        if self.saver.has(counters.num_updates):
            return
        if self.config.deterministic:
            if self.pool.is_closed:  # a state without the actors' is none: the last one stands
                return
            arrays = self.pool.save()
        if self.config.deterministic or self.config.replay.saved:
            arrays = arrays | nested(REPLAY, self.passes.save())
        self.saver.save(self.loop.state, counters, arrays)

    def evaluate(self) -> None:
        """Plays greedy games with the present search average; keeps the state if it is the best so
        far.
        """
        self.save()  # the games may take longer than the grace period of a signal
        counters = self.loop.counters
        try:
            result = evaluation.evaluate_params(
                self.config,
                jax.device_get(self.loop.state.search_average),
                num_episodes=self.config.log.evaluation_episodes,
                seed=evaluation.selection_seed(self.config.seed, counters.num_updates),
                checkpoint=counters.num_updates,
                on_decision=self.interrupts.check,
            )
        except Interrupted:
            return
        evaluation.write_result(
            self.directory.path, result, name=f"training-{counters.num_updates:09d}"
        )
        print(f"greedy return {result['mean']:.2f} over {len(result['returns'])} games", flush=True)
        self.saver.save_if_best(self.loop.state, counters, result["mean"])
