"""A line for whoever watches a run: return, speed, policy lag and time left."""

import sys
import time
from collections.abc import Callable
from typing import NamedTuple, TextIO

import rich.console
import rich.live
import rich.text


class ProgressState(NamedTuple):
    """What the progress line shows."""

    mean_return: float | None  # of the last 100 episodes; None before the first
    num_frames: int  # emulator frames consumed
    total_frames: int | None  # limit of the run, if it has one
    frames_per_second: float
    updates_per_second: float
    lag: float  # updates between acting and learning, mean
    fractions_done: tuple[float, ...]  # one for each stop limit, 0 to 1, always in the same order


class Progress:
    """A line that is rewritten in place on a terminal, a new line each time otherwise.

    Args:
        interactive: None asks `stream` whether it is a terminal.
        stream: standard output if None.
        clock: seconds.
    """

    def __init__(
        self,
        interactive: bool | None = None,
        *,
        stream: TextIO | None = None,
        clock: Callable[[], float] = time.monotonic,
    ):
        self._stream = stream or sys.stdout
        self._clock = clock
        self._origin: tuple[float, tuple[float, ...]] | None = None
        interactive = self._stream.isatty() if interactive is None else interactive
        console = (
            rich.console.Console(file=self._stream, force_terminal=True) if interactive else None
        )
        self._live = rich.live.Live(console=console, auto_refresh=False) if interactive else None
        if self._live is not None:
            self._live.start()

    def update(self, state: ProgressState) -> None:
        """Shows `state`; the time left is extrapolated from the first update of this process."""
        line = format_progress(state, self._seconds_left(state.fractions_done))
        if self._live is None:
            print(line, file=self._stream, flush=True)
        else:
            self._live.update(rich.text.Text(line, no_wrap=True, overflow="ellipsis"), refresh=True)

    def say(self, line: str) -> None:
        """Shows a line that stays, above the one of progress."""
        if self._live is None:
            print(line, file=self._stream, flush=True)
        else:
            self._live.console.print(rich.text.Text(line))

    def close(self) -> None:
        """Leaves the last line standing."""
        if self._live is not None:
            self._live.stop()

    def _seconds_left(self, fractions: tuple[float, ...]) -> float | None:
        self._origin = self._origin or (self._clock(), fractions)
        elapsed, pairs = (
            self._clock() - self._origin[0],
            zip(self._origin[1], fractions, strict=True),
        )
        return min(
            (elapsed * (1.0 - now) / (now - first) for first, now in pairs if now > first),
            default=None,
        )


def format_progress(state: ProgressState, seconds_left: float | None) -> str:
    """Returns the progress line; a `?` stands for what is not known yet."""
    total = "" if state.total_frames is None else f"/{state.total_frames:,}"
    parts = [
        "return ?" if state.mean_return is None else f"return {state.mean_return:.2f}",
        f"frames {state.num_frames:,}{total}",
        f"{state.frames_per_second:,.0f} frames/s",
        f"{state.updates_per_second:.2f} updates/s",
        f"lag {state.lag:.1f}",
        "time left ?" if seconds_left is None else f"time left {_hours(seconds_left)}",
    ]
    return " | ".join(parts)


def _hours(seconds: float) -> str:
    minutes, seconds = divmod(max(0, round(seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}"
