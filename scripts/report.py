"""Compares the arms of a suite: tables, tests and plots from one file of results.

    python scripts/report.py RESULTS.csv --out DIR
    python scripts/report.py scripts/paper_table3.csv --out runs/paper    # the paper's own table

writes DIR/report.html (one file, opens anywhere), DIR/report.md, a CSV for every table and an SVG for every plot.
`scripts/results.py` has the format of RESULTS.csv.
"""

import dataclasses
import sys
from pathlib import Path
from typing import Annotated

import tyro

from configs.schema import ConfigError
from scripts import commands, results, suite_directory
from scripts.exit_codes import ExitCode

_PLAIN_ARM = "muzero"


@dataclasses.dataclass(frozen=True)
class Options:
    """What to compare, and where to."""

    results: Annotated[Path, tyro.conf.Positional]
    """The file of results."""
    out: Path = Path("results/report")
    """Directory of the report."""
    baseline: str | None = None
    """Arm that the others are compared with. Default: `muzero`, or the first of the file."""
    kind: str | None = None
    """Kind of score to compare by. Default: the first in the file of last-10-percent, training-final-200, greedy."""
    resamples: int = 2000
    """Resamples of the bootstrap."""


def choose(name: str, given: str | None, present: list[str], preferred: tuple[str, ...]) -> str:
    """Returns `given`, or the first of `preferred` that is present, or the first present.

    Raises `ConfigError` if there is none, or `given` is not there.
    """
    if given is not None and given not in present:
        raise ConfigError(
            f"--{name} {given}: nothing to compare by in this file; it has {', '.join(present) or 'none'}"
        )
    if not present:
        raise ConfigError(f"--{name}: the file has no row of kind {', '.join(results.FINAL_KINDS)}")
    return given or next((value for value in preferred if value in present), present[0])


def main(argv: list[str]) -> int:
    """Runs the program; returns its exit code."""
    options = tyro.cli(Options, prog="report.py", args=argv, description=__doc__)
    comments, rows = results.read(options.results)
    commands.positive("--resamples", options.resamples)
    final = list(dict.fromkeys(row.kind for row in rows if row.kind in results.FINAL_KINDS))
    kind = choose("kind", options.kind, final, results.FINAL_KINDS)
    arms = list(dict.fromkeys(row.arm for row in rows if row.kind == kind))
    baseline = choose("baseline", options.baseline, arms, (_PLAIN_ARM,))
    commands.make_folder("--out", options.out)
    from scripts import report_audits, report_page, report_plots, report_tables  # slow to import, and not for bad input

    compared = report_tables.compare(rows, kind, baseline, options.resamples)
    lines = [
        *suite_directory.what_is_missing(options.results, results.Results(comments, rows)),
        f"{len(compared.games)} games, arms {', '.join(compared.arms)}; score: {results.KINDS[kind]}.",
        f"{len(compared.compared)} games count, {len(compared.normalised)} of them have a normalised score.",
        *(() if len(compared.arms) > 1 else ("Only one arm: nothing to compare it with.",)),
        *suite_directory.several_commits(comments),
        *comments,
    ]
    tables = [*report_tables.tables(compared), *report_audits.tables(compared)]
    report_page.write(options.out, f"Suite {rows[0].suite}", lines, tables, report_plots.plots(compared))
    print(report_page.as_markdown(f"Suite {rows[0].suite}", lines, [table for table in tables if not table.by_game]))
    print(f"written: {options.out}/report.html, report.md, {len(tables)} tables as CSV and the plots as SVG")
    return ExitCode.DONE


if __name__ == "__main__":
    sys.exit(commands.run(main))
