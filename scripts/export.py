"""Writes the agent of a run as two small files to play with: weights (safetensors) and settings
(JSON).

python scripts/export.py RUN_DIR --out AGENT.safetensors [--checkpoint latest|best|N]
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
    """Ends in .safetensors; the .json goes beside it.

    `scripts.playing.load_exported_agent(out)` plays it.
    """
    checkpoint: str = "latest"
    """`latest`, `best` (by the evaluations made while training) or a number of updates."""


def main(argv: list[str]) -> int:
    """Runs the program; returns its exit code."""
    options = tyro.cli(Options, prog="export.py", args=argv, description=__doc__)
    commands.make_folder_of("--out", options.out)
    exported.export_agent(
        options.run_dir, options.out, commands.checkpoint_name(options.checkpoint)
    )
    print(
        f"written to {options.out} ({options.out.stat().st_size:,} bytes) and "
        f"{options.out.with_suffix('.json')}"
    )
    return ExitCode.DONE


if __name__ == "__main__":
    sys.exit(commands.run(main))
