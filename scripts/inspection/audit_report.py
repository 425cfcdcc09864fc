"""The audit for people: lines for a terminal, and a picture."""

from pathlib import Path

import matplotlib
import numpy as np

from scripts.inspection.audit_table import all_heads

_HIGHEST = 3.0  # of the picture: a constant has 1
matplotlib.use("Agg")
from matplotlib import pyplot  # noqa: E402  (after the choice of a backend without windows)


def summary(table: list[dict]) -> str:
    """Returns the errors of all heads together for every k, as lines for a terminal."""

    def text(number):
        return " not available" if np.isnan(number) else f"{number:10.3f}"

    lines = [
        "all heads, as fractions of the variance of the returns",
        "  k     error     excess over k = 0",
    ]
    for k in sorted({row["k"] for row in table}):
        together = all_heads(table, k)
        lines.append(f"{k:3d}{text(together['error'])}{text(together['excess'])}")
    lines.append(f"V-trace gap{text(all_heads(table, 0)['vtrace_gap'])}")
    return "\n".join(lines)


def plot(path: Path, table: list[dict], title: str) -> None:
    """Draws the errors over k, a line a head, and head by head the V-trace gap beside the errors at
    k = 0 and K.

    A hollow point has no interval; what is above 3 is cut off, what is not available is not there.
    """
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(11, 4.2), sharey=True)
    heads = sorted({row["head_updates"] for row in table})
    colours = matplotlib.colormaps["viridis"](np.linspace(0.0, 0.9, len(heads)))
    for head, colour in zip(heads, colours, strict=True):
        line = [row for row in table if row["head_updates"] == head]
        label = f"head of update {head}" if head in (heads[0], heads[-1]) else None
        left.plot(
            [row["k"] for row in line],
            [row["error"] for row in line],
            "o-",
            color=colour,
            label=label,
        )
    left.set(
        xlabel="imagined steps k", ylabel="squared error / variance of the returns", title=title
    )
    last = max(row["k"] for row in table)
    series = (
        ("error", 0, "k = 0: the head alone", "#2f8f4e", "o"),
        ("error", last, f"k = {last}: head and model", "#1f6fb4", "s"),
        ("vtrace_gap", 0, "V-trace target", "#d9730d", "^"),
    )
    for shift, (name, k, label, colour, marker) in zip((-0.2, 0.0, 0.2), series, strict=True):
        _points(
            right,
            [row for row in table if row["k"] == k],
            name,
            shift,
            label=label,
            color=colour,
            marker=marker,
        )
    right.set(xlabel="stored head, by the number of updates behind it")
    right.set_xticks(
        range(len(heads)), [str(head) for head in heads], rotation=45 if len(heads) > 8 else 0
    )
    for axes in (left, right):
        axes.axhline(1.0, color="0.4", linestyle="--", linewidth=1)
        axes.axhline(0.0, color="0.4", linewidth=1)
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.25)
        axes.legend(frameon=False, fontsize=8)
    left.set_ylim(top=min(left.get_ylim()[1], _HIGHEST))
    label = dict(
        transform=right.get_yaxis_transform(), va="bottom", ha="right", fontsize=8, color="0.4"
    )
    right.text(1.0, 1.0, "a constant", **label)
    figure.tight_layout()
    figure.savefig(path, dpi=120, metadata={"Software": None})
    pyplot.close(figure)


def _points(axes, table: list[dict], name: str, shift: float, **style) -> None:
    value, low, high = (
        np.array([row[f"{name}{end}"] for row in table]) for end in ("", "_low", "_high")
    )
    place, has_interval = np.arange(len(table)) + shift, ~np.isnan(low)
    spread = np.maximum([value - low, high - value], 0.0)[:, has_interval]
    shape = dict(linestyle="none", markersize=4)
    axes.errorbar(place[has_interval], value[has_interval], spread, capsize=2, **shape, **style)
    axes.plot(
        place[~has_interval],
        value[~has_interval],
        fillstyle="none",
        **shape,
        **style | {"label": None},
    )
