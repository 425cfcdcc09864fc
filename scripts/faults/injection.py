"""Injects faults and writes down what was promised and what happened."""

import csv
import importlib
import platform
import tempfile
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from configs.schema import ConfigError
from scripts.faults.registry import FAULTS, Fault, Outcome
from scripts.program import commands

_MODULES = ("data", "checkpoints", "storage", "workers", "nodes", "suites", "programs", "scores")
_COLUMNS = ("fault", "injected", "promised", "happened", "frames lost", "updates lost", "held")


class Row(NamedTuple):
    """One row of the table."""

    fault: Fault
    outcome: Outcome

    def cells(self) -> tuple[str, ...]:
        """Returns the row as text, in the order of the columns."""

        def number(x):
            return "" if x is None else str(x)

        outcome = self.outcome
        return (
            self.fault.name, self.fault.injected, self.fault.promised,
            outcome.happened.replace("|", "/"), number(outcome.frames_lost),
            number(outcome.updates_lost), "yes" if outcome.held else "NO",
        )  # fmt: skip


def load_faults() -> dict[str, Fault]:
    """Returns all faults by name, in the order of the table."""
    for name in _MODULES:
        importlib.import_module(f"scripts.faults.{name}")
    return FAULTS


def inject(fault: Fault) -> Row:
    """Returns what a fault did, in a directory of its own; an exception of the harness is a promise
    not held.
    """
    with tempfile.TemporaryDirectory(prefix="chaos-") as folder:
        try:
            return Row(fault, fault.inject(Path(folder)))
        except Exception as error:
            return Row(fault, Outcome(False, f"{type(error).__name__}: {error}"))


def inject_all(only: Sequence[str], *, quick: bool, out: Path | None) -> bool:
    """Injects faults one after the other and prints what happened; returns whether every promise
    was held.

    Args:
      only: names of the faults, all if empty.
      quick: only those that start no program and no Ray.
      out: the table goes to OUT.md and OUT.csv.

    Raises `ConfigError` for unknown faults, and where none is left.
    """
    faults = load_faults()
    if unknown := set(only) - faults.keys():
        raise ConfigError(
            f"--only {' '.join(sorted(unknown))}: no such fault; there are {', '.join(faults)}"
        )
    chosen = [fault for name, fault in faults.items() if name in (only or faults)]
    chosen = [fault for fault in chosen if fault.is_quick or not quick]
    if not chosen:
        raise ConfigError(f"--only {' '.join(only)}: none of them is quick; leave out --quick")
    if out is not None:
        commands.make_folder("--out", out.parent)
    rows = []
    print(
        f"{platform.processor() or platform.machine()}, Python {platform.python_version()}",
        flush=True,
    )
    for fault in chosen:
        started = time.monotonic()
        rows.append(inject(fault))
        held = "held" if rows[-1].outcome.held else "NOT HELD"
        print(
            f"{held:8} {fault.name} ({time.monotonic() - started:.0f} s): "
            f"{rows[-1].outcome.happened}",
            flush=True,
        )
    if out is not None:
        write_table(out, [row.cells() for row in rows])
    return all(row.outcome.held for row in rows)


def write_table(out: Path, cells: Iterable[tuple[str, ...]]) -> None:
    """Writes the rows to OUT.csv and OUT.md, in place of earlier rows of the same faults."""
    table = {row[0]: row for row in [*_read(out.with_suffix(".csv")), *cells]}
    order = [name for name in load_faults() if name in table]
    out.parent.mkdir(parents=True, exist_ok=True)
    with out.with_suffix(".csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([_COLUMNS, *(table[name] for name in order)])
    lines = [_COLUMNS, ("---",) * len(_COLUMNS), *(table[name] for name in order)]
    text = "".join(f"| {' | '.join(line)} |\n" for line in lines)
    out.with_suffix(".md").write_text(text, encoding="utf-8")


def _read(path: Path) -> list[tuple[str, ...]]:
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return [tuple(row) for row in csv.reader(file)][1:]
