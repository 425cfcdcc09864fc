"""Faults of actors, on the real pool and the real Ray: killed, stopped, raising, looping, gone with their node.

The rollouts are plain NumPy and carry marks, so that what is delivered can be told apart: one Ray serves them all.
"""

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import psutil
import ray

from actors.pool import ActorPool, ActorPoolError
from muzero.types import PublishedParams, RolloutResult, Trajectory
from scripts import cluster
from scripts.faults.registry import Outcome, fault

_NUM_WORKERS = 2
_PATIENCE = 2000  # rollouts of 50 ms to wait for a replacement
_REPLACED = "replaced with back-off by a new process with a new seed; what it had in flight is dropped and counted"


class MarkedRollout:
    """Rollouts of one sequence whose reward is (seed, number); `spoil(folder, number)` may do anything before it."""

    def __init__(self, seed: int, folder: str, spoil: Callable[[Path, int], None]):
        self._seed, self._folder, self._spoil, self._number = seed, Path(folder), spoil, 0

    def run(self, published: PublishedParams) -> RolloutResult:
        """Returns the next mark; leaves the process id in the folder."""
        self._number += 1
        (self._folder / f"pid-{os.getpid()}").touch()
        time.sleep(0.05)
        self._spoil(self._folder, self._number)
        row = np.zeros((1, 1), np.float32)
        marks = np.array([[self._seed, self._number]], np.int64)
        trajectory = Trajectory(**{name: row for name in Trajectory._fields})._replace(reward=marks)
        return RolloutResult(trajectory, [], {}, num_steps=1, num_frames=1)


def _once(folder: Path, name: str) -> bool:
    """Returns True the first time, over all processes."""
    try:
        (folder / name).touch(exist_ok=False)
        return True
    except FileExistsError:
        return False


@contextlib.contextmanager
def _pool(folder: Path, spoil: Callable[[Path, int], None], **settings) -> Iterator[ActorPool]:
    if not ray.is_initialized():
        cluster.start_ray(None, num_cpus=_NUM_WORKERS + 1)
    pool = ActorPool(
        lambda seed: MarkedRollout(seed, str(folder), spoil),
        num_workers=_NUM_WORKERS, max_in_flight=1, cpus_per_worker=1.0, seed=0, log_dir=folder / "logs",
        restart_backoff_seconds=0.1, **settings,
    )  # fmt: skip
    pool.publish(PublishedParams(0, np.zeros(1)))
    try:
        yield pool
    finally:
        pool.close()


def _collect(pool: ActorPool, count: int) -> list[tuple[int, int]]:
    """Returns the marks of the next rollouts."""
    return [tuple(pool.next_rollout().trajectory.reward[0].tolist()) for _ in range(count)]


def _survived(pool: ActorPool, marks: list[tuple[int, int]], *, num_lost: int) -> Outcome:
    """Returns whether all that were lost are replaced, and no rollout came twice; waits for the replacements."""
    count_seeds = lambda: len({seed for seed, _ in marks})
    while count_seeds() < _NUM_WORKERS + num_lost and len(marks) < _PATIENCE:
        marks = [*marks, *_collect(pool, 1)]
    is_unique = len(set(marks)) == len(marks)
    held = is_unique and count_seeds() == _NUM_WORKERS + num_lost and pool.num_dropped == num_lost
    told = f"{count_seeds() - _NUM_WORKERS} replaced, {pool.num_dropped} dropped, {len(marks)} delivered"
    return Outcome(held, f"{told} {'once each' if is_unique else 'some TWICE'}", pool.num_dropped, 0)


def _kill(folder: Path, number: int) -> None:
    if number == 3 and _once(folder, "killed"):
        os.kill(os.getpid(), signal.SIGKILL)


def _stop(folder: Path, number: int) -> None:
    if number == 3 and _once(folder, "stopped"):
        (folder / "stopped-pid").write_text(str(os.getpid()))
        os.kill(os.getpid(), signal.SIGSTOP)


def _raise(folder: Path, number: int) -> None:
    if number == 3 and _once(folder, "raised"):
        raise RuntimeError("the environment broke (injected)")


def _always_raise(folder: Path, number: int) -> None:
    raise RuntimeError("the environment is broken (injected)")


@fault(injected="SIGKILL of an actor in the middle of a sequence", promised=_REPLACED, is_quick=False)
def actor_killed(folder: Path) -> Outcome:
    """One of two workers, once."""
    with _pool(folder, _kill) as pool:
        return _survived(pool, _collect(pool, 40), num_lost=1)


