"""From files of results to their report."""

from collections.abc import Sequence
from pathlib import Path

from configs.schema import ConfigError
from scripts.experiments import results, suite_directory
from scripts.program import commands

_PLAIN_ARM = "muzero"


def write_report(
    files: Sequence[Path], out: Path, *, baseline: str | None, kind: str | None, resamples: int
) -> None:
    """Writes the report on some files of results to `out`, and prints its short tables.

    Args:
      files: of results; the first names the suite.
      out: directory of the report.
      baseline: arm that the others are compared with, None for the plain one.
      kind: of score to compare by, None for the first of `results.FINAL_KINDS` in the file.
      resamples: of the bootstrap.

    Raises `ConfigError` for a bad file, and for an arm or a kind that is not in it.
    """
    if not files:
        raise ConfigError("give at least one file of results")
    comments, rows = results.read_all(files)
    commands.positive("--resamples", resamples)
    final = list(dict.fromkeys(row.kind for row in rows if row.kind in results.FINAL_KINDS))
    kind = choose("kind", kind, final, results.FINAL_KINDS)
    arms = list(dict.fromkeys(row.arm for row in rows if row.kind == kind))
    baseline = choose("baseline", baseline, arms, (_PLAIN_ARM,))
    commands.make_folder("--out", out)
    from scripts.experiments.report import (
        audits,
        page,
        plots,
        tables,
    )  # slow to import, and not for bad input

    compared = tables.compare(rows, kind, baseline, resamples)
    lines = [
        *(
            line
            for file in files
            for line in suite_directory.what_is_missing(file, results.read(file))
        ),
        f"{len(compared.games)} games, arms {', '.join(compared.arms)}; score: "
        f"{results.KINDS[kind]}.",
        f"{len(compared.compared)} games count, {len(compared.normalised)} of them have a "
        f"normalised score.",
        *tables.learned_line(compared),
        *(() if len(compared.arms) > 1 else ("Only one arm: nothing to compare it with.",)),
        *suite_directory.several_commits(comments),
        *comments,
    ]
    shown = [*tables.tables(compared), *audits.tables(compared)]
    page.write(out, f"Suite {rows[0].suite}", lines, shown, plots.plots(compared))
    print(
        page.as_markdown(
            f"Suite {rows[0].suite}", lines, [table for table in shown if not table.by_game]
        )
    )
    print(f"written: {out}/report.html, report.md, {len(shown)} tables as CSV and the plots as SVG")


def choose(name: str, given: str | None, present: list[str], preferred: tuple[str, ...]) -> str:
    """Returns `given`, or the first of `preferred` that is present, or the first present.

    Raises `ConfigError` if there is none, or `given` is not there.
    """
    if given is not None and given not in present:
        raise ConfigError(
            f"--{name} {given}: nothing to compare by in this file; it has "
            f"{', '.join(present) or 'none'}"
        )
    if not present:
        raise ConfigError(f"--{name}: the file has no row of kind {', '.join(results.FINAL_KINDS)}")
    return given or next((value for value in preferred if value in present), present[0])
