"""Standard output and error of a program that outlives its readers."""

import contextlib
import os
from collections.abc import Iterator
from typing import TextIO


class ClosedPipeSurvivor:
    """A stream of text that falls silent when its reader is gone: `| tee` gets the Ctrl-C too, and
    is faster.

    A run must not end because nobody watches it.
    """

    def __init__(self, stream: TextIO):
        self._stream = stream

    def __getattr__(self, name: str):
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """Writes `text`, or drops it."""
        with self._silent_when_closed():
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        """Flushes what there is a reader for."""
        with self._silent_when_closed():
            self._stream.flush()

    @contextlib.contextmanager
    def _silent_when_closed(self) -> Iterator[None]:
        try:
            yield
        except BrokenPipeError:
            with open(os.devnull, "w") as nothing:
                os.dup2(nothing.fileno(), self._stream.fileno())
