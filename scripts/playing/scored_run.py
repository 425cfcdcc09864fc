"""The score of a run: greedy games of a checkpoint, or the paper's score of the games as played; a video beside it."""

import functools
import json
import sys
from pathlib import Path

from configs.schema import ConfigError
from scripts.playing import evaluation, video
from scripts.program import commands
from scripts.program.exit_codes import ExitCode

NUM_EPISODES = 200
NUM_FINAL_EPISODES = 200  # of the paper's score


def score_run(
    run_dir: Path,
    *,
    checkpoint: str,
    episodes: int | None,
    protocol: str,
    out: Path | None,
    video_file: Path | None,
) -> int:
    """Scores a run by `protocol`, writes the result and prints it; returns the exit code.

    Args:
      run_dir: of the run; it may be training.
      checkpoint: "latest", "best" or a number of updates; `greedy` only.
      episodes: whole games to play, None for `NUM_EPISODES`; `greedy` only.
      protocol: "greedy" or "training-final-200".
      out: file of the result, None for the run's own.
      video_file: file of one greedy game, None for no video.

    Raises `ConfigError` for options that do not go together, and where nothing can be written.
    """
    directory, config = commands.open_run(run_dir)
    commands.check_environment(config)
    if protocol != "greedy" and (checkpoint != "latest" or episodes is not None):
        raise ConfigError(f"{protocol}: not with --checkpoint or --episodes: its games are of many checkpoints")
    if video_file is not None:
        video.check(config, video_file)
    for name, file in (("--out", out), ("--video", video_file)):
        if file is not None:
            commands.make_folder_of(name, file)
    # Once, for games and video: a run that trains has another latest checkpoint a moment later.
    load = functools.cache(lambda: evaluation.load_params(directory, commands.checkpoint_name(checkpoint)))
    if protocol == "greedy":
        num_episodes = NUM_EPISODES if episodes is None else commands.positive("--episodes", episodes)
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
        result, name = evaluation.score_final_episodes(config, directory, NUM_FINAL_EPISODES), protocol
        if len(result["returns"]) < NUM_FINAL_EPISODES:
            print(f"only {len(result['returns'])} games have been finished: not the paper's score", file=sys.stderr)
    path = evaluation.write_result(directory, result, name=name, out=out)
    shown = {key: value for key, value in result.items() if key != "returns"} | {"games": len(result["returns"])}
    print(json.dumps(shown, indent=2))
    print(f"written to {path}")
    if video_file is not None:
        video.record(config, load()[0], video_file, seed=evaluation.evaluation_seed(config.seed))
    return ExitCode.DONE
