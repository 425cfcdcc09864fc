"""One call of an experiment: what is still missing is run, then everything is summed up and drawn.

<out>/<name>.csv           a row per finished piece of work, kept as soon as it is finished
      <name>-summary.csv   the answer, with 95 % intervals over seeds
      <name>.png .svg      the figure
      <name>.json          scale and settings: a directory is of one scale
      scratch/<name>/      arrays that the figure needs; may be deleted afterwards
"""

import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

import rich.console
import rich.progress
import rich.table

from configs.schema import ConfigError
from learner.records.run_directory import write_atomically
from scripts.laboratory import workers
from scripts.laboratory.experiment import Experiment, Row, Unit
from scripts.laboratory.table import Table, to_text


def run(name: str, experiment: Experiment, scale_name: str, out: Path, num_workers: int) -> None:
    """Runs what is missing of an experiment in `out`, then writes its summary and its figure.

    Raises `ConfigError` if `out` cannot be used or holds the same experiment at other settings.
    """
    scale = experiment.scales[scale_name]
    _claim(out, name, {"scale": scale_name, **dataclasses.asdict(scale)})
    table = Table(out / f"{name}.csv")
    units = experiment.units(scale)
    missing = table.missing(units)
    scratch = out / "scratch" / name
    scratch.mkdir(parents=True, exist_ok=True)
    finished = workers.run_units(experiment, scale, missing, scratch, num_workers)
    _collect(name, table, finished, len(units), len(missing))
    table.replace(
        sorted(table.rows, key=lambda row: units.index({key: row[key] for key in units[0]}))
    )
    if experiment.complete is not None:
        table.replace(experiment.complete(scale, table.rows, scratch))
    _conclude(name, experiment, scale, table.rows, out)


def _claim(out: Path, name: str, settings: dict[str, Any]) -> None:
    text = json.dumps(settings, indent=2) + "\n"
    path = out / f"{name}.json"
    try:
        out.mkdir(parents=True, exist_ok=True)
        if path.exists() and path.read_text(encoding="utf-8") != text:
            raise ConfigError(
                f"--out {out}: holds {name} at other settings ({path.name}); choose another "
                f"directory"
            )
        write_atomically(path, text)
    except OSError as error:
        raise ConfigError(f"--out {out}: {error}") from error


def _collect(name: str, table: Table, finished, num_units: int, num_missing: int) -> None:
    """Keeps rows as they come, with a bar on a terminal and plain lines elsewhere."""
    interactive = sys.stdout.isatty()
    columns = (*rich.progress.Progress.get_default_columns(), rich.progress.MofNCompleteColumn())
    with rich.progress.Progress(*columns, disable=not interactive) as progress:
        task = progress.add_task(name, total=num_units, completed=num_units - num_missing)
        for unit, rows in finished:
            table.add(unit, rows)
            progress.advance(task)
            if not interactive:
                print(
                    f"{name}: {_label(unit)} ({int(progress.tasks[0].completed)}/{num_units})",
                    flush=True,
                )


def _label(unit: Unit) -> str:
    return " ".join(f"{key}={cell}" for key, cell in unit.items())


def _conclude(name: str, experiment: Experiment, scale: Any, rows: list[Row], out: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    summary = experiment.summarise(scale, rows)
    write_atomically(out / f"{name}-summary.csv", to_text(summary))
    print_rows(summary)
    matplotlib.rcParams["svg.hashsalt"] = name  # the same rows give the same file
    figure = experiment.draw(scale, rows, out / "scratch" / name)
    figure.savefig(out / f"{name}.png", dpi=120)
    figure.savefig(out / f"{name}.svg", metadata={"Date": None})
    print(f"written: {out / name}.csv, -summary.csv, .png, .svg")


def print_rows(rows: list[Row]) -> None:
    """Prints rows as a table."""
    table = rich.table.Table(*rows[0])
    for row in rows:
        table.add_row(
            *(f"{cell:.4g}" if isinstance(cell, float) else str(cell) for cell in row.values())
        )
    rich.console.Console(width=None if sys.stdout.isatty() else 160).print(table)
