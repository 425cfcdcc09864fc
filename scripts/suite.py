"""Runs every trial of a suite and collects the results: games × seeds × arms.

    python scripts/suite.py run minatar --out runs/minatar
    python scripts/suite.py run minatar --out runs/two --seeds 7 8 --frames 200000
    python scripts/suite.py run atari57 --out /shared/runs/atari57 --ray-address auto

SUITE is a name in configs/suites/ or a .toml file like those. The same command again goes on after
anything died: finished trials are not repeated, the others continue from their checkpoints.
DIR/results.csv grows with every finished trial; `scripts/report.py` compares the arms. It is also
all that has to be kept of a finished trial: in an empty DIR on another machine the suite goes on.
A DIR may grow by games and seeds alone. Exit code 1: a trial was given up, the others are finished.
"""

import dataclasses
import sys
from pathlib import Path
from typing import Annotated, Literal

import tyro

from configs import suite as suites
from scripts.experiments import driver
from scripts.program import commands, process


@dataclasses.dataclass(frozen=True)
class Options:
    """What to run, and where to."""

    action: Annotated[Literal["run"], tyro.conf.Positional]
    """`run`: starts the suite, or goes on with it."""
    suite: Annotated[str, tyro.conf.Positional]
    """A suite in configs/suites/, or a .toml file."""
    out: Path
    """Directory of the results and of all runs, on a path that every node sees."""
    games: tuple[str, ...] | None = None
    """In place of the suite's own."""
    seeds: tuple[int, ...] | None = None
    """In place of the suite's own."""
    frames: int | None = None
    """Emulator frames of a trial, in place of the suite's own."""
    jobs: int | None = None
    """Trials at once. Default: as many as Ray has room for now."""
    ray_address: str | None = None
    """A running Ray cluster to join (`auto` or HOST:PORT). Default: one on this machine."""
    dry_run: bool = False
    """Check everything, print the commands of the trials, start nothing."""


def main(argv: list[str]) -> int:
    """Runs the program; returns its exit code."""
    options = tyro.cli(Options, prog=process.called_as("suite"), args=argv, description=__doc__)
    suite = suites.load(options.suite)
    suite = suites.overridden(suite, options.games, options.seeds, options.frames)
    limits = dict(jobs=options.jobs, ray_address=options.ray_address, dry_run=options.dry_run)
    return driver.run_suite(suite, options.out, **limits)


if __name__ == "__main__":
    sys.exit(commands.run(main))
