"""The score of a run: games of a checkpoint, or the paper's score of the games as played.

Beside it, where asked for: what players score that look at nothing, a video.
"""

import functools
import json
import sys
from pathlib import Path

from configs.schema import Config, ConfigError
from scripts.playing import baselines, evaluation, video
from scripts.playing.saved import open_saved
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
    max_decisions: int | None,
    baseline_episodes: int | None,
    out: Path | None,
    video_file: Path | None,
) -> int:
    """Scores a run or an exported agent, writes and prints the result; returns the exit code.

    Args:
      run_dir: of the run, which may be training, or of the agent.
      checkpoint: "latest", "best" or a number of updates; `greedy` and `sampled` only.
      episodes: whole games to play, None for `NUM_EPISODES`; `greedy` and `sampled` only.
      protocol: "greedy", "sampled" (see `evaluation.py`) or "training-final-200".
      max_decisions: a game is cut off after so many, None for the environment's own limit;
        likewise.
      baseline_episodes: whole games of random play and of the best constant action, None for
        neither.
      out: file of the result, None for the run's own.
      video_file: file of one greedy game, None for no video.

    Raises `ConfigError` for options that do not go together, and where nothing can be written.
    """
    saved = open_saved(run_dir)
    config = saved.config
    commands.check_environment(config)
    is_played = protocol in evaluation.PROTOCOLS
    if not is_played and (checkpoint, episodes, max_decisions) != ("latest", None, None):
        raise ConfigError(
            f"{protocol}: not with --checkpoint, --episodes or --max-decisions: its games are over"
        )
    if not is_played and saved.run is None:
        raise ConfigError(f"{protocol}: {run_dir} is an exported agent, its training is not there")
    _check_sizes(episodes, max_decisions, baseline_episodes)
    _check_files(config, out, video_file)
    # Once, for games and video: a run that trains has another latest checkpoint a moment later.
    load = functools.cache(lambda: saved.load_params(commands.checkpoint_name(checkpoint)))
    if is_played:
        num_episodes = episodes or NUM_EPISODES
        params, step = load()
        result = evaluation.evaluate_params(
            config,
            params,
            num_episodes=num_episodes,
            seed=evaluation.evaluation_seed(config.seed),
            checkpoint=step,
            protocol=protocol,
            max_decisions=max_decisions,
        )
        name = f"{protocol}-{step}-{num_episodes}"
    else:
        result = evaluation.score_final_episodes(config, saved.run, NUM_FINAL_EPISODES)
        name = protocol
        if len(result["returns"]) < NUM_FINAL_EPISODES:
            print(
                f"only {len(result['returns'])} games have been finished: not the paper's score",
                file=sys.stderr,
            )
    _show(result, evaluation.write_result(saved.folder, result, name=name, out=out))
    if baseline_episodes is not None:
        for evaluate in (baselines.evaluate_randomly, baselines.evaluate_constant):
            result = evaluate(config, num_episodes=baseline_episodes)
            name = f"{result['protocol']}-{baseline_episodes}"
            _show(result, evaluation.write_result(saved.folder, result, name=name))
    if video_file is not None:
        video.record(config, load()[0], video_file, seed=evaluation.evaluation_seed(config.seed))
    return ExitCode.DONE


def _check_sizes(
    episodes: int | None, max_decisions: int | None, baseline_episodes: int | None
) -> None:
    sizes = {
        "episodes": episodes,
        "max-decisions": max_decisions,
        "baseline-episodes": baseline_episodes,
    }
    for name, value in sizes.items():
        if value is not None:
            commands.positive(f"--{name}", value)


def _check_files(config: Config, out: Path | None, video_file: Path | None) -> None:
    if video_file is not None:
        video.check(config, video_file)
    for name, file in (("--out", out), ("--video", video_file)):
        if file is not None:
            commands.make_folder_of(name, file)


def _show(result: dict, path: Path) -> None:
    shown = {key: value for key, value in result.items() if key != "returns"}
    print(json.dumps(shown | {"games": len(result["returns"])}, indent=2))
    print(f"written to {path}")
