"""What a process needs before JAX starts in it."""

import ctypes
import os
import sys

# XLA's CPU client allocates its temporaries with malloc. By default glibc returns each of them to the kernel at once
# and faults it in again at the next update: a quarter of an update of the `minatar` preset. Keeping the heap costs
# memory once and no page faults after that.
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4
_KEEP_BYTES = 2**31 - 1  # mallopt takes an int
WORKER_ENV_VARS = {
    "JAX_PLATFORMS": "cpu",  # an actor without a GPU of its own still sees the learner's
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": str(2**40),
    "MALLOC_TOP_PAD_": str(2**26),
}


def keep_heap() -> None:
    """Makes glibc keep freed memory for this process's next update; a no-op elsewhere than on Linux with glibc."""
    if not sys.platform.startswith("linux") or "CS_GNU_LIBC_VERSION" not in os.confstr_names:
        return
    mallopt = ctypes.CDLL(None).mallopt
    mallopt(_M_MMAP_MAX, 0)
    mallopt(_M_TRIM_THRESHOLD, _KEEP_BYTES)
    mallopt(_M_TOP_PAD, 2**26)
