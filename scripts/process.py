"""What a process needs before JAX starts in it, and before its parent ends."""

import contextlib
import ctypes
import importlib.util
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

PARENT = "MUZERO_SUPERVISOR"  # process id, in the environment of what `scripts/supervise.py` starts
PROGRAMS = Path(__file__).resolve().parent
_PR_SET_PDEATHSIG = 1

# XLA's CPU client allocates its temporaries with malloc, from many threads. glibc returns large ones to the kernel at
# once, to be faulted in again at the next update, page by page; told to keep them, it has one heap, and all threads
# wait for its lock. jemalloc, which Ray brings along, has several, and keeps everything: a limit in time is worse where
# there is only one core (measured).
_JEMALLOC = ("core", "libjemalloc.so")  # in Ray's package
_JEMALLOC_SETTINGS = "dirty_decay_ms:-1,muzzy_decay_ms:-1"


def heap_env_vars() -> dict[str, str]:
    """Returns the environment in which a new process has jemalloc for its heap.

    Empty where Ray has none (no Linux), and where the user preloads something of their own.
    """
    library = Path(importlib.util.find_spec("ray").origin).parent.joinpath(*_JEMALLOC)
    if not library.exists() or os.environ.get("LD_PRELOAD", str(library)) != str(library):
        return {}
    return {"LD_PRELOAD": str(library), "MALLOC_CONF": os.environ.get("MALLOC_CONF", _JEMALLOC_SETTINGS)}


def keep_heap() -> None:
    """Starts this program again with jemalloc for its heap and its children's, unless it has that already.

    Only where it is a program of this folder: one that calls ours would run twice, and a debugger would lose it.
    """
    main_file = getattr(sys.modules["__main__"], "__file__", None)
    is_ours = main_file is not None and Path(main_file).resolve().parent == PROGRAMS
    wanted = heap_env_vars()
    if is_ours and sys.gettrace() is None and any(os.environ.get(name) != value for name, value in wanted.items()):
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], os.environ | wanted)


class Unbroken:
    """A stream of text that falls silent when its reader is gone: `| tee` gets the Ctrl-C too, and is faster.

    A run must not end because nobody watches it.
    """

    def __init__(self, stream: TextIO):
        self._stream = stream

    def __getattr__(self, name: str):
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """Writes `text`, or drops it."""
        with self._unbroken():
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        """Flushes what there is a reader for."""
        with self._unbroken():
            self._stream.flush()

    @contextlib.contextmanager
    def _unbroken(self) -> Iterator[None]:
        try:
            yield
        except BrokenPipeError:
            with open(os.devnull, "w") as nothing:
                os.dup2(nothing.fileno(), self._stream.fileno())


def tied_command(*arguments: str) -> list[str]:
    """Returns the command of a Python program that gets SIGTERM when the calling process dies, however it dies.

    It would go on for hours otherwise, unseen. To be called in the thread that starts it: Linux watches the thread.
    """
    code = "from scripts.process import run_tied; run_tied()"
    return [sys.executable, "-c", code, str(os.getpid()), *arguments]


def run_tied() -> None:
    """Becomes the Python program `sys.argv[2:]`, tied to its parent, process `sys.argv[1]`, with jemalloc's heap."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != int(sys.argv[1]):  # it died before
        sys.exit(1)
    os.execve(sys.executable, [sys.executable, *sys.argv[2:]], os.environ | heap_env_vars())


def follow_parent() -> None:
    """Has the kernel (Linux) tell a supervised process to end when its supervisor is killed: nothing is left behind."""
    if sys.platform.startswith("linux") and os.environ.get(PARENT) == str(os.getppid()):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
