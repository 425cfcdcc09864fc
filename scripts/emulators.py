"""Which games of this ale-py go on exactly after a restore: what `actors/states.py` refuses by name
comes from here.

python scripts/emulators.py [GAME ...]
"""

import dataclasses
import sys
from typing import Annotated

import tyro

from scripts.inspection import emulators
from scripts.program import commands
from scripts.program.exit_codes import ExitCode


@dataclasses.dataclass(frozen=True)
class Options:
    """Which games."""

    games: Annotated[tuple[str, ...], tyro.conf.Positional] = ()
    """Names; all games of ale-py by default (104, some five minutes)."""


def main(argv: list[str]) -> int:
    """Runs the program; returns its exit code."""
    options = tyro.cli(Options, prog="emulators.py", args=argv, description=__doc__)
    emulators.compare_games(options.games)
    return ExitCode.DONE


if __name__ == "__main__":
    sys.exit(commands.run(main))
