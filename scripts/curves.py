"""Learning curves and final scores of some runs, as CSV and as a plot.

    python scripts/curves.py RUN_DIR [RUN_DIR ...] --out results/cartpole

writes `<out>-curves.csv` (a row per run and logged row), `<out>-scores.csv` (a row per run and
evaluation file) and `<out>.png` (a panel per environment, a line per run).
"""

import dataclasses
import sys
from pathlib import Path
from typing import Annotated

import tyro

from scripts.experiments import curves
from scripts.program import commands
from scripts.program.exit_codes import ExitCode


@dataclasses.dataclass(frozen=True)
class Options:
    """Which runs, and where to."""

    run_dirs: Annotated[list[Path], tyro.conf.Positional]
    """Directories of the runs."""
    out: Path = Path("results/runs")
    """Prefix of the files that are written."""


def main(argv: list[str]) -> int:
    """Runs the program; returns its exit code."""
    options = tyro.cli(Options, prog="curves.py", args=argv, description=__doc__)
    curves.write_curves(options.run_dirs, options.out)
    return ExitCode.DONE


if __name__ == "__main__":
    sys.exit(commands.run(main))
