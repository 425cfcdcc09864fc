"""Programs as child processes: started from any directory, and ended with their parents."""

import ctypes
import os
import signal
import sys
from pathlib import Path

from scripts.program.reexecution import PROGRAMS, jemalloc_env_vars

# process id, in the environment of what `scripts/training/supervision.py` starts
PARENT = "MUZERO_SUPERVISOR"
_PR_SET_PDEATHSIG = 1
# SIGHUP: the terminal was closed. SIGUSR1: SLURM's warning before the time is over.
AS_SIGTERM = (signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)


def ending_signals() -> tuple[signal.Signals, ...]:
    """Returns the signals that ask a program to save and end, without those that its user has it
    ignore: `nohup` does so with SIGHUP.
    """
    asked = (signal.SIGINT, *AS_SIGTERM)
    return tuple(number for number in asked if signal.getsignal(number) != signal.SIG_IGN)


def run_as_module(program: str, *arguments: str, package: str = "scripts") -> list[str]:
    """Returns the arguments of Python that run an entry point from any directory.

    `-P` keeps the present directory off the path: a folder `scripts` there is not ours.
    """
    return ["-P", "-m", f"{package}.{program}", *arguments]


def spelling(program: str) -> str:
    """Returns how a user starts an entry point: by its file in a checkout, else by the installed
    command.
    """
    is_checkout = (PROGRAMS.parent / "pyproject.toml").exists()
    return f"python scripts/{program}.py" if is_checkout else f"muzero-{program}"


def called_as(program: str) -> str:
    """Returns the name by which the user called this entry point: the installed command's, or the
    file's.
    """
    # An installed command puts the file into `sys.argv[0]`; `sys.orig_argv` keeps the words typed.
    called = sys.orig_argv[-len(sys.argv) :][:1]
    command = f"muzero-{program}"
    return command if [Path(word).name for word in called] == [command] else f"{program}.py"


def tied_command(*arguments: str) -> list[str]:
    """Returns the command of Python with `arguments` that gets SIGTERM when the calling process
    dies, however it dies.

    It would go on for hours otherwise, unseen. To be called in the thread that starts it: Linux
    watches the thread.
    """
    code = "from scripts.program.process import run_tied; run_tied()"
    return [sys.executable, "-P", "-c", code, str(os.getpid()), *arguments]


def run_tied() -> None:
    """Becomes Python with arguments `sys.argv[2:]`, tied to its parent, process `sys.argv[1]`, and
    with jemalloc.
    """
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != int(sys.argv[1]):  # it died before
        sys.exit(1)
    os.execve(sys.executable, [sys.executable, *sys.argv[2:]], os.environ | jemalloc_env_vars())


def follow_parent() -> None:
    """Has the kernel (Linux) tell a supervised process to end when its supervisor is killed:
    nothing is left behind.
    """
    if sys.platform.startswith("linux") and os.environ.get(PARENT) == str(os.getppid()):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
