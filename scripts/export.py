"""Writes the agent of a run to a small folder of its own: weights (safetensors), settings (JSON),
and a card that says what it scored.

python scripts/export.py RUN_DIR --out FOLDER [--checkpoint latest|best|N]
"""

import dataclasses
import sys
from pathlib import Path
from typing import Annotated

import tyro

from scripts.playing import exported
from scripts.program import commands
from scripts.program.exit_codes import ExitCode


@dataclasses.dataclass(frozen=True)
class Options:
    """Which agent, and where to."""

    run_dir: Annotated[Path, tyro.conf.Positional]
    """Directory of the run; it may be training."""
    out: Path
    """Folder of the agent; evaluate.py and look.py take it where they take a run, and so does
    `scripts.playing.load_agent(out)`."""
    checkpoint: str = "latest"
    """`latest`, `best` (by the evaluations made while training) or a number of updates."""


def main(argv: list[str]) -> int:
    """Runs the program; returns its exit code."""
    options = tyro.cli(Options, prog="export.py", args=argv, description=__doc__)
    commands.make_folder("--out", options.out)
    exported.export_agent(
        options.run_dir, options.out, commands.checkpoint_name(options.checkpoint)
    )
    num_bytes = sum(path.stat().st_size for path in options.out.iterdir())
    print(f"written to {options.out}, {num_bytes:,} bytes")
    return ExitCode.DONE


if __name__ == "__main__":
    sys.exit(commands.run(main))
