"""Scores the agent of a run.

python scripts/evaluate.py RUN_DIR [--checkpoint latest|best|N] [--episodes 200]
    [--protocol greedy|training-final-200] [--out FILE.json] [--video FILE.mp4]
"""

import dataclasses
import functools
import json
import sys
from pathlib import Path
from typing import Annotated, Literal

import tyro

from configs.schema import ConfigError
from scripts import commands, process
from scripts.exit_codes import ExitCode

NUM_EPISODES = 200
NUM_FINAL_EPISODES = 200  # of the paper's score


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
    process.keep_heap()
    from scripts import evaluation, video

    directory, config = commands.open_run(options.run_dir)
    commands.check_environment(config)
    if options.protocol != "greedy" and (options.checkpoint != "latest" or options.episodes is not None):
        raise ConfigError(f"{options.protocol}: not with --checkpoint or --episodes: its games are of many checkpoints")
    if options.video is not None:
        video.check(config, options.video)
    for name, file in (("--out", options.out), ("--video", options.video)):
        if file is not None:
            commands.make_folder_of(name, file)
    # Once, for games and video: a run that trains has another latest checkpoint a moment later.
    load = functools.cache(lambda: evaluation.load_params(directory, commands.checkpoint_name(options.checkpoint)))
    if options.protocol == "greedy":
        num_episodes = NUM_EPISODES if options.episodes is None else commands.positive("--episodes", options.episodes)
        params, step = load()
        result = evaluation.evaluate_params(
            config,
            params,
            num_episodes=num_episodes,
            seed=evaluation.evaluation_seed(config.seed),
            checkpoint=step,
        )
        name = f"greedy-{step}-{num_episodes}"
    else:
        result, name = evaluation.score_final_episodes(config, directory, NUM_FINAL_EPISODES), options.protocol
        if len(result["returns"]) < NUM_FINAL_EPISODES:
            print(f"only {len(result['returns'])} games have been finished: not the paper's score", file=sys.stderr)
    path = evaluation.write_result(directory, result, name=name, out=options.out)
    shown = {key: value for key, value in result.items() if key != "returns"} | {"games": len(result["returns"])}
    print(json.dumps(shown, indent=2))
    print(f"written to {path}")
    if options.video is not None:
        video.record(config, load()[0], options.video, seed=evaluation.evaluation_seed(config.seed))
    return ExitCode.DONE


if __name__ == "__main__":
    sys.exit(commands.run(main))
