"""What a process needs before JAX starts in it, and before its parent ends."""

import ctypes
import os
import signal
import sys

# XLA's CPU client allocates its temporaries with malloc, from many threads. By default glibc returns each to the kernel
# at once and faults it in again at the next update. Keeping the heap costs memory once and no page faults after that.
# It has to be one heap for all threads: the others map and unmap what is over 64 MB, whatever they are told.
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX, _M_ARENA_MAX = -1, -2, -4, -8
_NEVER = -1  # a trim threshold that is never reached
_TOP_PAD_BYTES = 2**26
PARENT = "MUZERO_SUPERVISOR"  # process id, in the environment of what `scripts/supervise.py` starts
_PR_SET_PDEATHSIG = 1
WORKER_ENV_VARS = {
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": str(2**40),
    "MALLOC_TOP_PAD_": str(_TOP_PAD_BYTES),
}


def keep_heap() -> None:
    """Makes glibc keep freed memory for this process's next update; a no-op elsewhere than on Linux with glibc."""
    if not sys.platform.startswith("linux") or "CS_GNU_LIBC_VERSION" not in os.confstr_names:
        return
    mallopt = ctypes.CDLL(None).mallopt
    mallopt(_M_ARENA_MAX, 1)
    mallopt(_M_MMAP_MAX, 0)
    mallopt(_M_TRIM_THRESHOLD, _NEVER)
    mallopt(_M_TOP_PAD, _TOP_PAD_BYTES)


def tied_command(*arguments: str) -> list[str]:
    """Returns the command of a Python program that gets SIGTERM when the calling process dies, however it dies.

    It would go on for hours otherwise, unseen. To be called in the thread that starts it: Linux watches the thread.
    """
    code = "from scripts.process import run_tied; run_tied()"
    return [sys.executable, "-c", code, str(os.getpid()), *arguments]


def run_tied() -> None:
    """Becomes the Python program `sys.argv[2:]`, tied to its parent, process `sys.argv[1]`."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != int(sys.argv[1]):  # it died before
        sys.exit(1)
    os.execv(sys.executable, [sys.executable, *sys.argv[2:]])


def follow_parent() -> None:
    """Has the kernel (Linux) tell a supervised process to end when its supervisor is killed: nothing is left behind."""
    if sys.platform.startswith("linux") and os.environ.get(PARENT) == str(os.getppid()):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
