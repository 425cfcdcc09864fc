"""Starts a training run.

python scripts/train.py PRESET [--run-dir DIR] [--env.name NAME] [any field]
"""

import dataclasses
import sys
from pathlib import Path
from typing import Annotated

import tyro

from configs import presets
from configs.schema import Config
from scripts.program import commands, process, reexecution
from scripts.training import whole_run


@dataclasses.dataclass(frozen=True)
class Options:
    """A run: where and how it starts, and everything it is made of."""

    config: Annotated[Config, tyro.conf.arg(name="")]
    run_dir: Path | None = None
    """Directory of the run, on a path that every node sees. Default: runs/PRESET-ENV-SEED-TIME."""
    ray_address: str | None = None
    """A running Ray cluster to join (`auto` or HOST:PORT). Default: one on this machine."""
    init_from: str | None = None
    """RUN_DIR or RUN_DIR@N: that run's weights (after N updates) to start from, counters fresh."""
    max_restarts: int = 0
    """Restarts of a learner that died, from its last checkpoint: scripts/program/exit_codes.py."""
    dry_run: bool = False
    """Resolve and check every setting, print them as JSON, start nothing."""


def parse(argv: list[str]) -> tuple[str, Options]:
    """Returns the preset's name and the options; exits with code 2 on an unknown one."""
    told, called = presets.DESCRIPTIONS, process.called_as("train")
    defaults = {name: (told[name], Options(config)) for name, config in presets.PRESETS.items()}
    options = tyro.extras.overridable_config_cli(defaults, prog=called, args=argv)
    return next(arg for arg in argv if arg in presets.PRESETS), options


def main(argv: list[str]) -> int:
    """Runs the program; returns its exit code."""
    preset, options = parse(argv)
    reexecution.reexecute_with_jemalloc()
    return whole_run.start(
        options.config,
        options.run_dir or commands.default_path(preset, options.config),
        argv,
        ray_address=options.ray_address,
        init_from=options.init_from,
        max_restarts=options.max_restarts,
        dry_run=options.dry_run,
    )


if __name__ == "__main__":
    sys.exit(commands.run(main))
