"""What the parts cost next to bare loops that do nothing else; prints JSON.

python scripts/benchmark.py NAME [--rounds N] [--seconds S] [--tiny]
"""

import dataclasses
import importlib
import json
import sys
from typing import Literal

import tyro

from scripts.program import reexecution

DONE, FAILED, BAD_INPUT = 0, 1, 2
Benchmark = Literal["search", "actors", "learner", "system", "value-buffer", "ingest"]


@dataclasses.dataclass(frozen=True)
class Options:
    """What is measured, and for how long."""

    name: tyro.conf.Positional[Benchmark]
    """search: one batched search; actors: Ray workers; learner: feed and updates; system: both;
    value-buffer: the paper's past heads; ingest: frames to a device, parameters back."""
    rounds: int = 30
    """Most rounds; fewer where the 95 % interval of the ratio is narrower than ± 0.03 before."""
    seconds: float = 10.0
    """Length of each measurement of a round."""
    preset: Literal["atari-cpu-onpolicy", "atari-paper"] | None = None
    """`system` only: measure the work of this preset in place of the reference network's."""
    tiny: bool = False
    """The smallest network and sizes: shows that the program works, the figures mean nothing."""


def main(argv: list[str]) -> int:
    """Runs one benchmark; returns the exit code: 1 where the machine was too slow to judge by."""
    options = tyro.cli(Options, args=argv, prog="benchmark.py", description=__doc__)
    refusal = ""
    if options.rounds < 1 or not options.seconds > 0:
        refusal = f"rounds = {options.rounds}, seconds = {options.seconds}: must be above 0"
    elif options.preset and options.name != "system":
        refusal = f"preset = {options.preset}: only `system` takes one, not `{options.name}`"
    if refusal:
        print(f"error: {refusal}", file=sys.stderr)
        return BAD_INPUT
    reexecution.reexecute_with_jemalloc()  # as in a session
    # Imported late: a child that is pinned to a core imports this file before it knows its core.
    benchmark = importlib.import_module(f"scripts.benchmarks.{options.name.replace('-', '_')}")
    more = {"preset": options.preset} if options.name == "system" else {}
    report = benchmark.run(options.rounds, options.seconds, options.tiny, **more)
    print(json.dumps(report, indent=2))
    if failure := report.get("failure"):
        print(f"error: {failure}", file=sys.stderr)
    return FAILED if failure else DONE


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
