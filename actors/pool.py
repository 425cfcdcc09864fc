"""Many Ray workers that act, behind two verbs: `publish` parameters, wait for the `next_rollout`.

    learner ──publish(v)──▶ one ray.put ─┐ newest only
                                         ▼
    learner ◀─next_rollout()─ ray.wait ◀─ worker.rollout(newest) ◀─ re-armed at the next call

A worker is re-armed when the learner's feed asks for the next rollout, with the parameters that are
the newest then: re-armed at the hand-over it would act on with parameters that the batch just
delivered is about to change. A learner that does not ask is the back-pressure: `num_workers *
max_in_flight` rollouts are all that can ever wait. Ray itself is started and stopped by the
program. Supervision happens inside `next_rollout` too (no thread, no polling):

    started ──▶ busy ──result──▶ busy ──▶ ...
                 │ died, raised, or placed and silent for too long: what it had in flight is dropped
                 ▼
               resting (back-off 1, 2, 4 ... 60 s) ──▶ busy again: new process, new seed
"""

import dataclasses
import logging
import math
import threading
import time
from typing import Any

import ray
from ray import exceptions

from actors.patience import Patience
from actors.worker import WORKER_FAILURES, BuildRollout, is_placed, make_start_fn
from configs.schema import ActorsConfig
from muzero.types import PublishedParams, RolloutResult

MAX_BACKOFF_SECONDS = 60.0
_logger = logging.getLogger(__name__)


class ActorPoolError(RuntimeError):
    """The pool cannot deliver: a worker kept failing (the last cause is chained), or the pool is
    closed.
    """


@dataclasses.dataclass(eq=False)
class _Worker:
    """Book-keeping of one place in the pool."""

    worker_id: int
    incarnation: int
    handle: Any  # Ray actor; None while resting after a death
    due: float  # time.monotonic seconds: a busy worker's deadline, a resting worker's wake-up
    is_busy: bool = False
    num_failures: int = 0  # since its last delivered rollout


