"""Rows of finished units as a CSV that is replaced in one step: a kill at any moment loses at most
running units.
"""

import csv
import io
from pathlib import Path

from configs.schema import ConfigError
from learner.records.run_directory import write_atomically
from scripts.laboratory.experiment import Cell, Row, Unit


def to_text(rows: list[Row]) -> str:
    """Returns `rows`, which have the same fields, as the text of a CSV file."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def parse_cell(text: str) -> Cell:
    """Returns the number that `text` is, or itself."""
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


class Table:
    """The CSV of one experiment."""

    def __init__(self, path: Path):
        self._path = path
        self.rows: list[Row] = []
        if path.exists():
            with path.open(newline="", encoding="utf-8") as file:
                self.rows = [
                    {key: parse_cell(cell) for key, cell in row.items()}
                    for row in csv.DictReader(file)
                ]

    def missing(self, units: list[Unit]) -> list[Unit]:
        """Returns those of `units` that have no rows.

        Raises `ConfigError` if there are rows of anything else.
        """
        foreign = next(
            (row for row in self.rows if not any(_is_of(row, unit) for unit in units)), None
        )
        if foreign is not None:
            found = ", ".join(f"{key} = {foreign.get(key)}" for key in units[0])
            raise ConfigError(
                f"{self._path}: has a row of {found}, not of this experiment; choose another --out"
            )
        return [unit for unit in units if not any(_is_of(row, unit) for row in self.rows)]

    def add(self, unit: Unit, rows: list[Row]) -> None:
        """Keeps the rows of a finished unit, each with the unit's own columns in front."""
        self.replace(self.rows + [unit | row for row in rows])

    def replace(self, rows: list[Row]) -> None:
        """Keeps `rows` instead of all that is here."""
        self.rows = [{key: _rounded(cell) for key, cell in row.items()} for row in rows]
        write_atomically(self._path, to_text(self.rows))


def _is_of(row: Row, unit: Unit) -> bool:
    return unit.items() <= row.items()


def _rounded(cell: Cell) -> Cell:
    """Returns a float with eight digits, as plain Python number: what the file can say is what the
    figure shows.
    """
    return float(f"{float(cell):.8g}") if not isinstance(cell, int | str) else cell
