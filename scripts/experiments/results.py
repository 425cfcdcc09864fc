"""The one format of results: CSV, a row per trial and evaluation. `suite.py` writes it, `report.py`
reads it.

    # source: any lines that start with # come first; the report shows them
    suite,game,arm,seed,frames,kind,score,standard_error,episodes,wall_seconds
    minatar,MinAtar/Breakout-v1,muzero+past,7,1000000,last-10-percent,12.3,0.4,812,1893.0

| column | meaning |
|---|---|
| suite | name of the suite; one file holds one suite |
| game | the environment, spelt as in the suite |
| arm | the variant of the algorithm that was trained |
| seed | of the trial; empty: the row is already a mean over seeds |
| frames | emulator frames the trial had consumed |
| kind | how the score was made, see `KINDS` |
| score | mean unclipped return of whole games (of an audit: the error); empty: there is none |
| standard_error | of the score: over games, or over seeds where `seed` is empty; may be empty |
| episodes | games behind the score (of an audit: states); may be empty |
| wall_seconds | of training until then, over all sessions of the trial; may be empty |
"""

import csv
import io
import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from configs.schema import ConfigError
from learner.records.run_directory import write_atomically

LAST_FRAMES, CURVE, PAPER = "last-10-percent", "curve", "training-final-200"
GREEDY, SAMPLED, RANDOM, CONSTANT = "greedy", "sampled", "random", "constant"
HEAD_ERROR, MODEL_ERROR, TARGET_ERROR = "audit-head", "audit-model", "audit-target"
HEAD_SQUARED, MODEL_SQUARED, TARGET_SQUARED = (
    "audit-head-squared",
    "audit-model-squared",
    "audit-target-squared",
)
VARIANCE = "audit-variance"
KINDS = {
    LAST_FRAMES: "mean return as played, over the last 10 % of the frames",
    PAPER: "mean return as played, over the last 200 games",
    GREEDY: "greedy games of the last parameters: no root noise, most probable action",
    SAMPLED: "games of the last parameters: no root noise, actions drawn as in training",
    RANDOM: "games of the uniformly random policy",
    CONSTANT: "games of one button held, the best of all on other games",
    CURVE: "mean return as played, of the games finished since the row before (a point of the "
    "learning curve)",
    HEAD_ERROR: "audit: error of the past values in represented states, over the variance of the "
    "returns",
    MODEL_ERROR: "audit: error of the past values after K imagined steps, over the variance of the "
    "returns",
    TARGET_ERROR: "audit: error of the V-trace targets, over the variance of the returns",
    HEAD_SQUARED: "audit: squared error of the past values in represented states, mean over heads",
    MODEL_SQUARED: "audit: squared error of the past values after K imagined steps, mean over "
    "heads",
    TARGET_SQUARED: "audit: squared error of the V-trace targets, mean over heads",
    VARIANCE: "audit: variance of the returns over states, mean over heads",
}
# What arms can be compared by, the first that is there unless told
FINAL_KINDS = (
    LAST_FRAMES,
    PAPER,
    SAMPLED,
    GREEDY,
)


class Row(NamedTuple):
    """One evaluation of one trial; the columns of the format."""

    suite: str
    game: str
    arm: str
    seed: int | None
    frames: int
    kind: str
    score: float | None
    standard_error: float | None = None
    episodes: int | None = None
    wall_seconds: float | None = None


class Results(NamedTuple):
    """A file of results."""

    comments: tuple[str, ...]
    rows: tuple[Row, ...]


def write(path: Path, results: Results) -> None:
    """Writes the file; a reader, or a kill at any moment, sees the old one or the new one."""
    text = io.StringIO()
    text.writelines(f"# {comment}\n" for comment in results.comments)
    writer = csv.writer(text, lineterminator="\n")  # None is written as an empty cell
    writer.writerows([Row._fields, *results.rows])
    write_atomically(path, text.getvalue())


def read(path: Path) -> Results:
    """Returns the results in a file.

    Raises `ConfigError` naming line, column and what is allowed.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from error
    count = next((n for n, line in enumerate(lines) if not line.startswith("#")), len(lines))
    table = list(csv.reader(lines[count:]))
    if not table or tuple(table[0]) != Row._fields:
        raise ConfigError(
            f"{path}: the header must be {','.join(Row._fields)}; scripts/experiments/results.py "
            f"has the format"
        )
    rows = tuple(
        _row(f"{path} line {count + 2 + n}", cells) for n, cells in enumerate(table[1:]) if cells
    )
    _check(path, rows)
    return Results(tuple(line.lstrip("# ") for line in lines[:count]), rows)


def read_all(files: Sequence[Path]) -> Results:
    """Returns several files as one, for an arm that was run elsewhere; raises like `read`, and for
    a trial in two.
    """
    found = [read(file) for file in files]
    joined = Results(*(tuple(item for each in found for item in each[part]) for part in range(2)))
    _check_trials(", ".join(map(str, files)), joined.rows)
    return joined


def _row(where: str, cells: list[str]) -> Row:
    if len(cells) != len(Row._fields):
        raise ConfigError(f"{where}: {len(cells)} columns, must be {len(Row._fields)}")
    text = dict(zip(Row._fields, cells, strict=True))
    if text["kind"] not in KINDS:
        raise ConfigError(f"{where}: kind = {text['kind']}: must be one of {', '.join(KINDS)}")
    for name in ("suite", "game", "arm", "frames"):
        if not text[name]:
            raise ConfigError(f"{where}: {name} is empty")
    numbers = {
        name: _number(where, name, text[name], int) for name in ("seed", "frames", "episodes")
    }
    numbers |= {
        name: _number(where, name, text[name], float)
        for name in ("score", "standard_error", "wall_seconds")
    }
    return Row(**text | numbers)


def _number(where: str, name: str, text: str, kind: type):
    if not text:
        return None
    try:
        value = kind(text)
    except ValueError as error:
        raise ConfigError(f"{where}: {name} = {text}: must be a number") from error
    if not math.isfinite(value) or (value < 0 and name != "score"):
        raise ConfigError(
            f"{where}: {name} = {text}: must be finite"
            + (", not negative" if name != "score" else "")
        )
    return value


def _check(path: Path, rows: tuple[Row, ...]) -> None:
    """Raises `ConfigError` for rows that do not belong together."""
    suites = {row.suite for row in rows}
    if not suites:
        raise ConfigError(f"{path}: has no rows: no trial has finished yet")
    if len(suites) > 1:
        raise ConfigError(
            f"{path}: suite = {', '.join(sorted(suites))}: a file holds exactly one suite"
        )
    _check_trials(str(path), rows)


def _check_trials(path: str, rows: tuple[Row, ...]) -> None:
    seen: set[tuple] = set()
    for row in rows:
        identity = (
            row.game,
            row.arm,
            row.seed,
            row.kind,
            row.frames if row.kind == CURVE else None,
        )
        if identity in seen:
            raise ConfigError(
                f"{path}: {row.game}, {row.arm}, seed {row.seed}: more than one row of kind "
                f"{row.kind}"
            )
        seen.add(identity)

    def keys(of_means):
        return {(row.game, row.arm, row.kind) for row in rows if (row.seed is None) == of_means}

    for game, arm, kind in sorted(keys(True) & keys(False)):
        raise ConfigError(f"{path}: {game}, {arm}, {kind}: rows with and without a seed")
