"""A line for whoever waits for games to end."""

import sys
import time
from collections.abc import Callable

_SECONDS_ON_A_TERMINAL, _SECONDS_IN_A_LOG = 1.0, 5.0


class Watch:
    """Says on standard error now and then how many games have ended; on a terminal in one place.

    Args:
      what: is played, `greedy` say.
      num_games: that are to end.
      clock: seconds.
    """

    def __init__(self, what: str, num_games: int, clock: Callable[[], float] = time.monotonic):
        self._what, self._num_games, self._clock = what, num_games, clock
        self._begin = self._told = clock()
        self._on_terminal = sys.stderr.isatty()

    def __call__(self, num_ended: int) -> None:
        """Takes in how many games have ended, as often as one likes."""
        now = self._clock()
        every = _SECONDS_ON_A_TERMINAL if self._on_terminal else _SECONDS_IN_A_LOG
        if now - self._told < every:
            return
        self._told = now
        line = f"  {self._what}: {num_ended} of {self._num_games} games, {now - self._begin:.0f} s"
        text = f"\r\x1b[K{line}" if self._on_terminal else f"{line}\n"
        print(text, file=sys.stderr, flush=True, end="")

    def close(self) -> None:
        """Clears the line on a terminal."""
        if self._on_terminal:
            print("\r\x1b[K", file=sys.stderr, flush=True, end="")
