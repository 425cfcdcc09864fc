"""What a run leaves when it has reached its end: final scores, its curve and one game to look at.

    <run>/evaluations/{sampled,final,constant,random}.json    `final` is greedy
          curve.png                                           the return as played, and these scores
          game.mp4                                            a greedy game, with `log.final_video`

The run is saved before: whatever fails here, or is interrupted, loses none of its training.
"""

import functools
from pathlib import Path

from configs.schema import Config, ConfigError
from learner.records.run_directory import RunDirectory, read_rows, writing
from muzero.types import Params
from scripts.playing import baselines, evaluation

CURVE, VIDEO = "curve.png", "game.mp4"
_STYLES = {"sampled": ("C0", "-"), "greedy": ("C0", ":"), "constant": ("C1", "--")}
_STYLES |= {"random": ("0.4", "-.")}


def finish(config: Config, directory: RunDirectory) -> None:
    """Plays games with the last checkpoint and without it, and draws what came of the run.

    Each score is printed and written as soon as it is there. Raises NotWritten.
    """
    num_episodes = config.log.evaluation_episodes
    print(
        f"{config.env.name}, {num_episodes} whole games each (Ctrl-C: the run is saved already):",
        flush=True,
    )
    params, step = evaluation.load_params(directory, "latest")
    seed = evaluation.evaluation_seed(config.seed)
    play = functools.partial(
        evaluation.evaluate_params,
        config,
        params,
        num_episodes=num_episodes,
        seed=seed,
        checkpoint=step,
    )
    players = {  # by file; a suite takes the last one as the end of the run
        "sampled": lambda: play(protocol="sampled"),
        "final": lambda: play(protocol="greedy"),
        "constant": lambda: baselines.evaluate_constant(config, num_episodes=num_episodes),
        "random": lambda: baselines.evaluate_randomly(config, num_episodes=num_episodes),
    }
    results = []
    for name, evaluate in players.items():
        results.append(evaluate())
        evaluation.write_result(directory.path, results[-1], name=name)
        print(_score(results[-1]), flush=True)
    draw_curve(config, read_rows(directory.metrics_file), results, directory.path / CURVE)
    print(f"drawn: {directory.path / CURVE}", flush=True)
    if config.log.final_video:
        film(config, params, directory.path / VIDEO, seed=seed)


def draw_curve(config: Config, rows: list[dict], results: list[dict], path: Path) -> None:
    """Draws the return as played over emulator frames, the final scores as lines with bands.

    Args:
      config: of the run.
      rows: of metrics; those in which no game ended are left out.
      results: of the final scores; a band is ± one standard error over games.
      path: of the picture.

    Raises NotWritten.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, panel = pyplot.subplots(figsize=(7.5, 4))
    played = [row for row in rows if row.get("episode/return") is not None]
    frames = [row["num_frames"] / 1e6 for row in played]
    label = "as played (games ended lately)" if played else "as played: no game has ended"
    panel.plot(frames, [row["episode/return"] for row in played], color="0.7", label=label)
    for result in results:
        color, style = _STYLES[result["protocol"]]
        mean, error = result["mean"], result["standard_error"] or 0.0
        label = f"{result['protocol']} {mean:.4g} ± {error:.2g}"
        panel.axhline(mean, color=color, linestyle=style, label=label)
        panel.axhspan(mean - error, mean + error, color=color, alpha=0.12, linewidth=0)
    games = len(results[0]["returns"]) if results else 0
    panel.set(
        title=f"{config.env.name}, seed {config.seed}\nfinal scores: {games} games each, "
        "± one standard error over games",
        xlabel="environment frames (millions)",
        ylabel="return (points)",
        xlim=(0, max((row["num_frames"] for row in rows), default=1) / 1e6),
    )
    panel.grid(alpha=0.3)
    panel.legend(loc="upper left", bbox_to_anchor=(1.01, 1), frameon=False, fontsize=8)
    with writing(path):
        figure.savefig(path, dpi=120, bbox_inches="tight")
    pyplot.close(figure)


def film(config: Config, params: Params, path: Path, *, seed: int) -> None:
    """Films a greedy game; says in a line why not where it cannot be rendered or written."""
    from scripts.playing import video

    try:
        video.record(config, params, path, seed=seed)
    except (ConfigError, OSError) as error:
        print(f"no video: {error}", flush=True)
    else:
        print(f"filmed: {path}, a greedy game", flush=True)


def _score(result: dict) -> str:
    """Returns a line: `greedy    12.00 ± 1.00 (human-normalised 0.50)`."""
    error = "" if result["standard_error"] is None else f" ± {result['standard_error']:.2f}"
    human = (
        ""
        if result["human_normalised"] is None
        else f" (human-normalised {result['human_normalised']:.2f})"
    )
    held = f", best of all: {result['action_name']}" if "action_name" in result else ""
    cut = f", {result['num_unfinished']} unfinished" if result["num_unfinished"] else ""
    return f"  {result['protocol']:<9} {result['mean']:.2f}{error}{human}{held}{cut}"
