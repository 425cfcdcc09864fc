"""Runs a tabular experiment of the papers, or goes on with it.

    python scripts/tabular.py EXPERIMENT --scale {smoke,small,paper} --out DIR

leaves a CSV, a summary and a figure (PNG and SVG) in DIR; `scripts/laboratory/conduct.py` says
which file is what.
"""

import dataclasses
import os
import sys
from pathlib import Path
from typing import Annotated, Literal

import tyro

from configs.schema import ConfigError
from scripts.laboratory import conduct, workers
from scripts.laboratory.registry import EXPERIMENTS
from scripts.program import reexecution


@dataclasses.dataclass(frozen=True)
class Options:
    """Which experiment, how large, and where to."""

    experiment: Annotated[Literal[tuple(EXPERIMENTS)], tyro.conf.Positional]
    """Its name."""
    scale: Literal["smoke", "small", "paper"] = "small"
    """Seconds, minutes, or the paper's own size."""
    out: Path = Path("runs/tabular")
    """Directory of the results; a second call goes on with what is missing."""
    workers: int | None = None
    """Processes, each on a core of its own. Default: one per core."""
    benchmark: bool = False
    """Only measure one update at paper size and print the projected time of `--scale paper`."""


def main(argv: list[str]) -> int:
    """Runs the program; returns its exit code."""
    options = tyro.cli(Options, prog="tabular.py", args=argv, description=__doc__)
    experiment = EXPERIMENTS[options.experiment]
    if options.workers is not None and options.workers < 1:
        raise ConfigError(f"--workers {options.workers}: must be above 0")
    reexecution.reexecute_with_jemalloc()
    num_workers = options.workers or len(workers.cores())
    if not options.benchmark:
        os.environ["PJRT_NPROC"] = "1"  # read when JAX starts; see `mdp.policy_value`
        conduct.run(options.experiment, experiment, options.scale, options.out, num_workers)
    elif experiment.benchmark is None:
        raise ConfigError(f"--benchmark: {options.experiment} has none")
    else:
        conduct.print_rows(experiment.benchmark())
    return 0


if __name__ == "__main__":
    from scripts.program import commands  # here: workers import this file, and need nothing of Ray

    sys.exit(commands.run(main))
