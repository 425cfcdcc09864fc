"""The memory of a run over time: trains a preset and samples every process of it, as CSV and as a
plot.

    python scripts/memory.py PRESET --minutes 30 --out results/memory --run-dir DIR

Ends with exit code 1 if a process that lived from minute 5 to the end grew by 2 % or more, or if
anything was compiled after minute 5.
"""

import dataclasses
import sys
from pathlib import Path
from typing import Annotated

import tyro

from scripts.benchmarks import memory


@dataclasses.dataclass(frozen=True)
class Options:
    """Which preset is trained, and where the record goes."""

    preset: Annotated[str, tyro.conf.Positional]
    """A preset of `train.py`; a new run of it is started."""
    out: Path
    """Path of the record without its ending: OUT.csv and OUT.png are written."""
    run_dir: Path
    """Directory of the run."""
    minutes: float = 30.0
    """Length of the run."""


def main(argv: list[str]) -> int:
    """Runs the program; returns its exit code."""
    options = tyro.cli(Options, args=argv, prog="memory.py", description=__doc__)
    return memory.watch_training(options.preset, options.out, options.run_dir, options.minutes)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
