"""Standard output and error of a program that outlives its readers."""

import contextlib
import os
from collections.abc import Iterator
from typing import TextIO


class ClosedPipeSurvivor:
    """A stream of text that falls silent when nothing takes it any more: `| tee` gets the Ctrl-C
    too, and is faster; a terminal is closed (EIO), the disk under a log is full, a file is closed.

    A run must not end because nobody watches it. None stands for a stream that was closed before
    Python started (`>&-`).
    """

    def __init__(self, stream: TextIO | None):
        self._stream = stream or open(os.devnull, "w")  # noqa: SIM115

    def __getattr__(self, name: str):
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """Writes `text`, or drops it."""
        with self._silent_when_broken():
            self._write(text)
        return len(text)

    def flush(self) -> None:
        """Flushes what there is a reader for."""
        with self._silent_when_broken():
            self._stream.flush()

    def _write(self, text: str) -> None:
        try:
            self._stream.write(text)
        except UnicodeEncodeError:  # of a terminal that has fewer letters than we
            encoding = self._stream.encoding
            self._stream.write(text.encode(encoding, "backslashreplace").decode(encoding))

    @contextlib.contextmanager
    def _silent_when_broken(self) -> Iterator[None]:
        try:
            yield
        except (OSError, ValueError) as error:
            if not isinstance(error, OSError) and not self._stream.closed:
                raise
            self._silence()

    def _silence(self) -> None:
        # A closed file has no descriptor: there is nothing to point elsewhere.
        with contextlib.suppress(OSError, ValueError), open(os.devnull, "w") as nothing:
            os.dup2(nothing.fileno(), self._stream.fileno())
