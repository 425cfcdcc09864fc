"""Which cores of a machine a process may keep for itself: claims that end with the process that
holds them.

    worker 0 ── claims core 3 ─▶ pinned    worker 2 ── none left ─▶ unpinned, shares what there is
    worker 1 ── claims core 2 ─▶ pinned    worker 1 dies: its lock is gone, the next claims core 2

Who shares a machine with whom is decided by Ray, and several runs may share one: only the machine
itself knows. A container that is limited to a share of time has no cores of its own, and cannot see
who else is on them: nobody is pinned there, and XLA is told how many threads to use in place of a
core each.
"""

import contextlib
import fcntl
import math
import os
import pathlib
import tempfile
from collections.abc import Iterator
from typing import TextIO

_held: list[TextIO] = []  # open for as long as the process lives
# Cgroup v2, of the container itself; a machine has none
_QUOTA = pathlib.Path("/sys/fs/cgroup/cpu.max")


def usable_cores() -> int:
    """Returns how many cores this process may use at a time, by its affinity and by its container's
    quota.
    """
    return max(1, int(min(len(os.sched_getaffinity(0)), _quota())))


def keep_to_cores(count: int) -> tuple[int, ...] | None:
    """Pins the calling thread, before JAX starts, to `count` cores of its own; returns them, None
    if it has none.

    XLA gets as many threads in either case.
    """
    os.environ["PJRT_NPROC"] = str(count)
    cores = claim_cores(count) if _quota() == math.inf else None
    if cores is not None:
        os.sched_setaffinity(0, cores)
    return cores


def _quota() -> float:
    """Returns the cores' worth of time that the container has in a period, inf without a limit."""
    if not _QUOTA.exists():
        return math.inf
    time, period = _QUOTA.read_text(encoding="ascii").split()
    return math.inf if time == "max" else int(time) / int(period)


def claim_cores(count: int) -> tuple[int, ...] | None:
    """Returns `count` cores that no other process has claimed, now this one's until it ends; None
    if so many are not.

    The highest come first: a learner that is not pinned is at home on the others. Only cores that
    the affinity of this process allows are claimed (`taskset` before the program narrows them).
    """
    folder = pathlib.Path(tempfile.gettempdir()) / f"claimed-cores-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    with _locked(
        folder / "claiming"
    ):  # or two processes could take half of what each of them needs
        claims: dict[int, TextIO] = {}
        for core in sorted(os.sched_getaffinity(0), reverse=True):
            if len(claims) < count and (file := _try_lock(folder / f"core-{core}")) is not None:
                claims[core] = file
        if len(claims) == count:
            _held.extend(claims.values())
            return tuple(sorted(claims))
        for file in claims.values():
            file.close()
        return None


def _try_lock(path: pathlib.Path) -> TextIO | None:
    file = path.open("a")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return file
    except BlockingIOError:
        file.close()
        return None


@contextlib.contextmanager
def _locked(path: pathlib.Path) -> Iterator[None]:
    with path.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
