"""Ctrl-C, SIGTERM and what counts as it: the first asks to finish, the second leaves at once."""

import contextlib
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from scripts.program import process

# For the batch under way; the save comes after it, and cluster managers kill after 30 s
GRACE_SECONDS = 10.0
# A cluster manager signals every process of a job, and a supervisor hands what it gets on: one
# SIGTERM comes as two. A closed terminal sends SIGHUP twice, or SIGHUP and SIGTERM.
_ECHO_SECONDS = 2.0
_STOP_FILE = "stop-requested"


class Interrupted(Exception):
    """A signal has come in."""


class Interrupts:
    """Notes the first SIGINT or SIGTERM in `name`, and raises KeyboardInterrupt at the second,
    while it is `watched`.

    SIGHUP and SIGUSR1 are SIGTERM. A SIGTERM that comes again at once is no second one.
    """

    def __init__(self):
        self.name: str | None = None
        self._after_grace: Callable[[], None] = lambda: None
        self._timer: threading.Timer | None = None
        self._taken_at = 0.0

    @contextlib.contextmanager
    def watched(self, after_grace: Callable[[], None]) -> Iterator[None]:
        """Watches for signals. Enter it after Ray has started, which takes SIGTERM for itself and
        leaves unsaved.

        Args:
          after_grace: called in a thread, `GRACE_SECONDS` after the signal: ends a batch that would
            never end by itself, since the same signal may have reached Ray's processes.
        """
        self._after_grace = after_grace
        handlers = {
            number: signal.signal(number, self._take) for number in process.ending_signals()
        }
        try:
            yield
        finally:
            self.settle()
            for number, handler in handlers.items():
                signal.signal(number, handler)

    def settle(self) -> None:
        """Calls `after_grace` off: no batch is under way any more."""
        if self._timer is not None:
            self._timer.cancel()

    def check(self, *args: object) -> None:
        """Raises Interrupted if a signal has come in; takes any arguments, to be a callback."""
        if self.name is not None:
            raise Interrupted(self.name)

    def _take(self, number: int, frame) -> None:
        if self.name is not None:
            is_sigterm_again = number in process.AS_SIGTERM and self.name == "SIGTERM"
            if is_sigterm_again and time.monotonic() - self._taken_at < _ECHO_SECONDS:
                return
            raise KeyboardInterrupt  # asked twice: no checkpoint
        self._taken_at = time.monotonic()
        self.name = "SIGTERM" if number in process.AS_SIGTERM else "SIGINT"
        self._timer = threading.Timer(GRACE_SECONDS, self._after_grace)
        self._timer.daemon = True
        self._timer.start()
        print(
            f"\n{signal.Signals(number).name}: finishing the batch, then saving. "
            "Once more to leave without saving.",
            flush=True,
        )


class StopRequest:
    """The interrupts of a process that gets no signals: a file in the run directory, which every
    machine sees.
    """

    def __init__(self, run_dir: Path):
        self._path = run_dir / _STOP_FILE

    @property
    def name(self) -> str | None:
        """The signal that the program has received, None if there was none."""
        return self._path.read_text() if self._path.exists() else None

    def ask(self, name: str) -> None:
        """Asks all processes to finish their batch."""
        self._path.write_text(name)

    def clear(self) -> None:
        """Forgets an earlier request."""
        self._path.unlink(missing_ok=True)

    def settle(self) -> None:
        """Does nothing: there is no grace period to call off."""

    def check(self, *args: object) -> None:
        """Raises Interrupted if the program has been asked to stop."""
        if self.name is not None:
            raise Interrupted(self.name)

    def watched(self, after_grace: Callable[[], None]) -> contextlib.AbstractContextManager[None]:
        """Returns a context in which nothing more is done: the file says it all, and no grace
        period ends.
        """
        return contextlib.nullcontext()
