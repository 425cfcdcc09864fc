"""Several learner processes on one or many machines: placed by Ray, started, ended and restarted
together.

train.py ──▶ process 0 ──▶ its actors        each process: a session with its share of every batch;
        ├──▶ process 1 ──▶ its actors        process 0 writes the run and decides when it ends
        └──▶ process 2 ──▶ its actors
one dies ─▶ all are killed, their actors with them ─▶ all start again from the newest checkpoint
"""

import contextlib
import logging
import socket
import time
from pathlib import Path

import jax
import ray
from ray.exceptions import RayTaskError
from ray.util.placement_group import placement_group, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from actors.identity import CodeMismatch, code_identity, require_same_code
from actors.worker import WORKER_FAILURES, device_options
from configs.schema import Config, ConfigError
from learner.loop import Counters, NonFiniteError
from learner.records.checkpoint_files import CheckpointError, complete_slots
from learner.records.run_directory import NotWritten, RunDirectory, RunDirectoryError
from scripts.program import assemble
from scripts.program.reexecution import jemalloc_env_vars
from scripts.training.beginning import Start
from scripts.training.interrupts import Interrupts, StopRequest
from scripts.training.session import Outcome, run_session

MAX_RESTARTS = 5  # in a row, without a new checkpoint
# What would come again, or has to be told at once; `--max-restarts` knows which of them to try
# again.
_FINAL = (ConfigError, CodeMismatch, RunDirectoryError, NotWritten, CheckpointError, NonFiniteError)
_LAST_WORDS_SECONDS = 60.0  # for the first process to write down which batch was not finite
PLACEMENT_SECONDS = 600.0  # a cluster may have to start machines first
_POLL_SECONDS = 0.5
_logger = logging.getLogger(__name__)


class LearnerProcess:
    """One process of the group: an empty Ray actor until `train`."""

    def address(self) -> str:
        """Returns HOST:PORT of this machine, free at the moment,
        for the coordinator of the group.
        """
        with socket.socket() as free:
            free.bind(("", 0))
            return f"{ray.util.get_node_ip_address()}:{free.getsockname()[1]}"

    def train(
        self,
        index: int,
        coordinator: str,
        code: dict[str, str],
        config: Config,
        run_dir: Path,
        start: Start,
    ) -> Counters:
        """Trains as process `index`; returns the counters at the end. What it prints is in its log.

        Raises CodeMismatch unless this machine has the driver's `code`, and whatever a session
        raises.
        """
        require_same_code(code)
        assemble.split_cpu(config)
        # Left alone, the coordinator would listen on every interface; and under SLURM, whose
        # variables Ray's workers inherit, JAX would take one device a process for itself.
        jax.distributed.initialize(
            coordinator,
            config.learner.num_processes,
            index,
            cluster_detection_method="deactivate",
            coordinator_bind_address=coordinator,
        )
        directory = RunDirectory.open(run_dir)
        directory.logs.mkdir(exist_ok=True)
        with (
            (directory.logs / f"learner-{index}.log").open("a") as log,
            contextlib.redirect_stdout(log),
        ):
            if index == 0:
                directory.record_devices(
                    [f"{d.platform}:{d.id} {d.device_kind}" for d in jax.devices()]
                )
            return run_session(config, directory, start, StopRequest(directory.path)).counters


def run_group(config: Config, directory: RunDirectory, start: Start) -> Outcome:
    """Trains with `config.learner.num_processes` processes; nobody counts the sequences that they
    lose.

    Raises what a process raised where starting again cannot help, one of `WORKER_FAILURES` if the
    group failed more than `MAX_RESTARTS` times without a new checkpoint, `ConfigError` if the
    processes find no place.
    """
    stop = StopRequest(directory.path)
    stop.clear()
    print(
        f"learner processes: {config.learner.num_processes}, logs in "
        f"{directory.logs}/learner-*.log",
        flush=True,
    )
    num_failures, newest = 0, None
    interrupts = Interrupts()
    with (
        interrupts.watched(after_grace=lambda: None),
        _placed(config, start, interrupts) as start_process,
    ):
        while True:
            try:
                counters = _run_once(config, directory, start, start_process, interrupts)
                return Outcome(counters, interrupts.name, num_lost=0)
            except WORKER_FAILURES as error:
                before, newest = newest, max(complete_slots(directory.checkpoints), default=None)
                num_failures = num_failures + 1 if newest == before else 1
                if isinstance(cause := _cause(error), _FINAL):
                    raise cause from error
                if num_failures > MAX_RESTARTS or interrupts.name is not None:
                    raise
                _logger.error(
                    "a learner process failed, all %d start again: %s",
                    config.learner.num_processes,
                    error,
                )
                time.sleep(2.0 ** (num_failures - 1))
                start = start._replace(resume=start.resume or newest is not None)


