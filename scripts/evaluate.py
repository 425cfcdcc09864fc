"""Scores the agent of a run.

python scripts/evaluate.py RUN_DIR [--checkpoint latest|best|N] [--episodes 200]
    [--protocol greedy|training-final-200] [--out FILE.json] [--video FILE.mp4]
"""

import dataclasses
import sys
from pathlib import Path
from typing import Annotated, Literal

import tyro

from scripts.program import commands, reexecution


@dataclasses.dataclass(frozen=True)
class Options:
    """What to score and how."""

    run_dir: Annotated[Path, tyro.conf.Positional]
    """Directory of the run; it may be training."""
    checkpoint: str = "latest"
    """`latest`, `best` (by the evaluations made while training) or a number of updates."""
    episodes: int | None = None
    """`greedy`: whole games to play; 200 unless given."""
    protocol: Literal["greedy", "training-final-200"] = "greedy"
    """`greedy`: fresh games, no root noise, most probable action, lives ignored; `training-final-200`: the paper's
    score, the last 200 whole games of the actors as played."""
    out: Path | None = None
    """Where the JSON goes. Default: evaluations/ of the run, `greedy-<updates>-<games>.json`."""
    video: Path | None = None
    """An .mp4 of one greedy game in its real colours, with search value and policy beside it."""


def main(argv: list[str]) -> int:
    """Runs the program; returns its exit code."""
    options = tyro.cli(Options, prog="evaluate.py", args=argv, description=__doc__)
    reexecution.reexecute_with_jemalloc()
    from scripts.playing import scored_run

    return scored_run.score_run(
        options.run_dir,
        checkpoint=options.checkpoint,
        episodes=options.episodes,
        protocol=options.protocol,
        out=options.out,
        video_file=options.video,
    )


if __name__ == "__main__":
    sys.exit(commands.run(main))
