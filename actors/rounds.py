"""The pool of a deterministic run: every worker delivers once a round, in the order of their
numbers.

    publish ─▶ ask 0, 1, ... W-1 ─▶ rollout of 0 ... of W-1 ─▶ all at rest: `save`, `publish`, again

All of a round act with the same parameters, and between two rounds nothing is in flight: then the
states of the workers are the whole of the actors' side.  Nobody is replaced: a new worker would
play other games, so that a failure ends the session, and resuming from the last checkpoint repeats
the very same games.
"""

import collections
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import ray

from actors import states
from actors.patience import Patience
from actors.pool import ActorPoolError
from actors.worker import WORKER_FAILURES, BuildRollout, make_start_fn
from configs.schema import ActorsConfig
from muzero.types import PublishedParams, RolloutResult


class RoundPool:
    """Like `ActorPool`, in rounds.

    `next_rollout` belongs to one thread; `close` may be called from another, the rest between two
    rounds.

    Args:
      build_rollout: seed -> `RolloutProtocol`; pickled here, unpickled in the workers.
      settings: of the workers.
      patience: longest wait for an answer.
      worker: seed, log_dir and so on, see `make_start_fn`.
    """

    # Always: a failure ends the session, and what was in flight will be played again.
    num_dropped = num_waiting = 0

    def __init__(
        self,
        build_rollout: BuildRollout,
        settings: ActorsConfig,
        *,
        patience: Patience | None = None,
        **worker,
    ):
        start = make_start_fn(build_rollout, settings, **worker)
        self._patience = patience or Patience()
        self._workers = [start(i, 0) for i in range(settings.num_workers)]
        # Of this round, in the order of the workers.
        self._in_flight: collections.deque = collections.deque()
        self._published = None

    @property
    def is_closed(self) -> bool:
        """Whether the workers are gone, by `close` or a failure: what they knew cannot be saved any
        more.
        """
        return not self._workers

    @property
    def num_in_flight(self) -> int:
        """Rollouts requested and not delivered: none between two rounds."""
        return len(self._in_flight)

    def publish(self, published: PublishedParams) -> None:
        """Makes `published` what the next round acts with."""
        self._published = ray.put(published)

    def next_rollout(self) -> RolloutResult:
        """Returns the next worker's rollout.

        Raises ActorPoolError if it failed, timed out or was closed.
        """
        if self.is_closed:
            raise ActorPoolError("the actor pool is closed")
        if not self._in_flight:
            self._in_flight.extend(
                worker.rollout.remote(self._published) for worker in self._workers
            )
        result = self._get(self._in_flight.popleft())
        self._patience.note(result.seconds)
        return result

    def save(self) -> dict[str, np.ndarray]:
        """Returns the states of all workers, between two rounds. Raises ActorPoolError."""
        saved = self._ask_all(lambda n, worker: worker.save.remote())
        return {
            name: x
            for n, arrays in enumerate(saved)
            for name, x in states.nested(str(n), arrays).items()
        }

    def load(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Puts new workers into the states that `save` returned. Raises ActorPoolError."""
        self._ask_all(lambda n, worker: worker.load.remote(states.part(str(n), arrays)))

    def close(self) -> None:
        """Kills the workers; a blocked `next_rollout` raises. Closing twice is fine."""
        workers, self._workers = self._workers, []
        for worker in workers:
            if ray.is_initialized():  # ray.kill without Ray would start it
                ray.kill(worker)

    def _ask_all(self, ask: Callable[[int, Any], Any]) -> list:
        if self._in_flight or not self._workers:
            raise ActorPoolError("the workers are not at rest, or closed")
        return self._get([ask(n, worker) for n, worker in enumerate(self._workers)])

    def _get(self, requests: Any) -> Any:
        try:
            return ray.get(requests, timeout=self._patience.seconds)
        except WORKER_FAILURES as cause:
            self.close()
            raise ActorPoolError(
                f"a worker failed in a deterministic run, where none is replaced: {cause}"
            ) from cause
