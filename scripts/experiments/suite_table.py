"""The live table of a suite: redrawn in place on a terminal, a line an event otherwise."""

import sys
from typing import TextIO

import rich.console
import rich.live
import rich.table

from configs.suite import Suite, Trial
from scripts.experiments.trials import Progress, trial_name


class SuiteTable:
    """Shows the running trials and counts the others.

    Args:
      suite: what is run.
      num_trials: of the suite.
      stream: standard output if None.
    """

    def __init__(self, suite: Suite, num_trials: int, *, stream: TextIO | None = None):
        self._suite, self._num_trials = suite, num_trials
        self._stream = stream or sys.stdout
        console = rich.console.Console(file=self._stream)
        self._live = (
            rich.live.Live(console=console, auto_refresh=False) if self._stream.isatty() else None
        )

    def __enter__(self) -> "SuiteTable":
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(self, *exception) -> None:
        if self._live is not None:
            self._live.stop()

    def event(self, text: str) -> None:
        """Prints a line that stays."""
        if self._live is None:
            print(text, file=self._stream, flush=True)
        else:
            self._live.console.print(text, highlight=False)

    def show(self, running: dict[Trial, Progress], *, num_finished: int, num_failed: int) -> None:
        """Redraws the table, on a terminal."""
        if self._live is not None:
            self._live.update(self._table(running, num_finished, num_failed), refresh=True)

    def _table(
        self, running: dict[Trial, Progress], num_finished: int, num_failed: int
    ) -> rich.table.Table:
        waiting = self._num_trials - num_finished - num_failed - len(running)
        counts = (
            f"{num_finished} of {self._num_trials} finished, {waiting} waiting, {num_failed} failed"
        )
        table = rich.table.Table(title=f"{self._suite.name}: {counts}", title_justify="left")
        for column in ("trial", "frames", "done", "frames/s", "return", "time left"):
            table.add_column(column, justify="left" if column == "trial" else "right", no_wrap=True)
        for trial, progress in running.items():
            table.add_row(trial_name(trial), *_cells(progress, self._suite.frames))
        return table


def _cells(progress: Progress, total: int) -> list[str]:
    frames, seconds, score = progress
    rate = frames / seconds if seconds else 0.0
    left = f"{max(0, total - frames) / rate / 60:.0f} min" if rate else "?"
    return [
        f"{frames:,}",
        f"{min(1.0, frames / total):.0%}",
        f"{rate:,.0f}",
        "?" if score is None else f"{score:,.2f}",
        left,
    ]
