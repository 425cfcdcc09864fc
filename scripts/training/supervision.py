"""Restarts the learner: `--max-restarts` runs the program as a child and, when it dies, `resume.py`
in its place.

    train.py --max-restarts 3 ─▶ train.py ─ killed ─▶ resume.py ─ exit 3 ─▶ resume.py ─ exit 0 ─▶ 0
                                          rest 1 s             rest 2 s

What cannot pass by itself is not tried again: bad input, numbers that are not finite, and what the
user asked for.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from configs.schema import ConfigError
from scripts.program import process
from scripts.program.exit_codes import RESTARTABLE, ExitCode

OPTION = "--max-restarts"
_MAX_BACKOFF_SECONDS = 60.0


def without(argv: Sequence[str], option: str) -> list[str]:
    """Returns `argv` without `option VALUE` and `option=VALUE`,
    spelt with hyphens or underscores.
    """
    kept, skip = [], False
    for argument in argv:
        name, has_value, _ = argument.partition("=")
        is_option = not skip and name.replace("_", "-") == option
        if not skip and not is_option:
            kept.append(argument)
        skip = is_option and not has_value
    return kept


def check(max_restarts: int) -> None:
    """Raises `ConfigError` for a number of restarts that cannot be."""
    if max_restarts < 0:
        raise ConfigError(f"--max-restarts = {max_restarts}: must be 0 or above")


def supervise(
    first: Sequence[str], run_dir: Path, resume_options: Sequence[str], max_restarts: int
) -> int:
    """Runs a program, then `resume.py` while it dies; returns the last exit code.

    Args:
      first: entry point in `scripts/` and its arguments.
      run_dir: of the run; resumed once it holds a run.
      resume_options: further arguments of `resume.py`.
      max_restarts: restarts in all.
    """
    again = ["resume", str(run_dir), *resume_options]
    command = list(first)
    for restart in range(max_restarts + 1):
        code, is_stopped = _run([sys.executable, *process.run_as_module(*command)])
        if is_stopped or not (code < 0 or code in RESTARTABLE) or restart == max_restarts:
            return code if code >= 0 else 128 - code
        command = again if (run_dir / "config.json").is_file() else command
        seconds = min(2.0**restart, _MAX_BACKOFF_SECONDS)
        print(
            f"{_description(code)}; restart {restart + 1} of {max_restarts} in {seconds:g} s",
            flush=True,
        )
        time.sleep(seconds)
    raise AssertionError("the last round returns")


def _run(command: Sequence[str]) -> tuple[int, bool]:
    """Returns the child's exit code and whether a signal to end came in meanwhile, which it has
    been handed.
    """
    # A session of its own: a Ctrl-C of the terminal would reach it twice, and the second means "do
    # not save".
    environment = os.environ | {process.PARENT: str(os.getpid())}
    with subprocess.Popen(command, start_new_session=True, env=environment) as child:
        signals: list[int] = []

        def forward(number, frame):
            return (
                signals.append(number),
                child.send_signal(number),
            )

        previous = {number: signal.signal(number, forward) for number in process.ending_signals()}
        try:
            return child.wait(), bool(signals)
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)


def _description(code: int) -> str:
    if code < 0:
        return f"the learner was killed by {signal.Signals(-code).name}"
    return f"the learner ended with exit code {code} ({ExitCode(code).name})"
