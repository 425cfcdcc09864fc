"""Rollouts that carry marks, in the real pool: what is delivered can be told apart.

Plain NumPy, no environment.
"""

import contextlib
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import psutil
import ray

from actors.pool import ActorPool
from configs.schema import ActorsConfig
from muzero.types import PublishedParams, RolloutResult, Trajectory
from scripts.faults.registry import Outcome
from scripts.training import cluster

NUM_WORKERS = 2
_PATIENCE = 2000  # rollouts of 50 ms to wait for a replacement


class MarkedRollout:
    """Rollouts of one sequence whose reward is (seed, number); `spoil(folder, number)` may do
    anything before it.

    The observation is of `num_bytes` bytes, which above 100 kB lie in the object store of the
    worker's node.
    """

    def __init__(self, seed: int, folder: str, spoil: Callable[[Path, int], None], num_bytes: int):
        self._seed, self._folder, self._spoil, self._number = seed, Path(folder), spoil, 0
        self._observation = np.zeros(num_bytes, np.uint8)

    def run(self, published: PublishedParams) -> RolloutResult:
        """Returns the next mark; leaves the process id in the folder."""
        self._number += 1
        (self._folder / f"pid-{os.getpid()}").touch()
        time.sleep(0.05)
        self._spoil(self._folder, self._number)
        row = np.zeros((1, 1), np.float32)
        marks = np.array([[self._seed, self._number]], np.int64)
        trajectory = Trajectory(**{name: row for name in Trajectory._fields})._replace(
            observation=self._observation, reward=marks
        )
        return RolloutResult(trajectory, [], {}, num_steps=1, num_frames=1)


def once(folder: Path, name: str) -> bool:
    """Returns True the first time, over all processes."""
    try:
        (folder / name).touch(exist_ok=False)
        return True
    except FileExistsError:
        return False


def leave_alone(folder: Path, number: int) -> None:
    """Spoils nothing."""


@contextlib.contextmanager
def pool(
    folder: Path,
    spoil: Callable[[Path, int], None] = leave_alone,
    *,
    num_bytes: int = 1,
    **settings,
) -> Iterator[ActorPool]:
    """Yields a pool of `NUM_WORKERS` of them, in the Ray that runs or in an embedded one."""
    if not ray.is_initialized():
        cluster.start_ray(None, num_cpus=NUM_WORKERS + 1)
    pool = ActorPool(
        lambda seed: MarkedRollout(seed, str(folder), spoil, num_bytes),
        ActorsConfig(num_workers=NUM_WORKERS),
        seed=0,
        log_dir=folder / "logs",
        restart_backoff_seconds=0.1,
        **settings,
    )
    pool.publish(PublishedParams(0, np.zeros(1)))
    try:
        yield pool
    finally:
        pool.close()


def collect(pool: ActorPool, count: int) -> list[tuple[int, int]]:
    """Returns the marks of the next rollouts."""
    return [tuple(pool.next_rollout().trajectory.reward[0].tolist()) for _ in range(count)]


def collect_from(
    pool: ActorPool, num_seeds: int, marks: list[tuple[int, int]] | None = None
) -> list[tuple[int, int]]:
    """Returns `marks` and those of the next rollouts, until so many workers have delivered, or
    patience is used up.
    """
    marks = list(marks or ())
    while len({seed for seed, _ in marks}) < num_seeds and len(marks) < _PATIENCE:
        marks += collect(pool, 1)
    return marks


def survived(pool: ActorPool, marks: list[tuple[int, int]], *, num_lost: int) -> Outcome:
    """Returns whether all that were lost are replaced, and no rollout came twice; waits for the
    replacements.
    """
    marks = collect_from(pool, NUM_WORKERS + num_lost, marks)
    num_seeds, is_unique = len({seed for seed, _ in marks}), len(set(marks)) == len(marks)
    held = is_unique and num_seeds == NUM_WORKERS + num_lost and pool.num_dropped == num_lost
    told = f"{num_seeds - NUM_WORKERS} replaced, {pool.num_dropped} dropped, {len(marks)} delivered"
    return Outcome(
        held, f"{told} {'once each' if is_unique else 'some TWICE'}", pool.num_dropped, 0
    )


def pids(folder: Path) -> list[int]:
    """Returns the processes that have played here and run on."""
    pids = [int(path.name.removeprefix("pid-")) for path in folder.glob("pid-*")]
    return [pid for pid in pids if _runs(pid)]


def _runs(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def is_gone(pid: int) -> bool:
    """Returns whether a process ends within some seconds of grace."""
    deadline = time.monotonic() + 5.0
    while _runs(pid) and time.monotonic() < deadline:
        time.sleep(0.1)
    return not _runs(pid)


def all_gone(folder: Path) -> bool:
    """Returns whether all that have played here end within some seconds of grace."""
    return all(is_gone(pid) for pid in pids(folder))
