"""The process around one plain-Python rollout: its cores, its seed, its log, and how Ray starts it.

The order inside a new worker process matters:

    unpickle RolloutWorker ─▶ claim cores, pin ─▶ unpickle build_rollout ─▶ build_rollout(seed) ─▶ …
      (NumPy at most)                          (imports JAX, ...)        (starts XLA's threads)

XLA sizes its thread pool by the cores that it may use at the first use of JAX, and never looks
again.
"""

import logging
import os
import pathlib
import pickle
import socket
import time
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import numpy as np
import ray
import ray._private.state
import ray.cloudpickle
from ray import exceptions

from actors.cores import keep_to_cores
from actors.identity import code_identity, require_same_code
from configs.schema import ActorsConfig
from muzero.types import Origin, PublishedParams, RolloutResult

# An actor without a GPU of its own still sees the learner's
CPU_ENV_VARS = {"JAX_PLATFORMS": "cpu"}
# Whatever Ray raises in place of an answer: what the process raised, readable here or not, its
# death, that of its node, the loss of its result.
WORKER_FAILURES = (exceptions.RayError,)
_LOG_FORMAT = "%(asctime)s %(levelname)s pid %(process)d: %(message)s"


def device_options(device: str, amount: float) -> tuple[dict, dict[str, str]]:
    """Returns what to ask of Ray, and the environment, for a process that computes on `amount` of a
    kind of device.

    Args:
      device: "cpu", "gpu" or "tpu".
      amount: devices; for a GPU also a fraction of one.
    """
    if device == "cpu":
        return {}, CPU_ENV_VARS
    if device == "tpu":
        return {"resources": {"TPU": amount}}, {"JAX_PLATFORMS": "tpu,cpu"}
    memory = 0.9 * min(amount, 1.0)  # XLA takes 75 % of a GPU for itself unless told otherwise
    return {"num_gpus": amount}, {
        "JAX_PLATFORMS": "cuda,cpu",
        "XLA_PYTHON_CLIENT_MEM_FRACTION": f"{memory:g}",
    }


class RolloutProtocol(Protocol):
    """What a worker runs: see `actors/rollout.py`."""

    def run(self, published: PublishedParams) -> RolloutResult:
        """Returns the next sequence of every environment, acted with `published`."""

    def save(self) -> dict[str, np.ndarray]:
        """Returns all that the next sequence depends on."""

    def load(self, arrays: dict[str, np.ndarray]) -> None:
        """Goes on where the saved rollout was."""


BuildRollout = Callable[[int], RolloutProtocol]  # seed -> rollout


class PickledBuilder:
    """A `build_rollout` that travels as bytes, so that none of its imports happen until it is
    called.
    """

    def __init__(self, build_rollout: BuildRollout):
        """Pickles `build_rollout`, by value where it is defined in a function or in `__main__`."""
        self._identity = code_identity()
        self._payload = ray.cloudpickle.dumps(build_rollout)

    def __call__(self, seed: int) -> RolloutProtocol:
        """Returns `build_rollout(seed)`; importing what it needs happens here.

        Raises CodeMismatch.
        """
        require_same_code(self._identity)
        return pickle.loads(self._payload)(seed)


def worker_seed(seed: int, worker_id: int, incarnation: int) -> int:
    """Returns the seed of one incarnation of one worker, in [0, 2**31): emulators take a signed
    32-bit integer.

    Args:
      seed: of the whole run, not negative.
      worker_id: index of the worker in its pool.
      incarnation: how many times the worker has been replaced. A replacement must not repeat the
        games of its predecessor: they are in the learner already, and one of them may be what
        killed it.
    """
    sequence = np.random.SeedSequence(seed, spawn_key=(worker_id, incarnation))
    return int(sequence.generate_state(1)[0] >> 1)


