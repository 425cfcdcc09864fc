"""Goes on with a run in place: counters, schedules, value buffer and curves continue.

python scripts/resume.py RUN_DIR [--stop.num-frames N] [--stop.num-updates N] [--stop.minutes M]
"""

import dataclasses
import functools
import sys
from pathlib import Path
from typing import Annotated

import tyro

from configs.schema import StopConfig
from scripts.program import commands, process, reexecution
from scripts.training import supervision, whole_run


@dataclasses.dataclass(frozen=True)
class Options:
    """Which run to go on with, and until when. Nothing else about a run can change."""

    run_dir: Annotated[Path, tyro.conf.Positional]
    """Directory of the run."""
    stop: StopConfig = StopConfig()
    """New limits. One that is not given stays as the run has it; None takes it away."""
    ray_address: str | None = None
    """A running Ray cluster to join (`auto` or HOST:PORT).

    Default: an embedded one on this machine.
    """
    max_restarts: int = 0
    """Times the learner is restarted from its last checkpoint after it died; see
    scripts/program/exit_codes.py.
    """


def main(argv: list[str]) -> int:
    """Runs the program; returns its exit code."""
    parse = functools.partial(
        tyro.cli, Options, prog=process.called_as("resume"), args=argv, description=__doc__
    )
    options = parse()
    _, stored = commands.open_run(options.run_dir)
    options = parse(default=dataclasses.replace(options, stop=stored.stop))
    supervision.check(options.max_restarts)
    reexecution.reexecute_with_jemalloc()
    if options.max_restarts:
        again = supervision.without(argv, supervision.OPTION)
        options_only = [argument for argument in again if Path(argument) != options.run_dir]
        return supervision.supervise(
            ["resume", *again], options.run_dir, options_only, options.max_restarts
        )
    return whole_run.resume(
        options.run_dir, options.stop, ["scripts/resume.py", *argv], ray_address=options.ray_address
    )


if __name__ == "__main__":
    sys.exit(commands.run(main))
