"""What the two experiments of *Calibrated Value-Aware Model Learning* share: panels and tables by
loss and rank.
"""

import matplotlib.figure
import numpy as np

from scripts.laboratory.experiment import Row
from scripts.laboratory.intervals import grouped, mean_and_interval

_STYLES = {  # colour is the family, dashed the uncalibrated loss; what the legend says
    "likelihood": ("black", "-", "likelihood"),
    "itervaml": ("tab:blue", "--", "IterVAML"),
    "itervaml-calibrated": ("tab:blue", "-", "IterVAML, calibrated"),
    "itervaml-free": ("tab:cyan", "--", "IterVAML, free logits,\ngradient descent"),
    "muzero-root": ("tab:green", "--", "MuZero (k = 0, 1)"),
    "muzero-root-calibrated": ("tab:green", "-", "MuZero, calibrated"),
    "muzero": ("tab:red", "--", "k = 1 alone"),
    "muzero-calibrated": ("tab:red", "-", "k = 1 alone, calibrated"),
    "muzero-calibrated-td": ("tab:orange", "-", "model: k = 1 calibrated,\nvalue: TD in the model"),
}


def rows_of(evaluate, scale) -> list[Row]:
    """Returns a row a temperature and seed of what `evaluate(seed, temperature)`, both [C],
    measures in one batch.
    """
    cells = [
        (temperature, seed) for temperature in scale.temperatures for seed in range(scale.num_seeds)
    ]
    temperature, seed = (np.array(column) for column in zip(*cells, strict=True))
    columns = {
        name: np.asarray(values)
        for name, values in evaluate(seed, temperature.astype(np.float32)).items()
    }
    return [
        {"temperature": cell[0], "seed": cell[1]}
        | {name: float(values[i]) for name, values in columns.items()}
        for i, cell in enumerate(cells)
    ]


def summary(rows: list[Row], metrics: tuple[str, ...]) -> list[Row]:
    """Returns a row a rank, loss and temperature: the mean of each metric over seeds and its 95 %
    half-width.
    """
    result = []
    for (rank, loss, temperature), group in grouped(rows, "rank", "loss", "temperature").items():
        row = {"rank": rank, "loss": loss, "temperature": temperature, "seeds": len(group)}
        for metric in metrics:
            row[metric], row[f"{metric}_ci"] = mean_and_interval(
                [member[metric] for member in group]
            )
        result.append(row)
    order = list(_STYLES)  # units finish in any order
    return sorted(
        result, key=lambda row: (row["rank"], order.index(row["loss"]), row["temperature"])
    )


def panels(
    rows: list[Row], metric: str, label: str, log: bool, title: str
) -> matplotlib.figure.Figure:
    """Returns a figure of `metric` over temperature: a panel a rank, a line a loss, 95 % intervals
    over seeds as bands.
    """
    by_rank = grouped(summary(rows, (metric,)), "rank")
    figure = matplotlib.figure.Figure(figsize=(3.4 * len(by_rank) + 2.4, 4), layout="constrained")
    axes = figure.subplots(1, len(by_rank), sharey=True, squeeze=False)[0]
    for axis, ((rank,), members) in zip(axes, by_rank.items(), strict=True):
        for (loss,), line in grouped(members, "loss").items():
            _draw_line(axis, line, metric, *_STYLES[loss])
        axis.set(
            title=f"rank {rank}",
            xscale="log",
            xlabel="temperature (0: deterministic)",
            yscale="log" if log else "linear",
        )
    axes[0].set_ylabel(label)
    figure.suptitle(title)
    known = dict(zip(*axes[-1].get_legend_handles_labels()[::-1], strict=True))
    figure.legend(
        known.values(), known.keys(), loc="outside right center", frameon=False, fontsize=9
    )
    return figure


def _draw_line(axis, line, metric, colour, dashes, label):
    temperature, mean, width = (
        [row[key] for row in line] for key in ("temperature", metric, f"{metric}_ci")
    )
    axis.plot(temperature, mean, color=colour, linestyle=dashes, marker=".", label=label)
    low, high = ([m + sign * w for m, w in zip(mean, width, strict=True)] for sign in (-1, 1))
    axis.fill_between(temperature, low, high, color=colour, alpha=0.15, linewidth=0)
