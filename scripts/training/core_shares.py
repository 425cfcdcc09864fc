"""How a machine is shared: workers, environments and cores for the actors, the rest for the
learner.
"""

import dataclasses
from typing import NamedTuple

from actors.cores import usable_cores
from configs.schema import Config, ConfigError

# The learner's feed and dispatch keep one more core busy for every so many actors
CORES_PER_RESERVED_CORE = 16


class Share(NamedTuple):
    """The actors' part of a machine, and what is left."""

    num_workers: int
    environments_per_worker: int
    # What every worker claims; None: there are more workers than cores
    cores_per_worker: int | None
    learner_cores: int  # that no worker claims

    def __str__(self) -> str:
        cores = (
            "no cores of their own"
            if self.cores_per_worker is None
            else f"{self.cores_per_worker} core(s) each"
        )
        return (
            f"actors: {self.num_workers} worker(s) x {self.environments_per_worker} environments, "
            f"{cores}; "
            f"learner: {self.learner_cores} core(s) in reserve"
        )


def share_cores(config: Config, num_cores: int) -> Share:
    """Returns the automatic choice for a machine with `num_cores` cores.

    One worker a core beside the learner's: two pinned processes search 1.4 times as much as one on
    two cores (`scripts/benchmark.py actors`). In lockstep learner and actors take turns, and
    nothing is reserved. Together the workers of a learner process bring one batch, or as much of it
    as divides it.
    """
    learner_cores, num_processes = _learner_cores(config, num_cores), config.learner.num_processes
    num_workers = max(1, (num_cores - learner_cores) // num_processes)
    batch_size = config.learner.batch_size // num_processes
    most = max(1, batch_size // num_workers)
    environments = next(count for count in range(most, 0, -1) if batch_size % count == 0)
    fits = num_workers * num_processes <= num_cores - learner_cores
    return Share(num_workers, environments, 1 if fits else None, learner_cores)


def resolve(config: Config, ray_address: str | None) -> Config:
    """Returns `config` with numbers in place of `actors.num_workers = auto`, chosen for this
    machine.

    Raises `ConfigError` if the workers are to run on a cluster, whose machines are not known here,
    or not on cores.
    """
    if config.actors.num_workers != "auto":
        return config
    if config.actors.device != "cpu":
        raise ConfigError(
            f"actors.num_workers = auto: counts cores; with actors.device = {config.actors.device} "
            f"give a number"
        )
    if ray_address is not None:
        raise ConfigError(
            "actors.num_workers = auto: only for an embedded Ray; with --ray-address give a number"
        )
    share = share_cores(config, usable_cores())
    actors = dataclasses.replace(
        config.actors,
        num_workers=share.num_workers,
        environments_per_worker=share.environments_per_worker,
    )
    return dataclasses.replace(config, actors=actors)


def given_share(config: Config, ray_address: str | None) -> Share:
    """Returns what the workers of a resolved configuration claim, on this machine or on those of a
    cluster.
    """
    actors, num_cores = config.actors, usable_cores()
    learner_cores = _learner_cores(config, num_cores)
    if ray_address is None:
        cores_per_worker = (num_cores - learner_cores) // (
            actors.num_workers * config.learner.num_processes
        ) or None
    else:
        cores_per_worker = max(1, int(actors.cpus_per_worker))
    return Share(
        actors.num_workers, actors.environments_per_worker, cores_per_worker, learner_cores
    )


def _learner_cores(config: Config, num_cores: int) -> int:
    if not config.learner.collect_ahead or num_cores == 1:
        return 0
    return 1 + num_cores // CORES_PER_RESERVED_CORE
