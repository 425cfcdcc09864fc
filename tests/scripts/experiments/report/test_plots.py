"""The plots of a report: what is drawn, not how it looks."""

import re

import numpy as np
import pytest
import scipy.stats
from matplotlib.colors import to_hex

from actors import scores
from scripts.experiments.report import tables
from scripts.experiments.results import CURVE, LAST_FRAMES
from tests.scripts.experiments.made_up import trial


def test_curves_and_profiles_are_drawn_where_the_scores_are_there(compared):
    from scripts.experiments.report import plots

    drawn_plots = plots.plots(compared)
    assert [plot.small for plot in drawn_plots] == [False, False, False, True, True, True]
    assert all(plot.svg.startswith("<svg") for plot in drawn_plots)
    assert [plot.title for plot in drawn_plots if plot.small] == compared.games
    ids = [set(re.findall(r'clip-path="url\(#(\w+)\)"', plot.svg)) for plot in drawn_plots]
    # No plot of the page is clipped by another's path
    assert len(set.union(*ids)) == sum(map(len, ids))


@pytest.fixture
def drawn(monkeypatch):
    """Returns what draws a plot of a comparison and returns its axes,
    before they become an image.
    """
    from scripts.experiments.report import plots

    kept = []
    monkeypatch.setattr(plots, "_svg", lambda figure, axes: kept.append(axes) or "<svg")

    def draw(name, *arguments):
        getattr(plots, name)(*arguments)
        return kept.pop()

    yield draw
    plots.pyplot.close("all")


def normalised_trials(kind, values, frames=100):
    """Returns rows of these normalised scores, {arm: {game: [seeds]}}."""

    def of(game, x):
        return scores.scale(game).zero + x * (scores.scale(game).one - scores.scale(game).zero)

    return [
        trial(game, arm, seed, kind, of(game, x), frames)
        for arm, games in values.items()
        for game, seeds in games.items()
        for seed, x in enumerate(seeds)
    ]


def lines(axes):
    """Returns the points of every line by its label."""
    return {line.get_label(): np.transpose(line.get_data()).tolist() for line in axes.lines}


def test_the_bars_are_arm_minus_baseline_in_order_with_welchs_intervals(drawn):
    arms = {
        "muzero": {"qbert": [0.1, 0.3], "pong": [0.5, 0.7]},
        "muzero+past": {"qbert": [0.4, 1], "pong": [0.1, 0.3]},
    }
    found = tables.compare(tuple(normalised_trials(LAST_FRAMES, arms)), LAST_FRAMES, "muzero", 50)
    axes = drawn("_game_differences", found)
    assert [label.get_text() for label in axes.get_yticklabels()] == ["pong", "qbert"]
    assert [bar.get_width() for bar in axes.patches] == pytest.approx([-0.4, 0.5])
    colours = [line.get_color() for line in drawn("_profiles", found).lines]
    assert [
        to_hex(bar.get_facecolor()) for bar in axes.patches
    ] == colours  # those of the arms that are ahead
    (segments,) = [bars.get_segments() for bars in axes.collections]
    ends = [(low, high) for (low, _), (high, _) in segments]
    pairs = [(arms["muzero+past"][game], arms["muzero"][game]) for game in ("pong", "qbert")]
    expected = [
        scipy.stats.ttest_ind(*pair, equal_var=False).confidence_interval(0.95) for pair in pairs
    ]
    assert ends == [pytest.approx((interval.low, interval.high)) for interval in expected]


def test_the_line_of_all_games_is_the_median_of_their_means_where_every_game_has_a_point(drawn):
    early = {"pong": [0.1, 0.3], "qbert": [0.4, 0.4], "alien": [0.9, 1.1]}
    late = {"pong": [0.2, 0.4], "qbert": [3.0, 5.0], "alien": [0.5, 0.9]}
    rows = normalised_trials(LAST_FRAMES, {"muzero": late})
    rows += normalised_trials(CURVE, {"muzero": early}, 10**6) + normalised_trials(
        CURVE, {"muzero": late}, 2 * 10**6
    )
    rows += normalised_trials(CURVE, {"muzero": {"pong": [9.0]}}, 3 * 10**6)
    axes = drawn("_median_curve", tables.compare(tuple(rows), LAST_FRAMES, "muzero", 50))
    assert lines(axes) == {"muzero": [pytest.approx([1.0, 0.4]), pytest.approx([2.0, 0.7])]}


def test_a_profiles_line_falls_with_the_score(drawn):
    arms = {"muzero": {"pong": [0.1, 0.1]}, "muzero+past": {"pong": [0.1, 0.3]}}
    rows = tuple(normalised_trials(LAST_FRAMES, arms))
    axes = drawn("_profiles", tables.compare(rows, LAST_FRAMES, "muzero", 50))
    above = {
        arm: [fraction for tau, fraction in points if 0.1 < tau < 0.3]
        for arm, points in lines(axes).items()
    }
    assert {arm: set(fractions) for arm, fractions in above.items()} == {
        "muzero": {0.0},
        "muzero+past": {0.5},
    }
    assert all(points[0] == [0.0, 1.0] and points[-1][1] == 0.0 for points in lines(axes).values())


def test_a_learning_curve_is_the_mean_of_the_seeds_and_its_standard_error(drawn):
    rows = [
        trial(seed=seed, kind=CURVE, score=score, frames=10**6)
        for seed, score in enumerate((1.0, 3.0, 5.0))
    ]
    rows += [trial(seed=0, kind=CURVE, score=7.0, frames=2 * 10**6), trial()]
    axes = drawn("_curve", tables.compare(tuple(rows), LAST_FRAMES, "muzero", 50), "pong")
    assert lines(axes) == {"muzero": [[1.0, 3.0], [2.0, 7.0]]}
    (band,) = axes.collections
    edges = {
        frames: band.get_paths()[0].vertices[band.get_paths()[0].vertices[:, 0] == frames, 1]
        for frames in (1, 2)
    }
    assert (edges[1].min(), edges[1].max()) == pytest.approx((3 - 2 / 3**0.5, 3 + 2 / 3**0.5))
    assert set(edges[2]) == {7.0}
