"""A report as one HTML page that asks no other host for anything, and as Markdown beside its tables
and plots.
"""

import csv
import html
from collections.abc import Iterable
from pathlib import Path

from learner.records.run_directory import write_atomically
from scripts.experiments.report.plots import Plot
from scripts.experiments.report.tables import MISSING, Table

_STYLE = """
:root { color-scheme: light; }
body { font: 16px/1.5 system-ui, sans-serif; color: #1d2330; background: #fff; margin: 0 auto;
  padding: 1rem; max-width: 60rem; overflow-wrap: anywhere; }
h1 { font-size: 1.5rem; line-height: 1.2; } h2 { font-size: 1.15rem; margin: 2rem 0 .4rem; }
.scroll { overflow-x: auto; } table { border-collapse: collapse; font-size: .85rem; }
th, td { padding: .25rem .6rem; border-bottom: 1px solid #dde1e8; text-align: right;
  white-space: nowrap; }
th { vertical-align: bottom; white-space: normal; overflow-wrap: normal; }
th:first-child, td:first-child,
.text { text-align: left; } .missing, .note { color: #697080; font-size: .85rem; }
figure { margin: 1rem 0; } svg { width: 100%; max-width: 34rem; height: auto; display: block; }
.panels { display: grid; gap: .5rem;
  grid-template-columns: repeat(auto-fill, minmax(min(17rem, 100%), 1fr)); }
"""
_HEAD = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy"
  content="default-src 'none'; style-src 'unsafe-inline'; img-src data:">
<link rel="icon" href="data:,">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
"""


def write(
    directory: Path, title: str, lines: list[str], tables: list[Table], plots: list[Plot]
) -> None:
    """Writes report.html, report.md, a CSV a table and an SVG a plot into `directory`.

    Args:
      directory: made if it is missing.
      title: of the page.
      lines: what was compared, a sentence each.
      tables: in order.
      plots: in order; small ones stand beside each other.
    """
    directory.mkdir(parents=True, exist_ok=True)
    write_atomically(directory / "report.html", as_html(title, lines, tables, plots))
    write_atomically(directory / "report.md", as_markdown(title, lines, tables, plots))
    for plot in plots:
        if plot.svg is not None:
            write_atomically(directory / plot.file, plot.svg)
    for table in tables:
        with (directory / f"{table.name}.csv").open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(table.columns)
            writer.writerows(
                [MISSING if cell is None else cell for cell in row] for row in table.rows
            )


def as_html(title: str, lines: list[str], tables: list[Table], plots: list[Plot]) -> str:
    """Returns the whole page."""
    parts = [
        _HEAD.format(title=html.escape(title), style=_STYLE),
        f"<h1>{html.escape(title)}</h1>\n",
    ]
    parts += [f"<p>{html.escape(line)}</p>\n" for line in lines]
    parts += [_html_table(table) for table in tables if not table.by_game]
    parts += [_html_plot(plot) for plot in plots if not plot.small]
    panels = [_html_plot(plot) for plot in plots if plot.small]
    parts += (
        ["<h2>Learning curves</h2>\n<div class=panels>\n", *panels, "</div>\n"] if panels else []
    )
    parts += [_html_table(table) for table in tables if table.by_game]
    return "".join([*parts, "</body>\n</html>\n"])


def _html_table(table: Table) -> str:
    first = table.rows[0] if table.rows else ()
    kinds = [" class=text" if isinstance(cell, str) else "" for cell in first] or [""] * len(
        table.columns
    )
    head = "".join(
        f"<th{kind}>{html.escape(name)}</th>"
        for kind, name in zip(kinds, table.columns, strict=True)
    )
    rows = "".join(f"<tr>{''.join(_html_cell(cell) for cell in row)}</tr>\n" for row in table.rows)
    note = f"<p class=note>{html.escape(table.note)}</p>\n" if table.note else ""
    body = (
        f"<div class=scroll><table>\n<tr>{head}</tr>\n{rows}</table></div>\n"
        if rows
        else _html_missing()
    )
    return f"<h2>{html.escape(table.title)}</h2>\n{body}{note}"


def _html_cell(cell) -> str:
    kind = " class=missing" if cell is None else " class=text" if isinstance(cell, str) else ""
    return f"<td{kind}>{html.escape(show(cell))}</td>"


def _html_missing() -> str:
    return f"<p class=missing>{MISSING}</p>\n"


def _html_plot(plot: Plot) -> str:
    heading = f"<figcaption>{html.escape(plot.title)}</figcaption>" if plot.small else ""
    above = "" if plot.small else f"<h2>{html.escape(plot.title)}</h2>\n"
    return f"{above}<figure>{heading}{plot.svg or _html_missing()}</figure>\n"


def as_markdown(
    title: str, lines: list[str], tables: list[Table], plots: Iterable[Plot] = ()
) -> str:
    """Returns sentences and tables as Markdown, and links to the files of the plots."""
    parts = [f"# {title}\n"] + [f"{line}\n" for line in lines]
    for table in tables:
        rows = [
            table.columns,
            ["---"] * len(table.columns),
            *([show(cell) for cell in row] for row in table.rows),
        ]
        text = "\n".join(f"| {' | '.join(row)} |" for row in rows) if table.rows else MISSING
        parts.append(f"## {table.title}\n\n{text}\n" + (f"\n{table.note}\n" if table.note else ""))
    parts += [
        f"## {plot.title}\n\n![{plot.title}]({plot.file})\n"
        for plot in plots
        if plot.svg is not None
    ]
    return "\n".join(parts)


def show(cell) -> str:
    """Returns a cell as people read it: four significant digits, thousands apart, `not available`
    for None.
    """
    if cell is None:
        return MISSING
    if isinstance(cell, float):
        return f"{cell:,.0f}" if abs(cell) >= 1000 else f"{cell:.4g}"
    return f"{cell:,}" if isinstance(cell, int) else str(cell)
