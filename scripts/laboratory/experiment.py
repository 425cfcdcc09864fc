"""What an experiment is: a module that names its scales, its units of work, and how rows become a
figure.

To add one, write a module with an `EXPERIMENT` and name it in `registry.py`. A unit is the smallest
piece that is run in one go, by one process on one core, and kept: an interrupted experiment goes on
with the next unit.
"""

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

Cell = int | float | str
Unit = dict[str, Cell]  # the columns that identify it, "seed" among them
Row = dict[str, Cell]


@dataclasses.dataclass(frozen=True)
class Experiment:
    """The parts of one experiment.

    All but `scales` are module-level functions: they are sent to other processes.
    """

    scales: Mapping[str, Any]
    """`smoke` (seconds, for tests), `small` (minutes), `paper`: frozen dataclasses with everything
    that may differ.
    """
    units: Callable[[Any], list[Unit]]
    """scale → all units, in the order in which they are run."""
    run: Callable[[Any, Unit, Path], list[Row]]
    """(scale, unit, scratch) → rows of that unit, without its own columns.

    Scratch is a folder for arrays.
    """
    summarise: Callable[[Any, list[Row]], list[Row]]
    """(scale, rows) → the few rows that answer the question, with intervals over seeds."""
    draw: Callable[[Any, list[Row], Path], Any]
    """(scale, rows, scratch) → a Matplotlib figure."""
    complete: Callable[[Any, list[Row], Path], list[Row]] | None = None
    """(scale, rows of all units, scratch) → the rows with further columns: what one unit alone
    cannot say.
    """
    benchmark: Callable[[], list[Row]] | None = None
    """() → speed of one update at paper size and the projected time of the scale `paper`, as rows.
    """
