"""Learning curves and final scores of some runs, as CSV and as a plot."""

import csv
import os
from collections.abc import Sequence
from pathlib import Path

from configs.schema import Config, ConfigError
from learner.records.run_directory import RunDirectory, read_rows
from scripts.program import commands

_CURVE_FIELDS = (
    "run",
    "environment",
    "seed",
    "num_frames",
    "num_updates",
    "wall_seconds",
    "episode/return",
)
_RESULT_FIELDS = ("protocol", "checkpoint", "mean", "standard_error", "human_normalised")
_SCORE_FIELDS = ("run", "environment", "seed", "episodes", *_RESULT_FIELDS)


def names(directories: list[RunDirectory]) -> list[str]:
    """Returns the paths of runs from the folder that holds them all, which tell them apart."""
    common = os.path.commonpath([directory.path.parent for directory in directories])
    return [directory.path.relative_to(common).as_posix() for directory in directories]


def curve_rows(name: str, directory: RunDirectory, config: Config) -> list[dict]:
    """Returns one row per logged row of a run in which a game was finished.

    Raises `ConfigError` if there is none.
    """
    found = [row for row in read_rows(directory.metrics_file) if "episode/return" in row]
    if not found:
        raise ConfigError(f"{directory.path}: no game has been finished yet")
    identity = _identity(name, config)
    return [identity | {key: row[key] for key in _CURVE_FIELDS[len(identity) :]} for row in found]


def score_rows(name: str, directory: RunDirectory, config: Config) -> list[dict]:
    """Returns one row per evaluation file of a run."""
    return [
        _identity(name, config)
        | {"episodes": len(result["returns"])}
        | {key: result[key] for key in _RESULT_FIELDS}
        for result in directory.read_evaluations()
    ]


def _identity(name: str, config: Config) -> dict:
    return {"run": name, "environment": config.env.name, "seed": config.seed}


def plot(rows: list[dict], path: Path) -> None:
    """Draws the return as played over emulator frames: a panel per environment, a line per run."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    environments = sorted({row["environment"] for row in rows})
    figure, panels = pyplot.subplots(
        1, len(environments), figsize=(5 * len(environments), 3.6), squeeze=False
    )
    for panel, environment in zip(panels[0], environments, strict=True):
        runs = sorted(
            {(row["seed"], row["run"]) for row in rows if row["environment"] == environment}
        )
        is_told_by_seed = len({seed for seed, _ in runs}) == len(runs)
        for seed, run in runs:
            line = [
                row
                for row in rows
                if (row["environment"], row["seed"], row["run"]) == (environment, seed, run)
            ]
            frames = [row["num_frames"] / 1e6 for row in line]
            label = f"seed {seed}" if is_told_by_seed else run
            panel.plot(frames, [row["episode/return"] for row in line], linewidth=1.2, label=label)
        panel.set(
            title=environment, xlabel="environment frames (millions)", ylabel="return, as played"
        )
        panel.grid(alpha=0.3)
        panel.legend(fontsize=8, frameon=False)
    figure.tight_layout()
    figure.savefig(path, dpi=120)


def write_curves(run_dirs: Sequence[Path], out: Path) -> None:
    """Writes `<out>-curves.csv`, `<out>-scores.csv` and `<out>.png`.

    Raises `ConfigError` for a run without games.
    """
    if not run_dirs:
        raise ConfigError("give at least one run directory")
    runs = [commands.open_run(path) for path in run_dirs]
    if len({directory.path.resolve() for directory, _ in runs}) < len(runs):
        raise ConfigError(f"{' '.join(map(str, run_dirs))}: one of these runs stands there twice")
    runs = [
        (name, *run)
        for name, run in zip(names([directory for directory, _ in runs]), runs, strict=True)
    ]
    commands.make_folder("--out", out.parent)
    curves = [row for run in runs for row in curve_rows(*run)]
    scores = [row for run in runs for row in score_rows(*run)]
    for suffix, fields, rows in (
        ("curves", _CURVE_FIELDS, curves),
        ("scores", _SCORE_FIELDS, scores),
    ):
        with open(f"{out}-{suffix}.csv", "w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, fields, lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)
    plot(curves, Path(f"{out}.png"))
    print(f"written: {out}-curves.csv, {out}-scores.csv, {out}.png")