class ActorPool:
    """A supervised pool of `RolloutWorker`s; they build their rollouts at once and act from the
    first request on.

    `next_rollout` belongs to one thread; `publish` and `close` may be called from another. What
    `publish` shares is one reference, replaced by one assignment; the lock orders `next_rollout`
    and `close`, nobody waits holding it.

    Args:
      build_rollout: seed -> `RolloutProtocol`; pickled here, unpickled in the workers.
      settings: of the workers; their number is a number by now.
      in_rounds: nobody is asked again before all have delivered: lockstep, if that divides a batch.
      patience: a placed worker that owes an answer for longer is replaced.
      max_restarts: failures of one worker, without a rollout delivered in between, that are
        forgiven.
      restart_backoff_seconds: rest after the first of them; doubled by each further one, up to 60
        s.
      worker: seed, log_dir and so on, see `make_start_fn`.

    Raises ActorPoolError if Ray has not been started.
    """

    def __init__(
        self,
        build_rollout: BuildRollout,
        settings: ActorsConfig,
        *,
        in_rounds: bool = False,
        patience: Patience | None = None,
        max_restarts: int = 5,
        restart_backoff_seconds: float = 1.0,
        **worker,
    ):
        if (
            not ray.is_initialized()
        ):  # the first remote call would start a cluster with settings of Ray's own
            raise ActorPoolError("call ray.init(...) before making an ActorPool")
        self._start = make_start_fn(build_rollout, settings, **worker)
        self._max_in_flight = settings.max_in_flight
        self._in_rounds = in_rounds
        self._patience = patience or Patience()
        self._max_restarts = max_restarts
        self._restart_backoff_seconds = restart_backoff_seconds
        self._lock = threading.RLock()
        self._closed = threading.Event()
        # ray.ObjectRef of the newest PublishedParams; requests keep the one they carry.
        self._published = None
        self._in_flight: dict[Any, _Worker] = {}  # ray.ObjectRef -> worker, oldest request first
        self._num_dropped = 0
        ids = range(settings.num_workers)
        self._workers = [_Worker(i, 0, self._start(i, 0), due=-math.inf) for i in ids]

    @property
    def num_dropped(self) -> int:
        """Rollouts requested and lost because their worker failed; each is one sequence of every
        environment.
        """
        return self._num_dropped

    @property
    def num_in_flight(self) -> int:
        """Rollouts requested and not handed over, those that wait included."""
        return len(self._in_flight)

    @property
    def num_waiting(self) -> int:
        """Rollouts that are there and have not been asked for."""
        with self._lock:
            requests = list(self._in_flight)
        return len(ray.wait(requests, num_returns=len(requests), timeout=0)[0]) if requests else 0

    def publish(self, published: PublishedParams) -> None:
        """Makes `published` (NumPy leaves) what every request from now on acts with; copies it to
        the object store.

        The version before is freed with the last request that carries it. Does nothing if the pool
        is closed.
        """
        if not self._closed.is_set():
            self._published = ray.put(published)

    def next_rollout(self) -> RolloutResult:
        """Returns the next rollout of any worker, the longest requested first, after re-arming
        those that wait.

        Blocks until there is one. Its arrays are *read-only views into Ray's object store*: copy
        what is to be written to, and drop them soon (stacking a batch copies), for the store cannot
        free a viewed object.

        Raises:
          ActorPoolError: nothing has been published; a worker failed more than `max_restarts` times
            in a row (the last failure is chained, and the pool is closed then); or `close` was
            called, also meanwhile.
        """
        self._require_open()
        if self._published is None:
            raise ActorPoolError("publish parameters before asking for a rollout")
        with self._lock:
            self._rearm_idle_workers()
        while (result := self._next_answer()) is None:
            pass
        return result

    def drain(self) -> list[RolloutResult]:
        """Returns what is in flight as it is answered and asks for nothing more: the workers are
        idle then.
        """
        results = []
        while self._in_flight:
            results.append(self._next_answer())
        return [result for result in results if result is not None]

    def close(self) -> None:
        """Kills the workers and drops every reference; a blocked `next_rollout` raises.

        Closing twice is fine.
        """
        with self._lock:
            self._closed.set()
            for worker in self._workers:
                self._kill(worker)
            self._in_flight.clear()
            self._published = None

    def _next_answer(self) -> RolloutResult | None:
        """Returns the next rollout; None if a worker woke, or failed, before one was answered."""
        answered = self._wait()
        with self._lock:
            self._require_open()
            return self._collect(answered[0]) if answered else None

    def _wait(self) -> list:
        """Returns [the oldest answered request], or [] when a worker is due before anything was
        answered.
        """
        with self._lock:
            self._require_open()
            self._attend_due_workers()
            requests = list(self._in_flight)
            seconds = max(0.0, min(worker.due for worker in self._workers) - time.monotonic())
        if not requests:
            self._closed.wait(seconds)
            return []
        # num_returns=1 alone picks any one of several answers: with a slow learner, data would age
        # by chance
        answered, _ = ray.wait(requests, num_returns=len(requests), timeout=0)
        return answered[:1] or ray.wait(requests, num_returns=1, timeout=seconds)[0]

    def _collect(self, request) -> RolloutResult | None:
        """Returns the answer to an answered request; None if the answer is a failure."""
        worker = self._in_flight[request]
        try:
            result = ray.get(request)
        except WORKER_FAILURES as cause:
            self._lose(worker, cause)
            return None
        del self._in_flight[request]
        worker.num_failures = 0
        self._patience.note(result.seconds)
        worker.due = time.monotonic() + self._patience.seconds
        for other in self._workers:  # the first rollout of all ends the long wait for the others'
            other.due = min(other.due, worker.due) if other.is_busy else other.due
        return result

    def _rearm_idle_workers(self) -> None:
        """Requests rollouts of every worker that has delivered; those at rest stay at rest."""
        for worker in self._workers if not (self._in_rounds and self._in_flight) else ():
            if worker.is_busy and len(self._requests_of(worker)) < self._max_in_flight:
                self._arm(worker)

    def _attend_due_workers(self) -> None:
        """Wakes the workers whose rest is over and loses those that missed their deadline."""
        for worker in [worker for worker in self._workers if worker.due <= time.monotonic()]:
            (self._check_deadline if worker.is_busy else self._wake)(worker)

    def _check_deadline(self, worker: _Worker) -> None:
        """Loses a worker past its deadline, unless it owes nothing, its answer waits or Ray has no
        place for it.
        """
        seconds, requests = self._patience.seconds, self._requests_of(worker)
        answered = (
            not requests or ray.wait(requests, num_returns=1, timeout=0, fetch_local=False)[0]
        )
        if not answered and is_placed(worker.handle):
            self._lose(worker, TimeoutError(f"no rollout in {seconds:g} s: it hangs"))
        else:
            worker.due = time.monotonic() + seconds
            if not answered:
                _logger.warning(
                    "worker %d waits: Ray has had no place for it in %g s",
                    worker.worker_id,
                    seconds,
                )

    def _lose(self, worker: _Worker, cause: BaseException) -> None:
        """Drops what `worker` had in flight and sends it to rest; raises when its restarts are used
        up.
        """
        requests = self._requests_of(worker)
        for request in requests:
            del self._in_flight[request]
        self._num_dropped += len(requests)
        worker.num_failures += 1
        name = f"worker {worker.worker_id} (incarnation {worker.incarnation})"
        _logger.error("%s failed, %d rollouts dropped: %s", name, len(requests), cause)
        if worker.num_failures > self._max_restarts:
            self.close()
            raise ActorPoolError(
                f"{name} failed {worker.num_failures} times in a row, at last: {cause}"
            ) from cause
        # Out of reach once, it may come back; its node may be gone too, which Ray takes half a
        # minute to find out.
        if not isinstance(cause, exceptions.ActorUnavailableError) or worker.num_failures > 1:
            self._kill(worker)
        worker.is_busy = False
        seconds = self._restart_backoff_seconds * 2 ** (worker.num_failures - 1)
        worker.due = time.monotonic() + min(seconds, MAX_BACKOFF_SECONDS)

    def _wake(self, worker: _Worker) -> None:
        """Arms a rested worker, as its next incarnation if the last one was killed."""
        if worker.handle is None:
            worker.incarnation += 1
            worker.handle = self._start(worker.worker_id, worker.incarnation)
        self._arm(worker)

    def _arm(self, worker: _Worker) -> None:
        """Requests rollouts with the newest parameters until `max_in_flight`; the clock starts
        anew.
        """
        for _ in range(self._max_in_flight - len(self._requests_of(worker))):
            self._in_flight[worker.handle.rollout.remote(self._published)] = worker
        worker.is_busy = True
        worker.due = time.monotonic() + self._patience.seconds

    def _kill(self, worker: _Worker) -> None:
        """Ends the worker's process, whatever it is doing."""
        if (
            worker.handle is not None and ray.is_initialized()
        ):  # ray.kill without Ray would start it
            ray.kill(worker.handle)
        worker.handle = None

    def _requests_of(self, worker: _Worker) -> list:
        """Returns the worker's requests in flight, oldest first."""
        return [request for request, owner in self._in_flight.items() if owner is worker]

    def _require_open(self) -> None:
        """Raises ActorPoolError after `close`."""
        if self._closed.is_set():
            raise ActorPoolError("the actor pool is closed")
