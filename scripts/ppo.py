"""Trains and scores PPO on the games, frames and cores of a preset: the arm `ppo` for any report.

    python scripts/ppo.py --games krull boxing --seeds 100 101 --decisions 100000 --out runs/ppo
    python scripts/report.py RESULTS.csv runs/ppo/results.csv --out DIR

Needs the extra `ppo` (pip install '.[ppo]'). Trials that stand in DIR/results.csv are not run
again.
"""

import dataclasses
import sys
from pathlib import Path

import tyro

from configs.schema import ConfigError
from scripts.program import commands
from scripts.program.exit_codes import ExitCode


@dataclasses.dataclass(frozen=True)
class Options:
    """Which trials, and how they are scored."""

    games: tuple[str, ...]
    """Atari games, spelt as in the results that PPO is to stand beside."""
    seeds: tuple[int, ...] = (0,)
    """Of the trials."""
    decisions: int = 100_000
    """Of every trial; whole rollouts of 1,024, never more."""
    preset: str = "atari-cpu"
    """Whose environment and stack of frames it learns from."""
    episodes: int = 30
    """Whole games of every score: sampled, greedy, and of the baselines."""
    max_decisions: int = 27_000
    """A scored game is cut off after so many, its return until then counts."""
    baselines: bool = True
    """Scores random play and the best constant action besides."""
    out: Path = Path("runs/ppo")
    """Directory of results.csv."""


def main(argv: list[str]) -> int:
    """Runs the program; returns its exit code."""
    options = tyro.cli(Options, prog="ppo.py", args=argv, description=__doc__)
    try:
        from scripts.benchmarks import ppo
    except ModuleNotFoundError as error:
        raise ConfigError(f"PPO needs the extra `ppo`: pip install '.[ppo]' ({error})") from error
    ppo.run(**dataclasses.asdict(options))
    return ExitCode.DONE


if __name__ == "__main__":
    sys.exit(commands.run(main))
