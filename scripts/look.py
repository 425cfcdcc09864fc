"""Looks into the agent of a run: its search, what its model imagines, and how value-equivalent the
model is.

python scripts/look.py tree RUN_DIR --out FILE.svg       # the search tree of one state
python scripts/look.py imagine RUN_DIR --out FILE.png    # imagined values against what happened
python scripts/look.py audit RUN_DIR --out DIR           # stored policies against real returns
"""

import sys

import tyro

from scripts.inspection import views
from scripts.program import commands, process
from scripts.program.exit_codes import ExitCode


def main(argv: list[str]) -> int:
    """Runs the program; returns its exit code."""
    views.show(
        tyro.cli(
            views.Tree | views.Imagine | views.Audit,
            prog=process.called_as("look"),
            args=argv,
            description=__doc__,
        )
    )
    return ExitCode.DONE


if __name__ == "__main__":
    sys.exit(commands.run(main))
