"""How a program comes to its Ray: an embedded one, or a cluster that is there already."""

import socket

import ray

from configs.schema import ConfigError

_OBJECT_STORE_BYTES = 2**30  # of an embedded Ray: a few batches and two versions of small parameters
_CONNECT_SECONDS = 10.0


def check_address(address: str | None) -> None:
    """Raises `ConfigError` if `address` is HOST:PORT and nobody listens there: Ray would try for many minutes."""
    host, _, port = (address or "").rpartition(":")
    if "://" in host or not port.isdecimal():
        return  # embedded, `auto`, or a scheme of Ray's own
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_CONNECT_SECONDS).close()
    except (OSError, OverflowError) as error:  # the latter: no such port number
        raise ConfigError(f"--ray-address {address}: no Ray cluster answers there ({error})") from error


def stop_ray() -> None:
    """Leaves the cluster; an embedded Ray ends with all its processes."""
    ray.shutdown()


def start_ray(address: str | None, *, num_workers: int, cpus_per_worker: float) -> None:
    """Joins the cluster at `address`, or starts an embedded Ray with room for the workers.

    Raises `ConfigError` if there is no cluster at `address`.
    """
    if address is None:
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
