"""The audit as a table: a row per stored head and imagined step, as CSV, and what all heads say
together.
"""

import csv
import io
from pathlib import Path

import numpy as np

from learner.records.run_directory import write_atomically
from scripts.inspection.arithmetic import Estimate, HeadAudit, over_heads

FIELDS = (
    "head_updates", "age_updates", "k", "error", "error_low", "error_high", "head_error", "excess",
    "excess_low", "excess_high", "vtrace_gap", "vtrace_gap_low", "vtrace_gap_high", "squared_error",
    "vtrace_squared_error", "mean_return", "variance", "noise", "cut_fraction", "num_states",
    "num_rollouts",
)  # fmt: skip


def rows(
    audits: list[HeadAudit], *, num_updates: int, num_states: int, num_rollouts: int
) -> list[dict]:
    """Returns a row per head and k; errors are fractions of the variance of the values over
    states.
    """
    return [
        {
            "head_updates": audit.push_update,
            "age_updates": num_updates - audit.push_update,
            "k": k,
            **_columns("error", audit.audited.error, k),
            "head_error": audit.audited.error.value[0],
            **_columns("excess", audit.audited.excess, k),
            **_columns("vtrace_gap", audit.audited.vtrace_gap, 0),
            "squared_error": audit.audited.squared_errors[k],
            "vtrace_squared_error": audit.audited.squared_errors[-1],
            "mean_return": audit.audited.mean,
            "variance": audit.audited.variance,
            "noise": audit.audited.noise,
            "cut_fraction": audit.cut_fraction,
            "num_states": num_states,
            "num_rollouts": num_rollouts,
        }
        for audit in audits
        for k in range(len(audit.audited.error.value))
    ]


def _columns(name: str, estimate: Estimate, n: int) -> dict:
    return {
        name: estimate.value[n],
        f"{name}_low": estimate.low[n],
        f"{name}_high": estimate.high[n],
    }


def write(path: Path, table: list[dict]) -> None:
    """Writes the rows as CSV, six significant digits; what is not available is empty."""

    def text(x):
        return ("" if np.isnan(x) else f"{x:.6g}") if isinstance(x, float) else x

    lines = io.StringIO()
    writer = csv.DictWriter(lines, FIELDS, lineterminator="\n")
    writer.writeheader()
    writer.writerows({name: text(value) for name, value in row.items()} for row in table)
    write_atomically(path, lines.getvalue())


def read(path: Path) -> list[dict[str, float]]:
    """Returns the rows of a table that was written; NaN where a number is not available."""
    with path.open(encoding="utf-8") as file:
        return [
            {name: float(text or "nan") for name, text in row.items()}
            for row in csv.DictReader(file)
        ]


def all_heads(table: list[dict], k: int) -> dict[str, float]:
    """Returns what all heads together say after `k` imagined steps.

    `error`, `excess` and `vtrace_gap` are fractions of the variance of the returns (`over_heads`,
    NaN where noise may explain it); `squared_error`, `vtrace_squared_error` and `variance` are
    means over heads, noise taken off.
    """

    def column(name, k):
        return np.array([row[name] for row in table if row["k"] == k])

    def together(squared):
        return over_heads(
            squared, column("variance", k), column("noise", k), int(table[0]["num_states"])
        )

    error, gap = column("squared_error", k), column("vtrace_squared_error", k)
    return {
        "error": together(error),
        "excess": together(error - column("squared_error", 0)),
        "vtrace_gap": together(gap),
        "squared_error": float(error.mean()),
        "vtrace_squared_error": float(gap.mean()),
        "variance": float(column("variance", k).mean()),
    }
