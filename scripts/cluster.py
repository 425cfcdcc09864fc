"""How a program comes to its Ray: an embedded one, or a cluster that is there already."""

import os
import socket
import subprocess
import sys

import ray

from configs.schema import ConfigError

_OBJECT_STORE_BYTES = 2**30  # of an embedded Ray: a few batches and two versions of small parameters
_CONNECT_SECONDS = 10.0
_JOIN_SECONDS = 60.0


def check_address(address: str | None) -> None:
    """Raises `ConfigError` if there is no cluster at `auto` or HOST:PORT, where Ray would try for many minutes.

    `auto` is tried in a child process: nothing may start here before the run directory exists.
    """
    if address == "auto" and not finds_cluster():
        raise ConfigError("--ray-address auto: no Ray cluster runs on this machine; start one or leave it out")
    host, _, port = (address or "").rpartition(":")
    if "://" in host or not port.isdecimal():
        return  # embedded, `auto`, or a scheme of Ray's own
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_CONNECT_SECONDS).close()
    except (OSError, OverflowError) as error:  # the latter: no such port number
        raise ConfigError(f"--ray-address {address}: no Ray cluster answers there ({error})") from error


def finds_cluster() -> bool:
    """Returns whether a child process can join the cluster that runs on this machine."""
    command = [sys.executable, "-c", "import ray; ray.init(address='auto', log_to_driver=False)"]
    try:
        return subprocess.run(command, capture_output=True, timeout=_JOIN_SECONDS).returncode == 0
    except subprocess.TimeoutExpired:
        return False


def stop_ray() -> None:
    """Leaves the cluster; an embedded Ray ends with all its processes."""
    ray.shutdown()


def start_ray(address: str | None, *, num_workers: int, cpus_per_worker: float) -> None:
    """Joins the cluster at `address`, or starts an embedded Ray with room for the workers.

    Raises `ConfigError` if there is no cluster at `address`.
    """
    if address is None:
        # Ray gives its workers niceness 15: any other job on the machine starves the actors, and the run with them.
        os.environ.setdefault("RAY_worker_niceness", "0")
        # Affinity is inherited: pin the program and the workers are pinned with it. CPUs here only place actors.
        ray.init(
            address="local",
            num_cpus=max(1, round(num_workers * cpus_per_worker + 0.5)),
            object_store_memory=_OBJECT_STORE_BYTES,
            include_dashboard=False,
            log_to_driver=False,
            configure_logging=False,
        )
        return
    try:
        ray.init(address=address, log_to_driver=False)
    except ConnectionError as error:
        raise ConfigError(f"--ray-address {address}: {error}") from error
