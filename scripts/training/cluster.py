"""How a program comes to its Ray: an embedded one, or a cluster that is there already; and whom it
lets in.

Whoever reaches a port of Ray can run code as this user, so nothing is opened without a token: an
embedded Ray gets one of its own that no file holds, and another machine's cluster is joined with
the token of its owner only.
"""

import contextlib
import ipaddress
import logging
import math
import os
import secrets
import signal
import socket
import subprocess
import sys
import textwrap
import uuid
from collections.abc import Iterator
from pathlib import Path

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from configs.schema import ConfigError
from scripts.program import process
from scripts.program.exit_codes import ExitCode

# Of an embedded Ray: a few batches and two versions of small parameters
_OBJECT_STORE_BYTES = 2**30
_MAX_STARTS = 3
_MAX_REASON = 200  # characters of what Ray says
_RAY_TOKENS = "ray._private.authentication.authentication_token_setup"  # a logger
_CONNECT_SECONDS = 10.0
_JOIN_SECONDS = 60.0
# Where Ray starts and is joined: it puts the present directory before everything that its workers
# import from, and a folder `scripts` or `configs` of the user's there is not ours.
_OURS = Path(__file__).resolve().parents[2]


def check_address(address: str | None) -> None:
    """Raises `ConfigError` if there is no cluster at `auto` or HOST:PORT, where Ray would try for
    many minutes, or if it would be open to strangers.

    `auto` is tried in a child process: nothing may start here before the run directory exists.
    """
    _require_token(address)
    if address == "auto" and not finds_cluster():
        raise ConfigError(
            "--ray-address auto: no Ray cluster runs on this machine; start one or leave it out"
        )
    host, _, port = (address or "").rpartition(":")
    if "://" in host or not port.isdecimal():
        return  # embedded, `auto`, or a scheme of Ray's own
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_CONNECT_SECONDS).close()
    except (OSError, OverflowError) as error:  # the latter: no such port number
        raise ConfigError(
            f"--ray-address {address}: no Ray cluster answers there ({error})"
        ) from error


def _require_token(address: str | None) -> None:
    """Raises `ConfigError` where Ray would listen beyond loopback to whoever comes: it binds all
    interfaces.
    """
    mode = os.environ.get("RAY_AUTH_MODE", "").lower()
    if address is None and mode not in ("", "token"):
        raise ConfigError(
            f"RAY_AUTH_MODE = {mode}: an embedded Ray listens on every interface of this machine; "
            f"unset it or use token"
        )
    host = (address or "").rpartition("://")[2].rpartition(":")[0].strip("[]")
    if address not in (None, "auto", "local") and not _is_loopback(host) and mode != "token":
        raise ConfigError(
            f"--ray-address {address}: a cluster beyond this machine needs RAY_AUTH_MODE=token and "
            f"its token "
            "(RAY_AUTH_TOKEN, RAY_AUTH_TOKEN_PATH or ~/.ray/auth_token)"
        )


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:  # a name, and names lead anywhere
        return False


def check_shared(option: str, path: Path, ray_address: str | None) -> None:
    """Raises `ConfigError` unless every node of the running cluster sees `path`, which exists here.

    Asked, not guessed: a file is written here and looked for there. An embedded Ray has one node.
    """
    if ray_address is None:
        return
    mark = path / f".seen-{uuid.uuid4().hex}"
    mark.touch()
    try:
        blind = [
            node["NodeManagerHostname"]
            for node in ray.nodes()
            if node["Alive"] and not _sees(node, mark)
        ]
    finally:
        mark.unlink()
    if blind:
        raise ConfigError(
            f"{option} {path}: not seen by {', '.join(blind)}; it must be a path that every node "
            f"sees (a shared "
            "mount): a local path with more than one node is refused"
        )


def _sees(node: dict, mark: Path) -> bool:
    """Returns whether a node sees the file; so does one that has died, which Ray may find out only
    now.
    """
    on_that_node = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
    look = ray.remote(os.path.exists).options(num_cpus=0, scheduling_strategy=on_that_node)
    try:
        return ray.get(look.remote(str(mark)), timeout=_JOIN_SECONDS)
    except ray.exceptions.TaskUnschedulableError:
        return True