class RolloutWorker:
    """One worker: builds its rollout once, then answers one request after the other."""

    def __init__(
        self,
        build_rollout: BuildRollout,
        *,
        worker_id: int,
        incarnation: int,
        seed: int,
        log_dir: str | os.PathLike,
        cores_per_worker: int | None = None,
    ):
        """Pins the calling thread, opens the log and builds the rollout.

        Args:
          build_rollout: seed -> `RolloutProtocol`; called once, after the pinning (see the module's
            docstring).
          worker_id: index of the worker in its pool.
          incarnation: how many times this worker has been replaced.
          seed: of the whole run; the rollout gets `worker_seed(seed, worker_id, incarnation)`.
          log_dir: `worker-<worker_id>.log` in it is appended to; created where it is missing.
          cores_per_worker: cores this process is pinned to, where so many are unclaimed; None for
            no pinning.

        Raises:
          OSError: the log cannot be written.
          Exception: whatever `build_rollout` raises; it is in the log with its traceback.
        """
        cores = None if cores_per_worker is None else keep_to_cores(cores_per_worker)
        self._origin = Origin(worker_id, incarnation, number=0)
        self._logger = _open_log(pathlib.Path(log_dir), worker_id)
        own_seed = worker_seed(seed, worker_id, incarnation)
        self._logger.info(
            "worker %d starts: incarnation %d, seed %d, host %s, cores %s, JAX_PLATFORMS %s",
            worker_id, incarnation, own_seed, socket.gethostname(), cores or "free",
            os.environ.get("JAX_PLATFORMS"),
        )  # fmt: skip
        self._rollout = self._logged(build_rollout, own_seed)

    def rollout(self, published: PublishedParams) -> RolloutResult:
        """Returns the next `RolloutResult`, acted with `published` (NumPy leaves, read-only when
        Ray carried them).

        Raises:
          Exception: whatever the rollout raises; it is in the log with its traceback. The rollout
            is in an unknown state then: throw the worker away.
        """
        started = time.monotonic()
        result = self._logged(self._rollout.run, published)
        self._origin = self._origin._replace(number=self._origin.number + 1)
        return result._replace(origin=self._origin, seconds=time.monotonic() - started)

    def save(self) -> dict[str, np.ndarray]:
        """Returns the state of the rollout between two requests."""
        return self._logged(self._rollout.save)

    def load(self, arrays: dict[str, np.ndarray]) -> None:
        """Goes on where the saved rollout was, whichever process it was in."""
        self._logged(self._rollout.load, arrays)

    def _logged(self, function: Callable, *arguments):
        """Returns `function(*arguments)`; an exception passes through, and its traceback into the
        log.
        """
        try:
            return function(*arguments)
        except Exception:
            self._logger.exception(
                "%s failed", getattr(function, "__qualname__", type(function).__name__)
            )
            raise


def make_start_fn(
    build_rollout: BuildRollout,
    settings: ActorsConfig,
    *,
    seed: int,
    log_dir: str | os.PathLike,
    cores_per_worker: int | None = None,
    env_vars: Mapping[str, str] | None = None,
) -> Callable[[int, int], Any]:
    """Returns `start(worker_id, incarnation)`.

    It starts a `RolloutWorker` and returns its Ray handle at once.

    Args:
      build_rollout, seed, log_dir, cores_per_worker: as for `RolloutWorker`.
      settings: what a worker asks of Ray; JAX stays off devices that are not its own.
      env_vars: further environment variables of the process.
    """
    resources, device_env_vars = device_options(settings.device, settings.device_fraction)
    actor_class = ray.remote(RolloutWorker).options(
        **resources,
        num_cpus=settings.cpus_per_worker,  # for its placement, it limits nothing
        max_restarts=0,  # Ray would restart it with the same arguments, hence with the same seed
        max_task_retries=0,
        runtime_env={"env_vars": {**(env_vars or {}), **device_env_vars}},
    )
    builder = PickledBuilder(build_rollout)
    folder = pathlib.Path(log_dir).resolve()  # the working directory of a worker is Ray's business

    def start(worker_id: int, incarnation: int):
        return actor_class.remote(
            builder,
            worker_id=worker_id,
            incarnation=incarnation,
            seed=seed,
            log_dir=folder,
            cores_per_worker=cores_per_worker,
        )

    return start


def is_placed(handle: Any) -> bool:
    """Returns whether Ray has found a place for a worker, which may still be starting there.

    From Ray's own table: the public API has it from the dashboard alone, which an embedded Ray
    lacks.
    """
    return ray._private.state.actors(handle._actor_id.hex()).get("Pid") != 0


def _open_log(log_dir: pathlib.Path, worker_id: int) -> logging.Logger:
    """Returns a logger that appends to this worker's file, and only there."""
    log_dir.mkdir(parents=True, exist_ok=True)
    logger = logging.getLogger(f"{__name__}.{worker_id}")
    for handler in list(logger.handlers):  # a second worker of the same id in one process: tests
        logger.removeHandler(handler)
        handler.close()
    handler = logging.FileHandler(log_dir / f"worker-{worker_id:03d}.log")
    handler.setFormatter(logging.Formatter(_LOG_FORMAT))
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    # Ray would copy it to the driver's terminal, beside the pool's own report
    logger.propagate = False
    return logger
