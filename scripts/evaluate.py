"""Scores the agent of a run, or an exported one.

python scripts/evaluate.py RUN_DIR [--protocol greedy|sampled|training-final-200] [--baselines]
"""

import dataclasses
import sys
from pathlib import Path
from typing import Annotated, Literal

import tyro

from scripts.program import commands, process, reexecution


@dataclasses.dataclass(frozen=True)
class Options:
    """What to score and how."""

    run_dir: Annotated[Path, tyro.conf.Positional]
    """Directory of the run, which may be training, or of an agent by export.py."""
    checkpoint: str = "latest"
    """`latest`, `best` (by the evaluations made while training) or a number of updates."""
    episodes: int | None = None
    """`greedy`, `sampled`: whole games to play; 200 unless given."""
    protocol: Literal["greedy", "sampled", "training-final-200"] = "greedy"
    """`greedy`, `sampled`: fresh games, no root noise, lives ignored, the best action or one drawn
    as in training; `training-final-200`: the paper's, the last 200 whole games as played."""
    max_decisions: int | None = None
    """`greedy`, `sampled`: a game is cut off after so many; else by the environment's own limit."""
    baselines: bool = False
    """Scores random play and the best constant action (one button held) besides."""
    baseline_episodes: int = 30
    """Whole games of either."""
    out: Path | None = None
    """Where the JSON goes. Default: evaluations/`<protocol>-<updates>-<games>.json` of the run."""
    video: Path | None = None
    """An .mp4 of one greedy game in its real colours, with search value and policy beside it."""


def main(argv: list[str]) -> int:
    """Runs the program; returns its exit code."""
    options = tyro.cli(Options, prog=process.called_as("evaluate"), args=argv, description=__doc__)
    reexecution.reexecute_with_jemalloc()
    from scripts.playing import scored_run

    return scored_run.score_run(
        options.run_dir,
        checkpoint=options.checkpoint,
        episodes=options.episodes,
        protocol=options.protocol,
        max_decisions=options.max_decisions,
        baseline_episodes=options.baseline_episodes if options.baselines else None,
        out=options.out,
        video_file=options.video,
    )


if __name__ == "__main__":
    sys.exit(commands.run(main))