def _run_once(
    config: Config, directory: RunDirectory, start: Start, start_process, interrupts: Interrupts
) -> Counters:
    """Returns the counters of a group that came to its end; whatever happens, no process of it is
    left.
    """
    stop, members = StopRequest(directory.path), []
    try:
        members = [start_process(index) for index in range(config.learner.num_processes)]
        coordinator = ray.get(members[0].address.remote())
        pending = [
            member.train.remote(index, coordinator, code_identity(), config, directory.path, start)
            for index, member in enumerate(members)
        ]
        first = pending[0]
        while pending:
            ended, pending = ray.wait(pending, num_returns=1, timeout=_POLL_SECONDS)
            try:
                # Raises what a process raised: the others would wait for it for ever
                ray.get(ended)
            except WORKER_FAILURES as error:
                if isinstance(_cause(error), NonFiniteError):  # all processes see it
                    ray.wait([first], timeout=_LAST_WORDS_SECONDS)
                raise
            if interrupts.name is not None:
                stop.ask(interrupts.name)
        return ray.get(first)
    finally:
        for member in members:
            ray.kill(member)


def _cause(error: Exception) -> Exception | None:
    """Returns what a process raised, None if it died or its exception cannot be read here."""
    return error.cause if isinstance(error, RayTaskError) else None


def bundle_of(config: Config) -> dict[str, float]:
    """Returns the Ray resources that one learner process reserves."""
    learner = config.learner
    resources, _ = device_options(learner.process_device, learner.num_devices or 1)
    gpus = {"GPU": resources["num_gpus"]} if "num_gpus" in resources else {}
    return {"CPU": 1, **gpus, **resources.get("resources", {})}


@contextlib.contextmanager
def _placed(config: Config, start: Start, interrupts: Interrupts):
    """Reserves what the processes need, spread over the machines; yields `start_process(index) ->
    Ray handle`.
    """
    learner = config.learner
    resources, device_env_vars = device_options(learner.process_device, learner.num_devices or 1)
    env_vars = jemalloc_env_vars() | device_env_vars
    places = placement_group([bundle_of(config)] * learner.num_processes, strategy="SPREAD")
    actor_class = ray.remote(LearnerProcess)

    def start_process(index: int):
        strategy = PlacementGroupSchedulingStrategy(places, placement_group_bundle_index=index)
        options = dict(
            num_cpus=1,
            max_restarts=0,
            scheduling_strategy=strategy,
            runtime_env={"env_vars": env_vars},
        )
        return actor_class.options(**resources, **options).remote()

    try:
        _wait_for(
            places,
            bundle_of(config),
            0.0 if start.ray_address is None else PLACEMENT_SECONDS,
            interrupts,
        )
        yield start_process
    finally:
        remove_placement_group(places)


def _wait_for(places, bundle: dict[str, float], seconds: float, interrupts: Interrupts) -> None:
    """Waits until the processes have their places, and says so from time to time.

    Raises `ConfigError` once `seconds` are over and the cluster, busy or not, is too small;
    KeyboardInterrupt if the program is asked to end.
    """
    deadline, ready = time.monotonic() + seconds, places.ready()

    def known(resources):
        return {name: resources.get(name, 0.0) for name in bundle}

    if not ray.wait([ready], timeout=10 * _POLL_SECONDS)[0]:
        print(
            f"waiting for Ray to place {places.bundle_count} processes of {bundle} each", flush=True
        )
    while not ray.wait([ready], timeout=_POLL_SECONDS)[0]:
        if interrupts.name is not None:
            raise KeyboardInterrupt
        if time.monotonic() < deadline:
            continue
        there = known(ray.cluster_resources())
        if any(there[name] < count * places.bundle_count for name, count in bundle.items()):
            raise ConfigError(
                f"learner.num_processes = {places.bundle_count}: each needs {bundle}, and Ray has "
                f"{there} in all; see "
                "learner.process_device and learner.num_devices"
            )
        deadline = time.monotonic() + PLACEMENT_SECONDS
        print(
            f"still waiting: free are {known(ray.available_resources())} of {there}; what this job "
            f"has reserved for "
            "itself (--entrypoint-num-gpus) is taken too",
            flush=True,
        )
