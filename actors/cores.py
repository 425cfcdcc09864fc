"""Which cores of a machine a process may keep for itself: claims that end with the process that holds them.

    worker 0 ── claims core 3 ─▶ pinned        worker 2 ── none left ─▶ unpinned, shares what there is
    worker 1 ── claims core 2 ─▶ pinned        worker 1 dies: its lock is gone, the replacement claims core 2

Who shares a machine with whom is decided by Ray, and several runs may share one: only the machine itself knows.
"""

import contextlib
import fcntl
import os
import pathlib
import tempfile
from collections.abc import Iterator
from typing import TextIO

_held: list[TextIO] = []  # open for as long as the process lives


def claim_cores(count: int) -> tuple[int, ...] | None:
    """Returns `count` cores that no other process has claimed, now this one's until it ends; None if so many are not.

    The highest come first: a learner that is not pinned is at home on the others. Only cores that the affinity of
    this process allows are claimed (`taskset` before the program narrows them).
    """
    folder = pathlib.Path(tempfile.gettempdir()) / f"claimed-cores-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    with _locked(folder / "claiming"):  # or two processes could take half of what each of them needs
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