def tell_room(num_cpus: float) -> None:
    """Says so if the cluster has fewer CPUs than are asked for: it may be growing, or it is too
    small.
    """
    there = ray.cluster_resources().get("CPU", 0.0)
    if there < num_cpus:
        print(
            f"actors ask for {num_cpus:g} CPUs, Ray has {there:g} now: those without a place wait "
            f"for one",
            flush=True,
        )


def require_devices(device: str, num_workers: int, amount: float) -> None:
    """Raises `ConfigError` unless the Ray that has started has `amount` of a device for every
    worker.
    """
    there = ray.cluster_resources().get(device.upper(), 0.0)
    if device != "cpu" and there < num_workers * amount:
        raise ConfigError(
            f"actors.device = {device}: {num_workers} worker(s) need {num_workers * amount:g}, Ray "
            f"finds {there:g} here"
        )


def finds_cluster() -> bool:
    """Returns whether a child process can join the cluster that runs on this machine."""
    command = [
        sys.executable,
        "-P",
        "-c",
        "import ray; ray.init(address='auto', log_to_driver=False)",
    ]
    try:
        return subprocess.run(command, capture_output=True, timeout=_JOIN_SECONDS).returncode == 0
    except subprocess.TimeoutExpired:
        return False


def stop_ray() -> None:
    """Leaves the cluster; an embedded Ray ends with all its processes."""
    ray.shutdown()


def start_ray(address: str | None, *, num_cpus: float) -> None:
    """Joins the cluster at `address`, or starts an embedded Ray with CPU resources for all actors.

    Raises `ConfigError` if there is no cluster at `address`, or if Ray does not start here.
    """
    if address is None:
        # Ray gives its workers niceness 15: any other job on the machine starves the actors, and
        # the run with them.
        os.environ.setdefault("RAY_worker_niceness", "0")
        # It keeps a record of every rollout asked for, up to 100,000 of them, for a dashboard that
        # there is not.
        os.environ.setdefault("RAY_task_events_report_interval_ms", "0")
        if "RAY_AUTH_MODE" not in os.environ:
            # Then Ray asks for a token, takes its user's if it is given none, and says in two lines
            # that it does.
            os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
            logging.getLogger(_RAY_TOKENS).setLevel(logging.ERROR)
        _start_embedded(num_cpus)
        return
    try:
        with contextlib.chdir(_OURS):
            ray.init(address=address, log_to_driver=False)
    except ConnectionError as error:
        raise ConfigError(f"--ray-address {address}: {error}") from error


def _start_embedded(num_cpus: float) -> None:
    """Starts Ray, which waits a fixed time for its own daemons: on a busy machine in vain."""
    for attempt in range(1, _MAX_STARTS + 1):
        # Affinity is inherited: pin the program and the workers are pinned with it. CPUs here only
        # place actors.
        try:
            with _sigterm_blocked(), contextlib.chdir(_OURS):
                ray.init(
                    address="local",
                    num_cpus=max(1, math.ceil(num_cpus)),
                    object_store_memory=_OBJECT_STORE_BYTES,
                    include_dashboard=False,
                    log_to_driver=False,
                    configure_logging=False,
                )
            return
        except Exception as error:  # Ray raises Exception itself
            ray.shutdown()
            message = textwrap.shorten(str(error), _MAX_REASON, placeholder=" …")
            reason = f"{type(error).__name__}: {message}"
        if attempt < _MAX_STARTS:
            print(f"Ray did not start, once more ({reason})", file=sys.stderr, flush=True)
    raise ConfigError(
        f"Ray did not start in {_MAX_STARTS} attempts, at last {reason}; "
        "is the machine very busy, its memory or its /dev/shm full?"
    )


@contextlib.contextmanager
def _sigterm_blocked() -> Iterator[None]:
    """Has Ray's processes, started meanwhile, not hear a SIGTERM or what counts as it, as Ray sees
    to it for SIGINT.

    A cluster manager sends it to the whole process group: Ray's would be gone while the learner
    finishes its batch, and Ray ends a driver without its object store on the spot, without a
    checkpoint. They end with `stop_ray`, or with us. One that comes meanwhile ends this program in
    the end as it should, where Ray's own handler would abort it.
    """
    blocked = set(process.ending_signals()) - {signal.SIGINT}
    signal.pthread_sigmask(signal.SIG_BLOCK, blocked)
    try:
        yield
    finally:
        for number in blocked:
            signal.signal(number, _leave)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, blocked)


def _leave(number: int, frame) -> None:
    raise SystemExit(ExitCode.SIGTERM)
