"""Compares the arms of a suite: tables, tests and plots from its file of results.

    python scripts/report.py RESULTS.csv [MORE.csv ...] --out DIR          # MORE: PPO's, say
    python scripts/report.py results/paper_table3.csv --out runs/paper     # the paper's own table

writes DIR/report.html (one file, opens anywhere), DIR/report.md, a CSV for every table and an SVG
for every plot. `scripts/experiments/results.py` has the format of RESULTS.csv.
"""

import dataclasses
import sys
from pathlib import Path
from typing import Annotated

import tyro

from scripts.experiments.report import build
from scripts.program import commands, process
from scripts.program.exit_codes import ExitCode


@dataclasses.dataclass(frozen=True)
class Options:
    """What to compare, and where to."""

    results: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """The files of results."""
    out: Path = Path("results/report")
    """Directory of the report."""
    baseline: str | None = None
    """Arm that the others are compared with. Default: `muzero`, or the first of the file."""
    kind: str | None = None
    """Kind of score to compare by.

    Default: the first there of last-10-percent, training-final-200, sampled, greedy.
    """
    resamples: int = 2000
    """Resamples of the bootstrap."""


def main(argv: list[str]) -> int:
    """Runs the program; returns its exit code."""
    options = tyro.cli(Options, prog=process.called_as("report"), args=argv, description=__doc__)
    choices = dict(baseline=options.baseline, kind=options.kind, resamples=options.resamples)
    build.write_report(options.results, options.out, **choices)
    return ExitCode.DONE


if __name__ == "__main__":
    sys.exit(commands.run(main))