@fault(injected="SIGSTOP of an actor", promised=f"meets its deadline (5 s here); {_REPLACED}", is_quick=False)
def actor_stopped(folder: Path) -> Outcome:
    """A process that hangs without dying."""
    with _pool(folder, _stop, rollout_timeout_seconds=5.0) as pool:
        outcome = _survived(pool, _collect(pool, 40), num_lost=1)
    gone = _is_gone(int((folder / "stopped-pid").read_text()))
    return Outcome(outcome.held and gone, f"{outcome.happened}; stopped process {'gone' if gone else 'LEFT'}", 1, 0)


@fault(injected="an exception of the environment", promised=_REPLACED, is_quick=False)
def environment_exception(folder: Path) -> Outcome:
    """Raised in the third rollout of one worker."""
    with _pool(folder, _raise) as pool:
        return _survived(pool, _collect(pool, 40), num_lost=1)


@fault(
    injected="actors that crash at every rollout",
    promised="the budget of restarts ends it: an error with the cause (exit code 3), all workers gone",
    is_quick=False,
)
def crash_looping_actor(folder: Path) -> Outcome:
    """With a budget of two restarts."""
    with _pool(folder, _always_raise, max_restarts=2) as pool:
        try:
            return Outcome(False, f"delivered {_collect(pool, 1)}")
        except ActorPoolError as error:
            told = " ".join(str(error).split())
    held = "failed 3 times in a row" in told and "the environment is broken" in told and _all_gone(folder)
    return Outcome(held, f"{told[:60]} …, no process left")


@fault(injected="all actors killed at once, from outside", promised=_REPLACED, is_quick=False)
def all_actors_killed(folder: Path) -> Outcome:
    """As the out-of-memory killer does."""

    def kill_all() -> None:
        for pid in _pids(folder):
            os.kill(pid, signal.SIGKILL)

    with _pool(folder, lambda folder, number: None) as pool:
        before = _collect(pool, 1)
        while len(_pids(folder)) < _NUM_WORKERS:  # a worker is known by its first rollout
            before += _collect(pool, 1)
        threading.Timer(0.2, kill_all).start()
        outcome = _survived(pool, before + _collect(pool, 40), num_lost=_NUM_WORKERS)
    return outcome


@fault(
    injected="workers with other code than the driver's (injected: another digest)",
    promised="refused with what differs before anything is built; exit code 3",
    is_quick=False,
)
def other_code_on_a_worker(folder: Path) -> Outcome:
    """The digest of `scripts` in the driver is changed; the workers compute their own."""
    from actors import identity

    own = identity.code_identity()["scripts"]
    identity.code_identity()["scripts"] = "other"
    try:
        with _pool(folder, lambda folder, number: None, max_restarts=0) as pool:
            return Outcome(False, f"delivered {_collect(pool, 1)}")
    except ActorPoolError as error:
        return Outcome("runs other code than the driver: scripts: other" in str(error), "refused: scripts differ")
    finally:
        identity.code_identity()["scripts"] = own


@fault(
    injected="a process without the token joins the embedded Ray",
    promised="refused",
    is_quick=False,
)
def stranger_without_a_token(folder: Path) -> Outcome:
    """A child with an empty home and none of our environment joins by address."""
    import subprocess
    import sys

    if not ray.is_initialized():
        cluster.start_ray(None, num_cpus=1)
    address = ray.get_runtime_context().gcs_address
    code = f"import ray; ray.init(address={address!r}, log_to_driver=False); print('joined')"
    environment = {name: x for name, x in os.environ.items() if not name.startswith("RAY_")} | {"HOME": str(folder)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=300)
    refused = done.returncode != 0 and "joined" not in done.stdout
    return Outcome(refused, "refused by Ray (InvalidAuthToken)" if "AuthToken" in done.stderr else done.stderr[-200:])


def _pids(folder: Path) -> list[int]:
    """Returns the processes that have played here and run on."""
    pids = [int(path.name.removeprefix("pid-")) for path in folder.glob("pid-*")]
    return [pid for pid in pids if _runs(pid)]


def _runs(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _is_gone(pid: int) -> bool:
    """Returns whether a process ends within some seconds of grace."""
    deadline = time.monotonic() + 5.0
    while _runs(pid) and time.monotonic() < deadline:
        time.sleep(0.1)
    return not _runs(pid)


def _all_gone(folder: Path) -> bool:
    return all(_is_gone(pid) for pid in _pids(folder))
