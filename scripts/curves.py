"""Learning curves and final scores of some runs, as CSV and as a plot.

    python scripts/curves.py RUN_DIR [RUN_DIR ...] --out results/cartpole

writes `<out>-curves.csv` (a row per run and logged row), `<out>-scores.csv` (a row per run and evaluation file) and
`<out>.png` (a panel per environment, a line per seed).
"""

import csv
import dataclasses
import json
import sys
from pathlib import Path
from typing import Annotated

import tyro

from configs.schema import Config
from learner.run_directory import RunDirectory
from scripts import commands
from scripts.exit_codes import ExitCode

_CURVE_FIELDS = ("environment", "seed", "num_frames", "num_updates", "wall_seconds", "episode/return")
_RESULT_FIELDS = ("protocol", "checkpoint", "mean", "standard_error", "human_normalised")
_SCORE_FIELDS = ("environment", "seed", "episodes", *_RESULT_FIELDS)


@dataclasses.dataclass(frozen=True)
class Options:
    """Which runs, and where to."""

    run_dirs: Annotated[list[Path], tyro.conf.Positional]
    """Directories of the runs."""
    out: Path = Path("results/runs")
    """Prefix of the files that are written."""


def curve_rows(directory: RunDirectory, config: Config) -> list[dict]:
    """Returns one row per logged row of a run in which a game was finished."""
    rows = [json.loads(line) for line in directory.metrics_file.read_text(encoding="utf-8").splitlines()]
    identity = {"environment": config.env.name, "seed": config.seed}
    return [identity | {key: row[key] for key in _CURVE_FIELDS[2:]} for row in rows if "episode/return" in row]


def score_rows(directory: RunDirectory, config: Config) -> list[dict]:
    """Returns one row per evaluation file of a run."""
    results = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(directory.evaluations.glob("*.json"))]
    return [
        {"environment": config.env.name, "seed": config.seed, "episodes": len(result["returns"])}
        | {key: result[key] for key in _RESULT_FIELDS}
        for result in results
    ]


def plot(rows: list[dict], path: Path) -> None:
    """Draws the return as played over emulator frames: a panel per environment, a line per seed."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    environments = sorted({row["environment"] for row in rows})
    figure, panels = pyplot.subplots(1, len(environments), figsize=(5 * len(environments), 3.6), squeeze=False)
    for panel, environment in zip(panels[0], environments, strict=True):
        for seed in sorted({row["seed"] for row in rows if row["environment"] == environment}):
            line = [row for row in rows if (row["environment"], row["seed"]) == (environment, seed)]
            frames = [row["num_frames"] / 1e6 for row in line]
            panel.plot(frames, [row["episode/return"] for row in line], linewidth=1.2, label=f"seed {seed}")
        panel.set(title=environment, xlabel="environment frames (millions)", ylabel="return, as played")
        panel.grid(alpha=0.3)
        panel.legend(fontsize=8, frameon=False)
    figure.tight_layout()
    figure.savefig(path, dpi=120)


def main(argv: list[str]) -> int:
    """Runs the program; returns its exit code."""
    options = tyro.cli(Options, prog="curves.py", args=argv, description=__doc__)
    runs = [commands.open_run(path) for path in options.run_dirs]
    options.out.parent.mkdir(parents=True, exist_ok=True)
    curves = [row for directory, config in runs for row in curve_rows(directory, config)]
    scores = [row for directory, config in runs for row in score_rows(directory, config)]
    for suffix, fields, rows in (("curves", _CURVE_FIELDS, curves), ("scores", _SCORE_FIELDS, scores)):
        with open(f"{options.out}-{suffix}.csv", "w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, fields, lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)
    plot(curves, Path(f"{options.out}.png"))
    print(f"written: {options.out}-curves.csv, {options.out}-scores.csv, {options.out}.png")
    return ExitCode.DONE


if __name__ == "__main__":
    sys.exit(commands.run(main))
