"""Scores the agent of a run.

python scripts/evaluate.py RUN_DIR [--checkpoint latest|best|N] [--episodes 200]
    [--protocol greedy|training-final-200] [--out FILE.json] [--video FILE.mp4]
"""

import dataclasses
import json
import sys
from pathlib import Path
from typing import Annotated, Literal

import tyro

from configs.schema import ConfigError
from scripts import commands, process
from scripts.exit_codes import ExitCode

NUM_FINAL_EPISODES = 200  # of the paper's score


@dataclasses.dataclass(frozen=True)
class Options:
    """What to score and how."""

    run_dir: Annotated[Path, tyro.conf.Positional]
    """Directory of the run; it may be training."""
    checkpoint: str = "latest"
    """`latest`, `best` (by the evaluations made while training) or a number of updates."""
    episodes: int = 200
    """`greedy`: whole games to play."""
    protocol: Literal["greedy", "training-final-200"] = "greedy"
    """`greedy`: fresh games, no root noise, most visited action, lives ignored; `training-final-200`: the paper's
    score, the last 200 whole games of the actors as played."""
    out: Path | None = None
    """Where the JSON goes. Default: evaluations/ of the run."""
    video: Path | None = None
    """An .mp4 of one greedy game in its real colours, with value and visit probabilities beside it."""


def main(argv: list[str]) -> int:
    """Runs the program; returns its exit code."""
    options = tyro.cli(Options, prog="evaluate.py", args=argv, description=__doc__)
    process.keep_heap()
    from scripts import evaluation, video

    directory, config = commands.open_run(options.run_dir)
    commands.check_environment(config)
    if options.out is not None and options.out.is_dir():
        raise ConfigError(f"--out {options.out}: is a directory, must be a file")
    if options.protocol != "greedy" and options.checkpoint != "latest":
        raise ConfigError(f"--checkpoint {options.checkpoint}: not with {options.protocol}: games of many checkpoints")
    if options.video is not None:
        video.check(config, options.video)
    if options.protocol == "greedy":
        params, step = evaluation.load_params(directory, commands.checkpoint_name(options.checkpoint))
        result = evaluation.evaluate_params(
            config,
            params,
            num_episodes=commands.positive("--episodes", options.episodes),
            seed=evaluation.evaluation_seed(config.seed),
            checkpoint=step,
        )
    else:
        result = evaluation.score_final_episodes(config, directory, NUM_FINAL_EPISODES)
    path = evaluation.write_result(directory, result, name=f"{options.protocol}-{options.checkpoint}", out=options.out)
    shown = {key: value for key, value in result.items() if key != "returns"} | {"games": len(result["returns"])}
    print(json.dumps(shown, indent=2))
    print(f"written to {path}")
    if options.video is not None:
        params, _ = evaluation.load_params(directory, commands.checkpoint_name(options.checkpoint))
        video.record(config, params, options.video, seed=evaluation.evaluation_seed(config.seed))
    return ExitCode.DONE


if __name__ == "__main__":
    sys.exit(commands.run(main))
