"""The plots of a report, as SVG that stands in the page itself."""

import io
import itertools
import re
from typing import NamedTuple

import matplotlib
import numpy as np

from actors.scores import standard_error
from scripts.experiments import comparison
from scripts.experiments.report.tables import Comparison
from scripts.experiments.results import CURVE

matplotlib.use("Agg")
from matplotlib import pyplot  # noqa: E402  (after the choice of a backend without windows)

_COLOURS = ("#1f6fb4", "#d9730d", "#2f8f4e", "#8a4fbf", "#b02a45")
_NUM_THRESHOLDS = 60
# Inches, points: readable when a phone shows them 330 pixels wide
_WIDTH, _SMALL_WIDTH, _LABELS = (
    4.0,
    3.6,
    9,
)
_salts = itertools.count()


class Plot(NamedTuple):
    """A plot of a report; `svg` is None where the file lacks what it needs."""

    title: str
    svg: str | None
    small: bool = False  # stands beside others

    @property
    def file(self) -> str:
        """The name of its file."""
        return f"{re.sub(r'[^a-z0-9]+', '-', self.title.lower()).strip('-')}.svg"


def plots(compared: Comparison) -> list[Plot]:
    """Returns the plots of a report, in order."""
    return [
        *_game_differences(compared),
        _profiles(compared),
        _median_curve(compared),
        *_curves(compared),
    ]


def _game_differences(compared: Comparison) -> list[Plot]:
    """Returns one bar chart an arm: its normalised score minus the baseline's, game by game."""
    found, baseline = [], compared.arms[0]
    for arm in compared.arms[1:] if compared.normalised else []:
        means = [
            comparison.means(compared.cells, name, compared.normalised)[0]
            for name in (arm, baseline)
        ]
        values = means[0] - means[1]
        order = np.argsort(values)
        figure, axes = pyplot.subplots(figsize=(_WIDTH, 1.2 + 0.17 * len(order)))
        colours = [_COLOURS[1] if value > 0 else _COLOURS[0] for value in values[order]]
        names, errors = (
            [compared.normalised[n] for n in order],
            _half_widths(compared, (arm, baseline)),
        )
        axes.barh(
            names,
            values[order],
            xerr=None if errors is None else errors[order],
            color=colours,
            height=0.7,
        )
        if errors is None:
            axes.set_xscale("symlog", linthresh=0.01)
            axes.set(xlabel="difference of normalised scores\n(linear within ± 0.01)")
        else:
            axes.set(xlabel="difference of normalised scores,\n95 % interval by Welch")
        axes.tick_params(labelsize=_LABELS)
        axes.margins(y=0.01)
        found.append(Plot(f"{arm} against {baseline}, game by game", _svg(figure, axes)))
    return found


def _half_widths(compared: Comparison, pair: tuple[str, str]) -> np.ndarray | None:
    """Returns half the width of Welch's interval of every normalised difference, None where a game
    has none.
    """
    estimates = [
        comparison.welch(*compared.normalised_seeds(pair, [game])) for game in compared.normalised
    ]
    if None in estimates:
        return None
    return np.array([estimate.interval[1] - estimate.value for estimate in estimates])


def _profiles(compared: Comparison) -> Plot:
    title = "Performance profiles: fraction of runs above a normalised score"
    runs = {arm: compared.runs(arm) for arm in compared.arms}
    if any(scores is None or len(scores) < 2 for scores in runs.values()):
        return Plot(title, None)
    everything = np.concatenate([scores.ravel() for scores in runs.values()])
    thresholds = np.linspace(min(0.0, everything.min()), everything.max(), _NUM_THRESHOLDS)
    figure, axes = pyplot.subplots(figsize=(_WIDTH, 3.0))
    for (arm, scores), colour in zip(runs.items(), itertools.cycle(_COLOURS)):
        fraction, band = comparison.profile(scores, thresholds, compared.resamples)
        axes.plot(thresholds, fraction, label=arm, color=colour)
        axes.fill_between(thresholds, *band, color=colour, alpha=0.2, linewidth=0)
    axes.set(xlabel="normalised score τ", ylabel="fraction of runs with score > τ", ylim=(0, 1.02))
    axes.legend(frameon=False)
    return Plot(title, _svg(figure, axes))


def _points(compared: Comparison, arm: str, game: str) -> dict[int, np.ndarray]:
    """Returns the scores of all seeds by frames; a point at which a seed finished no game is left
    out.
    """
    points: dict[int, list[float]] = {}
    for row in compared.rows:
        if (row.kind, row.arm, row.game) == (CURVE, arm, game) and row.score is not None:
            points.setdefault(row.frames, []).append(row.score)
    return {frames: np.array(points[frames]) for frames in sorted(points)}


def _median_curve(compared: Comparison) -> Plot:
    """Returns the median over games of the normalised score over frames (figure 5 of the paper)."""
    title = "Median normalised score over games, while training"
    lines = {}
    for arm in compared.arms:
        curves = {game: _points(compared, arm, game) for game in compared.normalised}
        shared = (
            sorted(set.intersection(*(set(points) for points in curves.values()))) if curves else []
        )
        lines[arm] = {
            frames: np.median(
                [
                    comparison.normalised(game, points[frames].mean())
                    for game, points in curves.items()
                ]
            )
            for frames in shared
        }
    if not all(lines.values()):
        return Plot(title, None)
    figure, axes = pyplot.subplots(figsize=(_WIDTH, 3.0))
    for (arm, line), colour in zip(lines.items(), itertools.cycle(_COLOURS)):
        axes.plot(
            [frames / 1e6 for frames in line],
            list(line.values()),
            "o-",
            markersize=3,
            label=arm,
            color=colour,
        )
    axes.set(
        xlabel="frames (millions),\nwhere every game has ended some",
        ylabel="median normalised score",
    )
    axes.legend(frameon=False)
    return Plot(title, _svg(figure, axes))


def _curves(compared: Comparison) -> list[Plot]:
    """Returns a panel a game: return as played over frames, mean over seeds ± standard error."""
    panels = [_curve(compared, game) for game in compared.games]
    found = [panel for panel in panels if panel.svg is not None]
    return found or [Plot("Learning curves", None)]


def _curve(compared: Comparison, game: str) -> Plot:
    lines = {arm: _points(compared, arm, game) for arm in compared.arms}
    if not any(lines.values()):
        return Plot(game, None)
    figure, axes = pyplot.subplots(figsize=(_SMALL_WIDTH, 2.6))
    for (arm, points), colour in zip(lines.items(), itertools.cycle(_COLOURS)):
        frames = np.array(list(points)) / 1e6
        mean = np.array([scores.mean() for scores in points.values()])
        error = np.array([standard_error(scores) or 0.0 for scores in points.values()])
        axes.plot(frames, mean, label=arm, color=colour)
        axes.fill_between(frames, mean - error, mean + error, color=colour, alpha=0.2, linewidth=0)
    axes.set(xlabel="frames (millions)", ylabel="return, as played")
    axes.legend(frameon=False, fontsize=_LABELS)
    return Plot(game, _svg(figure, axes), small=True)


def _svg(figure, axes) -> str:
    """Returns the figure as an `svg` element; ids are its own, several stand in one page."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25)
    text = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": str(next(_salts)), "svg.fonttype": "path"}):
        figure.tight_layout()
        nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        figure.savefig(text, format="svg", metadata=nothing)
    pyplot.close(figure)
    return text.getvalue()[text.getvalue().index("<svg") :]
