"""A program starts itself again with jemalloc for its heap: before JAX is there, and for all its
children.
"""

import importlib.util
import os
import sys
from pathlib import Path

PROGRAMS = Path(__file__).resolve().parents[1]  # the folder of the entry points

# XLA's CPU client allocates its temporaries with malloc, from many threads. glibc returns large
# ones to the kernel at once, to be faulted in again at the next update, page by page; told to keep
# them, it has one heap, and all threads wait for its lock. jemalloc, which Ray brings along, has
# several, and keeps everything: a limit in time is worse where there is only one core (measured).
_JEMALLOC = ("core", "libjemalloc.so")  # in Ray's package
_JEMALLOC_SETTINGS = "dirty_decay_ms:-1,muzzy_decay_ms:-1"


def jemalloc_env_vars() -> dict[str, str]:
    """Returns the environment in which a new process has jemalloc for its heap.

    Empty where Ray has none (no Linux), and where the user preloads something of their own.
    """
    library = Path(importlib.util.find_spec("ray").origin).parent.joinpath(*_JEMALLOC)
    if not library.exists() or os.environ.get("LD_PRELOAD", str(library)) != str(library):
        return {}
    return {
        "LD_PRELOAD": str(library),
        "MALLOC_CONF": os.environ.get("MALLOC_CONF", _JEMALLOC_SETTINGS),
    }


def reexecute_with_jemalloc() -> None:
    """Starts this program again with jemalloc for its heap and its children's, unless it has that
    already.

    Only where it is a program of this folder: one that calls ours would run twice, and a debugger
    would lose it.
    """
    main_file = getattr(sys.modules["__main__"], "__file__", None)
    is_ours = main_file is not None and Path(main_file).resolve().parent == PROGRAMS
    wanted = jemalloc_env_vars()
    if (
        is_ours
        and sys.gettrace() is None
        and any(os.environ.get(name) != value for name, value in wanted.items())
    ):
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], os.environ | wanted)
