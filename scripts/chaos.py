"""Injects faults and writes down what was promised and what happened.

python scripts/chaos.py [--only NAME ...] [--quick] [--out results/chaos]
"""

import dataclasses
import sys
from pathlib import Path

import tyro

from scripts.faults import injection
from scripts.program import commands
from scripts.program.exit_codes import ExitCode


@dataclasses.dataclass(frozen=True)
class Options:
    """Which faults, and where the table goes."""

    only: tuple[str, ...] = ()
    """Names of the faults to inject; all by default."""
    quick: bool = False
    """Only those that start no program and no Ray (some ten seconds)."""
    out: Path | None = None
    """The table goes to OUT.md and OUT.csv; rows of faults that are not injected now stay as they
    are.
    """


def main(argv: list[str]) -> int:
    """Runs the program; returns 1 if a promise was not held."""
    options = tyro.cli(Options, prog="chaos.py", args=argv, description=__doc__)
    is_held = injection.inject_all(options.only, quick=options.quick, out=options.out)
    return ExitCode.DONE if is_held else ExitCode.CRASH


if __name__ == "__main__":
    sys.exit(commands.run(main))
