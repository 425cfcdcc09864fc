"""The report: the paper's own numbers from the paper's own table, and what it says where scores are lacking."""

import csv
import html.parser
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import scipy.stats
from matplotlib.colors import to_hex

from actors import scores
from configs.schema import ConfigError
from scripts import report
from scripts.experiments import comparison, results, suite_directory
from scripts.experiments.report import audits, page, tables
from scripts.experiments.results import CONSTANT, CURVE, LAST_FRAMES, RANDOM, SAMPLED, Results, Row

ROOT = Path(__file__).resolve().parents[3]
PAPER = ROOT / "results" / "paper_table3.csv"
HEADER = ",".join(Row._fields)
UNCHECKED = "yes, not checked against random play or a constant action"


def trial(game="pong", arm="muzero", seed=0, kind=LAST_FRAMES, score=1.0, frames=100, **more):
    return Row("s", game, arm, seed, frames, kind, score, **more)


def made_up(num_seeds=4, games=("MinAtar/Breakout-v1", "MinAtar/Asterix-v1", "MinAtar/Freeway-v1")):
    """Returns rows in which the second arm is better by 10 % on every seed, curves included."""
    rng = np.random.default_rng(0)
    rows = []
    for game in games:
        for seed in range(num_seeds):
            score = 10.0 * rng.uniform(0.9, 1.1)
            for arm, factor in (("muzero", 1.0), ("muzero+past", 1.1)):
                rows.append(trial(game, arm, seed, score=factor * score, wall_seconds=3600.0))
                rows.append(trial(game, arm, seed, RANDOM, 0.3 + 0.01 * seed))
                rows.append(trial(game, arm, seed, CONSTANT, 0.2 + 0.01 * seed))
                rows += [trial(game, arm, seed, CURVE, factor * score * k, frames=50 * k) for k in (1, 2)]
    return tuple(rows)


# --- the paper -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def paper(tmp_path_factory):
    """Returns (directory, completed process) of the real program on the paper's table."""
    path = tmp_path_factory.mktemp("paper") / "report"
    command = [sys.executable, "scripts/report.py", str(PAPER), "--out", str(path)]
    return path, subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)


def table(path, name):
    with (path / f"{name}.csv").open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_the_papers_table_gives_the_papers_p(paper):
    path, done = paper
    assert done.returncode == 0, done.stderr
    raw, normalised = table(path, "tests")
    assert (raw["games"], normalised["games"]) == ("57", "57")
    assert float(raw["p"]) == pytest.approx(0.04447, abs=5e-6)
    assert float(normalised["p"]) == pytest.approx(0.217, abs=5e-4)


def test_the_papers_table_gives_the_papers_medians(paper):
    found = {(row["arm"], row["over games"]): float(row["normalised score"]) for row in table(paper[0], "aggregates")}
    expected = {"median": (4.858, 5.032), "interquartile mean": (5.651, 6.272)}
    for name, values in expected.items():
        assert (found["muzero", name], found["muzero+past", name]) == pytest.approx(values, abs=5e-4)


def test_what_needs_single_seeds_is_not_available_for_the_paper(paper):
    intervals = [(row["95 %: low"], row["95 %: high"]) for row in table(paper[0], "aggregates")]
    assert intervals == [("not available",) * 2] * 6
    effects = {row["difference to muzero"]: row["value"] for row in table(paper[0], "effects")}
    assert effects["probability of improvement"] == "not available"
    assert float(effects["normalised score, median"]) == pytest.approx(5.032 - 4.858, abs=1e-3)
    html = (paper[0] / "report.html").read_text()
    for title in ("Performance profiles", "Median normalised score over games, while training", "Learning curves"):
        assert re.search(rf"<h2>{title}[^<]*</h2>\s*<figure><p class=missing>not available", html), title


def test_every_game_of_the_paper_is_in_the_table_with_its_error(paper):
    games = {row["game"]: row for row in table(paper[0], "games")}
    assert len(games) == 57 and {row["counts"] for row in games.values()} == {UNCHECKED}
    alien = games["alien"]
    assert (float(alien["muzero+past"]), float(alien["muzero+past: standard error"])) == (52821, 1918)
    assert float(alien["muzero: normalised"]) == pytest.approx((38698 - 227.8) / (7127.7 - 227.8))
    assert "Proper Value Equivalence" in (paper[0] / "report.md").read_text()


class Links(html.parser.HTMLParser):
    """Collects what a browser would fetch."""

    def __init__(self):
        super().__init__()
        self.found, self.tags = [], set()

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.found += [value for name, value in attrs if name in {"src", "href", "srcset", "data", "xlink:href"}]


def test_the_page_asks_no_host_for_anything_and_fits_a_phone(paper):
    html = (paper[0] / "report.html").read_text()
    links = Links()
    links.feed(html)
    assert links.found and all(link.startswith(("#", "data:")) for link in links.found)
    assert not re.search(r"@import|url\((?!#)", html)
    assert not links.tags & {"script", "iframe", "object", "embed", "img", "base"}
    assert "default-src 'none'" in html and 'content="width=device-width' in html
    assert html.count("<svg") == 1  # the bars; a table wider than the screen scrolls in a box of its own
    assert html.count("<table>") == html.count("<div class=scroll>") == 6  # no trials, no audits


# --- scores of single seeds ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def compared():
    return tables.compare(made_up(), LAST_FRAMES, "muzero", 200)


def test_intervals_hold_the_effect_that_was_put_in(compared):
    effects = {row[1]: row[2:] for row in tables._differences(compared).rows}
    _, value, low, high, *by_welch = effects["normalised score, mean"]
    expected = np.mean([1.0 / (axis.one - axis.zero) for axis in map(scores.scale, compared.games)])
    assert low < expected < high and value == pytest.approx(expected, rel=0.05)
    assert low < value < high and by_welch[0] < low < high < by_welch[1]
    _, probability, low, high, *_ = effects["probability of improvement"]
    assert 0.5 < low <= probability <= high <= 1


def test_the_bootstrap_repeats_itself(compared):
    assert tables._aggregates(compared) == tables._aggregates(compared)


def test_three_games_cannot_be_significant_and_the_table_says_so(compared):
    raw, normalised = tables._tests(compared).rows
    assert raw == ("muzero+past", "raw", 3, 0.0, 0.25, 0.25) and normalised[2:] == raw[2:]


def test_seeds_that_differ_between_games_leave_no_interval():
    rows = [row for row in made_up() if (row.game, row.seed) != ("MinAtar/Freeway-v1", 3)]
    found = tables.compare(tuple(rows), LAST_FRAMES, "muzero", 50)
    aggregates = {row[:2]: row[2:] for row in tables._aggregates(found).rows}
    assert {values[1:] for values in aggregates.values()} == {(None, None)}
    # Over games in one arm and over runs in the other: the two would not be the same statistic.
    assert [values[0] is None for (_, name), values in aggregates.items() if name == "interquartile mean"] == [True] * 2
    mean = next(row for row in tables._differences(found).rows if row[1] == "normalised score, mean")
    assert mean[4:6] == (None, None) and mean[6] < mean[3] < mean[7]  # Welch needs no equal numbers


def by_game(made):
    return {row[0]: dict(zip(made.columns, row, strict=True)) for row in made.rows}


def test_a_game_that_was_not_learned_is_no_evidence():
    nothing = lambda row: row._replace(score=0.33 if row.kind == LAST_FRAMES else row.score)
    rows = [nothing(row) if row.game == "MinAtar/Asterix-v1" else row for row in made_up()]
    found = tables.compare(tuple(rows), LAST_FRAMES, "muzero", 50)
    assert found.compared == ["MinAtar/Breakout-v1", "MinAtar/Freeway-v1"]
    games = by_game(tables._games(found))
    asterix, breakout = games["MinAtar/Asterix-v1"], games["MinAtar/Breakout-v1"]
    assert asterix["counts"] == "no: not learned, no evidence"
    random, above = found.random["MinAtar/Asterix-v1"], "muzero: standard errors above random"
    assert asterix[above] == pytest.approx((0.33 - random.mean) / random.standard_error)
    assert breakout[above] > 5 > asterix[above]
    assert (breakout["muzero: learned"], asterix["muzero: learned"]) == ("yes", "no")
    effects = {row[0]: row[1] for row in tables._game_differences(found).rows}
    assert effects["MinAtar/Asterix-v1"] == "no: not learned, no evidence"  # shown, and marked


def test_a_game_without_a_normaliser_counts_in_the_raw_test_only():
    found = tables.compare(made_up(games=("CartPole-v1", "pong", "qbert")), LAST_FRAMES, "muzero", 50)
    assert [row[2] for row in tables._tests(found).rows] == [3, 2]
    assert tables._games(found).rows[0][1] == "yes, raw scores only"


def test_a_game_that_an_arm_has_not_finished_is_left_out():
    rows = [row for row in made_up() if (row.game, row.arm) != ("MinAtar/Asterix-v1", "muzero+past")]
    found = tables.compare(tuple(rows), LAST_FRAMES, "muzero", 50)
    assert "MinAtar/Asterix-v1" not in found.compared and "MinAtar/Asterix-v1" in found.games
    assert tables._games(found).rows[1][1] == "no: an arm has no score"


def cell(mean, standard_error=4.0):
    return comparison.Cell(mean, standard_error, None)


@pytest.mark.parametrize("mean, errors, learned", [(26.0, 5.2, True), (25.0, 5.0, False), (24.0, 4.8, False)])
def test_a_game_is_learned_above_five_standard_errors_of_the_difference(mean, errors, learned):
    """Of standard errors 3 and 4, that of the difference is 5."""
    agent = cell(mean + 1.0, 3.0)
    assert comparison.errors_above(agent, cell(1.0)) == pytest.approx(errors)
    for random, constant in ((cell(1.0), cell(-9.0)), (cell(-9.0), cell(1.0))):  # the better of the two decides
        assert comparison.has_learned(agent, random, constant) is learned


@pytest.mark.parametrize(
    "random, constant, learned",
    [
        (cell(1.0), None, None),  # an older file
        (None, cell(1.0), None),
        (cell(1.0), cell(1.0, None), None),  # of one seed
        (cell(90.0), None, False),
        (None, cell(90.0), False),
        (None, None, None),
    ],
)
def test_with_one_yardstick_a_game_may_be_unlearned_but_not_learned(random, constant, learned):
    assert comparison.has_learned(cell(100.0, 3.0), random, constant) is learned
    assert comparison.has_learned(None, random, constant) is None


def test_a_game_in_which_one_button_scores_as_much_is_not_learned():
    held = lambda row: row._replace(score=9.8) if (row.game, row.kind) == ("pong", CONSTANT) else row
    found = tables.compare(tuple(map(held, made_up(games=("pong", "qbert")))), LAST_FRAMES, "muzero", 50)
    games = by_game(tables._games(found))
    assert {name: (row["counts"], row["muzero: learned"]) for name, row in games.items()} == {
        "pong": ("no: not learned, no evidence", "no"), "qbert": ("yes", "yes")
    }  # fmt: skip
    assert games["pong"]["muzero: standard errors above random"] > 5
    assert games["pong"]["constant"] == 9.8 and games["qbert"]["constant"] == pytest.approx(0.215)
    assert tables.learned_line(found) == [
        "Games learned (better than random play and than any one button held): muzero 1 of 2; muzero+past 1 of 2."
    ]


def test_a_file_without_constant_actions_is_read_as_before():
    rows = tuple(row for row in made_up(games=("pong", "qbert")) if row.kind != CONSTANT)
    found = tables.compare(rows, LAST_FRAMES, "muzero", 50)
    games = by_game(tables._games(found))
    assert found.compared == ["pong", "qbert"] and tables.learned_line(found) == []
    assert games["pong"]["counts"] == "yes, not checked against a constant action"
    assert games["pong"]["muzero: learned"] is None and games["pong"]["constant"] is None
    nothing = [row._replace(score=0.33) if row.kind == LAST_FRAMES else row for row in rows]
    assert tables.compare(tuple(nothing), LAST_FRAMES, "muzero", 50).compared == []


def test_sampled_games_stand_beside_greedy_ones_in_files_that_have_them():
    rows = made_up(games=("pong",))
    later = (*rows, *(row._replace(kind=SAMPLED, score=3.0) for row in rows if row.kind == LAST_FRAMES))
    for given, kinds in ((rows, (LAST_FRAMES, "greedy")), (later, (LAST_FRAMES, "sampled", "greedy"))):
        found = tables._seeds(tables.compare(given, LAST_FRAMES, "muzero", 50))
        assert found.columns[2:] == tuple(f"{arm}: {kind}" for kind in kinds for arm in ("muzero", "muzero+past"))


def test_equal_arms_have_no_test():
    assert comparison.wilcoxon_test(np.ones(4), np.ones(4)) is None


def test_equal_games_make_no_smaller_p_possible():
    found = comparison.wilcoxon_test(np.array([1.0, 2, 3, 4, 5]), np.array([0.0, 0, 0, 0, 5]))
    assert (found.num_games, found.p_value, found.smallest_p) == (5, 0.125, 0.125)


def test_a_game_has_its_effect_without_a_normaliser_or_equal_seeds():
    rows = made_up(games=("CartPole-v1", "pong"))
    rows = [row for row in rows if (row.game, row.arm, row.seed) != ("pong", "muzero", 3)]
    compared = tables.compare(tuple(rows), LAST_FRAMES, "muzero", 200)
    cartpole, pong = tables._game_differences(compared).rows
    for _, _, arm, value, low, high, welch_low, welch_high, chance, *_ in (cartpole, pong):
        assert arm == "muzero+past" and welch_low < low < value < high < welch_high and 0.5 < chance <= 1
    assert cartpole[3] == pytest.approx(compared.cells["CartPole-v1", "muzero"].mean / 10)  # better by 10 %


def test_without_seeds_a_game_has_a_difference_and_no_interval():
    rows = (trial(seed=None, score=1.0), trial(seed=None, arm="muzero+past", score=3.0))
    found = tables._game_differences(tables.compare(rows, LAST_FRAMES, "muzero", 50)).rows
    assert found == [("pong", UNCHECKED, "muzero+past", 2.0, *[None] * 7)]


def test_wall_time_of_both_arms_is_reported(compared):
    assert tables._wall_time(compared).rows == [("muzero", 12, 1.0, 12.0), ("muzero+past", 12, 1.0, 12.0)]


def audited(errors, arm, game, kind=results.MODEL_ERROR):
    return [trial(game, arm, seed, kind, error) for seed, error in enumerate(errors)]


def test_the_audits_of_the_arms_are_compared_over_seeds():
    games = ("MinAtar/Breakout-v1", "MinAtar/Asterix-v1")
    rows = [row for row in made_up(games=games) if row.kind == LAST_FRAMES]
    for game, shift in zip(games, (0.0, 1.0), strict=True):
        rows += audited([shift + x for x in (0.5, 0.6, 0.7, 0.8)], "muzero", game)
        rows += audited([shift + x for x in (0.1, 0.2, 0.3, 0.4)], "muzero+past", game)
    rows += audited([0.1, None, 0.1, 0.1], "muzero", games[0], results.HEAD_ERROR)
    rows += audited([0.1, 0.1, 0.1, 0.1], "muzero+past", games[0], results.HEAD_ERROR)
    found = audits._over_own_variance(tables.compare(tuple(rows), LAST_FRAMES, "muzero", 500)).rows
    assert found[0] == (results.HEAD_ERROR, games[0], UNCHECKED, "muzero+past", *[None] * 5)  # an error lacks
    known = [row for row in found if row[4] is not None]
    assert {row[0] for row in known} == {results.MODEL_ERROR} and {row[3] for row in known} == {"muzero+past"}
    assert [row[1:3] for row in known] == [*((game, UNCHECKED) for game in games), ("all 2 that count", "")]
    breakout, _, both = known
    assert breakout[4:7] == pytest.approx((0.65, 0.25, -0.4)) and both[4:7] == pytest.approx((1.15, 0.75, -0.4))
    # A resampled error has a standard deviation of 0.112: the mean of 4 differs between arms by sqrt(2 / 4) times that.
    widths = [row[8] - row[7] for row in (breakout, both)]
    assert widths == pytest.approx([2 * 1.96 * 0.079, 2 * 1.96 * 0.056], rel=0.15)
    assert breakout[7] < -0.4 < breakout[8] < 0


def test_the_audit_of_an_unlearned_game_is_shown_and_does_not_count():
    games = ("MinAtar/Breakout-v1", "MinAtar/Asterix-v1", "pong")
    rows = [row for row in made_up(games=games) if row.kind == LAST_FRAMES]
    rows += [row._replace(kind=RANDOM) for row in rows if row.game == "pong"]
    for game, error in zip(games, (0.5, 0.25, 8.0), strict=True):
        rows += audited([error] * 4, "muzero", game) + audited([2 * error] * 4, "muzero+past", game)
    found = audits._over_own_variance(tables.compare(tuple(rows), LAST_FRAMES, "muzero", 50)).rows
    errors = {row[1]: (row[2], *row[4:7]) for row in found if row[0] == results.MODEL_ERROR}
    assert errors["pong"] == ("no: not learned, no evidence", 8.0, 16.0, 8.0)
    assert errors["all 2 that count"] == ("", 0.375, 0.75, 0.375)


def test_an_arm_without_an_error_takes_no_other_arm_out():
    rows = [row for row in made_up(games=("pong",)) if row.kind == LAST_FRAMES]
    rows += [row._replace(arm="third") for row in rows if row.arm == "muzero"]
    for arm, errors in (("muzero", [0.5] * 4), ("muzero+past", [0.1] * 4), ("third", [0.1, None, 0.1, 0.1])):
        rows += audited(errors, arm, "pong")
    found = audits._over_own_variance(tables.compare(tuple(rows), LAST_FRAMES, "muzero", 50)).rows
    assert [row[3] for row in found if row[4] is not None] == ["muzero+past"]


def test_what_the_imagined_steps_add_is_the_models_part():
    rows = [row for row in made_up(games=("pong",)) if row.kind == LAST_FRAMES]
    for arm, shift in (("muzero", 0.0), ("muzero+past", 0.25)):
        rows += audited([0.5, 0.25, 0.5, 0.75], arm, "pong", results.HEAD_ERROR)
        rows += audited([shift + x for x in (1.0, 0.5, 1.0, 1.5)], arm, "pong")
    found = audits._over_own_variance(tables.compare(tuple(rows), LAST_FRAMES, "muzero", 50)).rows
    assert [row[4:7] for row in found if row[0] == "audit-excess"] == [(0.5, 0.75, 0.25)]


def test_the_arms_have_one_measure_where_their_returns_vary_differently():
    rows = [row for row in made_up(games=("pong",)) if row.kind == LAST_FRAMES]
    for arm, variance in (("muzero", 1.0), ("muzero+past", 3.0)):
        rows += audited([0.5] * 4, arm, "pong", results.MODEL_SQUARED)
        rows += audited([0.5 / variance] * 4, arm, "pong", results.MODEL_ERROR)
        rows += audited([variance] * 4, arm, "pong", results.VARIANCE)
    compared = tables.compare(tuple(rows), LAST_FRAMES, "muzero", 50)
    own, shared = ([row for row in table.rows if row[4] is not None] for table in audits.tables(compared))
    assert [row[4:7] for row in own] == [pytest.approx((0.5, 1 / 6, -1 / 3))]  # the same errors look smaller
    assert [row[4:7] for row in shared] == [(0.25, 0.25, 0.0), (0.5, 1.5, 1.0)]


def test_a_variance_that_may_be_noise_is_no_measure():
    """Noise taken off, it may come out below 0: the arm with the larger error would seem the better one."""
    rows = [row for row in made_up(games=("pong",)) if row.kind == LAST_FRAMES]
    for arm, error in (("muzero", 1.0), ("muzero+past", 2.0)):
        rows += audited([error] * 4, arm, "pong", results.MODEL_SQUARED)
        rows += audited([-0.01, 0.004, -0.02, 0.01], arm, "pong", results.VARIANCE)
    shared = audits._over_shared_variance(tables.compare(tuple(rows), LAST_FRAMES, "muzero", 50)).rows
    assert shared and {row[1] for row in shared} == {"pong"} and {cell for row in shared for cell in row[4:]} == {None}


def test_without_audits_the_tables_are_empty(compared):
    assert [table.rows for table in audits.tables(compared)] == [[], []]


# --- aggregates ------------------------------------------------------------------------------------------------------


# Games' means 1, 1, 3, 15; of all eight scores the middle four are 1, 2, 2, 4.
ARM = np.array([[0.0, 1.0, 2.0, 9.0], [2.0, 1.0, 4.0, 21.0]])
# Games' means 0, 1, 1, 8; the middle four are 0, 0, 2, 2.
BASELINE = np.array([[0.0, 0.0, 0.0, 8.0], [0.0, 2.0, 2.0, 8.0]])


def test_aggregates_over_seeds_and_games_are_literal():
    found = comparison.aggregate(ARM, ARM.mean(axis=0, keepdims=True), 200)
    assert {name: x.value for name, x in found.items()} == {"mean": 5.0, "median": 2.0, "interquartile mean": 2.25}
    assert all(x.interval[0] < x.value < x.interval[1] for x in found.values())


def test_differences_of_aggregates_are_those_of_the_arm_minus_the_baseline():
    found = comparison.difference(ARM, BASELINE, (None, None), 200)
    assert {name: x.value for name, x in found.items()} == {"mean": 2.5, "median": 1.0, "interquartile mean": 1.25}
    assert all(x.interval[0] < x.value < x.interval[1] for x in found.values())


def test_a_profile_is_the_fraction_of_scores_above_each_threshold():
    fraction, (low, high) = comparison.profile(ARM, np.array([-1.0, 0.0, 1.5, 4.0, 21.0]), 200)
    assert fraction.tolist() == [1.0, 0.875, 0.625, 0.25, 0.0]
    assert np.all(low <= fraction) and np.all(fraction <= high) and low[2] < high[2]


# --- rliable's numbers -----------------------------------------------------------------------------------------------


# Scores whose games overlap, [seeds, games] of two arms with unequal numbers of seeds.
FIVE_SEEDS = np.array(
    [
        [1.21, 0.88, 1.33, 2.50],
        [1.47, 1.19, 2.26, 0.91],
        [0.94, 1.71, 1.48, 1.62],
        [1.62, 1.25, 1.39, 1.80],
        [1.15, 0.64, 1.52, 2.66],
    ]
)
SIX_SEEDS = np.array(
    [
        [1.03, 1.12, 1.29, 1.51],
        [1.30, 0.77, 1.67, 2.18],
        [0.88, 1.06, 1.22, 1.43],
        [1.24, 1.40, 0.91, 1.69],
        [1.11, 0.55, 1.30, 2.47],
        [0.99, 1.13, 1.24, 0.86],
    ]
)
# What rliable 1.2.0 (Agarwal et al. 2021) computes of them: value, low and high of 5,000 resamples.
RLIABLE_AGGREGATES = {
    "mean": (1.4765, 1.295, 1.6645),
    "median": (1.437, 1.272975, 1.62),
    "interquartile mean": (1.408, 1.237975, 1.584),
}
RLIABLE_DIFFERENCES = {
    "mean": (0.211917, -0.007585, 0.433344),
    "median": (0.255333, 0.048158, 0.45485),
    "interquartile mean": (0.204667, 0.008146, 0.416337),
}
RLIABLE_PROBABILITY = (0.716667, 0.55, 0.866667)
RLIABLE_PROFILE = {0.8: (0.95, 0.85, 1.0), 1.0: (0.8, 0.65, 0.95), 2.4: (0.1, 0.0, 0.2)}  # by threshold
# Over seeds of the bootstrap, an end of 5,000 resamples has a standard deviation of 0.002 to 0.005, one of a profile at
# these thresholds none. The intervals are 0.3 to 0.45 wide.
NOISE = 0.01
RESAMPLES = 20_000


def is_rliables(found, expected):
    value, *interval = expected
    return found.value == pytest.approx(value, abs=1e-6) and found.interval == pytest.approx(interval, abs=NOISE)


@pytest.mark.parametrize("name", RLIABLE_AGGREGATES)
def test_aggregates_are_those_of_rliable(name):
    found = comparison.aggregate(FIVE_SEEDS, FIVE_SEEDS.mean(axis=0, keepdims=True), RESAMPLES)
    assert is_rliables(found[name], RLIABLE_AGGREGATES[name])
    found = comparison.difference(FIVE_SEEDS, SIX_SEEDS, (None, None), RESAMPLES)
    assert is_rliables(found[name], RLIABLE_DIFFERENCES[name])


def test_a_mean_difference_is_that_of_rliable():
    found = comparison.mean_difference(FIVE_SEEDS, SIX_SEEDS, RESAMPLES)
    assert is_rliables(found, RLIABLE_DIFFERENCES["mean"])


def test_the_probability_of_improvement_is_that_of_rliable():
    found = comparison.probability_of_improvement(FIVE_SEEDS, SIX_SEEDS, RESAMPLES)
    assert is_rliables(found, RLIABLE_PROBABILITY)


def test_equal_scores_count_as_half_an_improvement():
    """Of four pairs one is higher, two are equal, one is lower; in the second game all are equal."""
    runs, baseline = np.array([[1.0, 3.0], [2.0, 3.0]]), np.array([[1.0, 3.0], [2.0, 3.0]])
    assert comparison.probability_of_improvement(runs, baseline, 50).value == 0.5
    assert comparison.probability_of_improvement(runs + [[0.0, 1.0]], baseline, 50).value == 0.75


def test_a_profile_is_that_of_rliable():
    fraction, (low, high) = comparison.profile(FIVE_SEEDS, np.array(list(RLIABLE_PROFILE)), RESAMPLES)
    assert np.array([fraction, low, high]).T == pytest.approx(np.array(list(RLIABLE_PROFILE.values())), abs=1e-6)


# --- intervals -------------------------------------------------------------------------------------------------------


def test_welchs_interval_of_one_game_is_scipys():
    rng = np.random.default_rng(1)
    arm, baseline = rng.normal(3.0, 2.0, 5), rng.normal(1.0, 0.5, 4)
    expected = scipy.stats.ttest_ind(arm, baseline, equal_var=False).confidence_interval(0.95)
    found = comparison.welch([arm], [baseline])
    assert found.value == pytest.approx(arm.mean() - baseline.mean())
    assert found.interval == pytest.approx((expected.low, expected.high))
    assert comparison.welch([np.ones(3)], [np.ones(3)]) is comparison.welch([np.ones(1)], [np.ones(3)]) is None


ONE_OF_THREE, NONE_OF_THREE = np.array([[1.0], [0.0], [0.0]]), np.zeros((3, 1))


@pytest.mark.parametrize(
    "runs, baseline, value, interval",
    [
        (ONE_OF_THREE, NONE_OF_THREE, 1 / 3, (0.0, 1.0)),
        (NONE_OF_THREE, ONE_OF_THREE, -1 / 3, (-1.0, 0.0)),
        (np.tile(ONE_OF_THREE, 2), np.tile(NONE_OF_THREE, 2), 1 / 3, (0.0, 2 / 3)),
        (np.hstack([ONE_OF_THREE, np.ones((3, 1))]), np.tile(NONE_OF_THREE, 2), 2 / 3, (0.5, 1.0)),
    ],
)
def test_the_interval_of_a_mean_difference_resamples_the_seeds_within_each_game(runs, baseline, value, interval):
    """Of three draws from 1, 0, 0 all are 1 with probability 1/27, between 2.5 % and 5 %: the upper end at 95 % is 1.

    In two such games, five or six of the six draws are 1 with 1.8 %, four with 8.2 %: it is 2/3. Were the games drawn
    together, it would be 1 again. A game of equal seeds adds no width.
    """
    found = comparison.mean_difference(runs, baseline, 10_000)
    assert found.value == pytest.approx(value) and found.interval == pytest.approx(interval)


@pytest.mark.parametrize("num_games, resampled", [(1, 0.87), (4, 0.91)])
def test_how_often_the_intervals_hold_the_truth(num_games, resampled):
    """The report's note says so: five seeds, equal normal arms, 0 is the truth.

    The resampling is written out, for speed; that `mean_difference` resamples so is shown above.
    """
    rng, cases = np.random.default_rng(0), 2000
    scores = rng.normal(size=(cases, 2, num_games, 5))
    draws = rng.integers(5, size=(400, 2, num_games, 5))
    resample = lambda case: np.take_along_axis(case[None], draws, axis=-1).mean(axis=(2, 3))  # [resamples, arms]
    ends = [np.percentile(np.diff(resample(case)[:, ::-1], axis=1), (2.5, 97.5)) for case in scores]
    assert np.mean([low <= 0 <= high for low, high in ends]) == pytest.approx(resampled, abs=0.02)
    by_welch = [comparison.welch(list(case[0]), list(case[1])).interval for case in scores]
    assert np.mean([low <= 0 <= high for low, high in by_welch]) == pytest.approx(0.95, abs=0.015)


def test_every_trial_is_shown_with_its_greedy_score():
    rows = (*made_up(2, ("pong",)), trial("pong", "muzero", 1, results.GREEDY, 7.0))
    found = tables._seeds(tables.compare(rows, LAST_FRAMES, "muzero", 50)).rows
    scores = {(row.arm, row.seed): row.score for row in rows if row.kind == LAST_FRAMES}
    expected = [("pong", str(n), scores["muzero", n], scores["muzero+past", n]) for n in (0, 1)]
    assert found == [(*expected[0], None, None), (*expected[1], 7.0, None)]


def test_a_report_says_that_the_trials_ran_at_several_commits():
    comments = ("suite: {}", "commit: a", "commit: b")
    assert suite_directory.several_commits(comments[:2]) == []
    assert suite_directory.several_commits(comments)[0].startswith("The trials ran at 2 commits: their wall times")


def test_curves_and_profiles_are_drawn_where_the_scores_are_there(compared):
    from scripts.experiments.report import plots

    drawn_plots = plots.plots(compared)
    assert [plot.small for plot in drawn_plots] == [False, False, False, True, True, True]
    assert all(plot.svg.startswith("<svg") for plot in drawn_plots)
    assert [plot.title for plot in drawn_plots if plot.small] == compared.games
    ids = [set(re.findall(r'clip-path="url\(#(\w+)\)"', plot.svg)) for plot in drawn_plots]
    assert len(set.union(*ids)) == sum(map(len, ids))  # no plot of the page is clipped by another's path


@pytest.fixture
def drawn(monkeypatch):
    """Returns what draws a plot of a comparison and returns its axes, before they become an image."""
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
    of = lambda game, x: scores.scale(game).zero + x * (scores.scale(game).one - scores.scale(game).zero)
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
    arms = {"muzero": {"qbert": [0.1, 0.3], "pong": [0.5, 0.7]}, "muzero+past": {"qbert": [0.4, 1], "pong": [0.1, 0.3]}}
    found = tables.compare(tuple(normalised_trials(LAST_FRAMES, arms)), LAST_FRAMES, "muzero", 50)
    axes = drawn("_game_differences", found)
    assert [label.get_text() for label in axes.get_yticklabels()] == ["pong", "qbert"]
    assert [bar.get_width() for bar in axes.patches] == pytest.approx([-0.4, 0.5])
    colours = [line.get_color() for line in drawn("_profiles", found).lines]
    assert [to_hex(bar.get_facecolor()) for bar in axes.patches] == colours  # those of the arms that are ahead
    (segments,) = [bars.get_segments() for bars in axes.collections]
    ends = [(low, high) for (low, _), (high, _) in segments]
    pairs = [(arms["muzero+past"][game], arms["muzero"][game]) for game in ("pong", "qbert")]
    expected = [scipy.stats.ttest_ind(*pair, equal_var=False).confidence_interval(0.95) for pair in pairs]
    assert ends == [pytest.approx((interval.low, interval.high)) for interval in expected]


def test_the_line_of_all_games_is_the_median_of_their_means_where_every_game_has_a_point(drawn):
    early = {"pong": [0.1, 0.3], "qbert": [0.4, 0.4], "alien": [0.9, 1.1]}
    late = {"pong": [0.2, 0.4], "qbert": [3.0, 5.0], "alien": [0.5, 0.9]}
    rows = normalised_trials(LAST_FRAMES, {"muzero": late})
    rows += normalised_trials(CURVE, {"muzero": early}, 10**6) + normalised_trials(CURVE, {"muzero": late}, 2 * 10**6)
    rows += normalised_trials(CURVE, {"muzero": {"pong": [9.0]}}, 3 * 10**6)
    axes = drawn("_median_curve", tables.compare(tuple(rows), LAST_FRAMES, "muzero", 50))
    assert lines(axes) == {"muzero": [pytest.approx([1.0, 0.4]), pytest.approx([2.0, 0.7])]}


def test_a_profiles_line_falls_with_the_score(drawn):
    arms = {"muzero": {"pong": [0.1, 0.1]}, "muzero+past": {"pong": [0.1, 0.3]}}
    rows = tuple(normalised_trials(LAST_FRAMES, arms))
    axes = drawn("_profiles", tables.compare(rows, LAST_FRAMES, "muzero", 50))
    above = {arm: [fraction for tau, fraction in points if 0.1 < tau < 0.3] for arm, points in lines(axes).items()}
    assert {arm: set(fractions) for arm, fractions in above.items()} == {"muzero": {0.0}, "muzero+past": {0.5}}
    assert all(points[0] == [0.0, 1.0] and points[-1][1] == 0.0 for points in lines(axes).values())


def test_a_learning_curve_is_the_mean_of_the_seeds_and_its_standard_error(drawn):
    rows = [trial(seed=seed, kind=CURVE, score=score, frames=10**6) for seed, score in enumerate((1.0, 3.0, 5.0))]
    rows += [trial(seed=0, kind=CURVE, score=7.0, frames=2 * 10**6), trial()]
    axes = drawn("_curve", tables.compare(tuple(rows), LAST_FRAMES, "muzero", 50), "pong")
    assert lines(axes) == {"muzero": [[1.0, 3.0], [2.0, 7.0]]}
    (band,) = axes.collections
    edges = {frames: band.get_paths()[0].vertices[band.get_paths()[0].vertices[:, 0] == frames, 1] for frames in (1, 2)}
    assert (edges[1].min(), edges[1].max()) == pytest.approx((3 - 2 / 3**0.5, 3 + 2 / 3**0.5))
    assert set(edges[2]) == {7.0}


def test_the_plots_are_files_that_the_markdown_shows(compared, tmp_path):
    from scripts.experiments.report import plots

    drawn_plots = plots.plots(compared)
    page.write(tmp_path, "t", [], [], drawn_plots)
    shown = re.findall(r"!\[[^\]]+\]\(([^)]+)\)", (tmp_path / "report.md").read_text())
    assert shown == [plot.file for plot in drawn_plots] and len(set(shown)) == len(drawn_plots)
    assert all((tmp_path / name).read_text().startswith("<svg") for name in shown)
    assert "minatar-breakout-v1.svg" in shown


def test_markdown_shows_missing_numbers_as_such():
    text = page.as_markdown("t", [], [tables.Table("n", "T", ("a", "b"), [("x", None), ("y", 12345.6)])])
    assert "| x | not available |\n| y | 12,346 |" in text


# --- normalisers -----------------------------------------------------------------------------------------------------


def test_minatars_axis_goes_from_random_to_published():
    axis = scores.scale("MinAtar/Breakout-v1")
    assert (axis.normalise(0.386), axis.normalise(28.0)) == (0.0, 1.0)
    assert scores.human_normalised("MinAtar/Breakout-v1", 28.0) is None  # no human
    assert scores.scale("MinAtar/Seaquest-v1") is None and scores.scale("CartPole-v1") is None
    assert scores.scale("ms_pacman") == scores.scale("ALE/MsPacman-v5")


# --- the format ------------------------------------------------------------------------------------------------------


def test_results_come_back_as_they_were_written(tmp_path):
    rows = (trial(game='odd, "name"', score=0.1 + 0.2, episodes=3), trial(seed=None, kind=CURVE, score=None))
    written = Results(("source: a test",), rows)
    results.write(tmp_path / "r.csv", written)
    assert results.read(tmp_path / "r.csv") == written


@pytest.mark.parametrize(
    "text, message",
    [
        ("a,b\n", "the header must be suite,game"),
        ("", "the header must be suite,game"),
        (f"{HEADER}\n", "has no rows: no trial has finished yet"),
        (f"{HEADER}\ns,pong,muzero,0,100,best,1,,,\n", "line 2: kind = best: must be one of last-10-percent"),
        (f"{HEADER}\ns,pong,muzero,0,100,greedy,many,,,\n", "line 2: score = many: must be a number"),
        (f"{HEADER}\ns,pong,muzero,0,100,greedy,nan,,,\n", "line 2: score = nan: must be finite"),
        (f"{HEADER}\ns,pong,muzero,-1,100,greedy,1,,,\n", "line 2: seed = -1: must be finite, not negative"),
        (f"# c\n{HEADER}\ns,,muzero,0,100,greedy,1,,,\n", "line 3: game is empty"),
        (f"{HEADER}\ns,pong,muzero,0\n", "line 2: 4 columns, must be 10"),
        (f"{HEADER}\n" + 2 * "s,pong,muzero,0,100,greedy,1,,,\n", "pong, muzero, seed 0: more than one row"),
        (f"{HEADER}\ns,pong,a,0,1,greedy,1,,,\ns,pong,a,,1,greedy,1,,,\n", "rows with and without a seed"),
        (f"{HEADER}\ns,pong,a,0,1,greedy,1,,,\nz,pong,a,1,1,greedy,1,,,\n", "suite = s, z: a file holds exactly one"),
    ],
)
def test_a_bad_file_is_refused_in_one_line(tmp_path, text, message):
    (tmp_path / "r.csv").write_text(text)
    with pytest.raises(ConfigError) as error:
        results.read(tmp_path / "r.csv")
    assert message in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["missing.csv"], "missing.csv: cannot be read"),
        ([PAPER, "--kind", "greedy"], "--kind greedy: nothing to compare by in this file; it has training-final-200"),
        (
            [PAPER, "--baseline", "dqn"],
            "--baseline dqn: nothing to compare by in this file; it has muzero, muzero+past",
        ),
        ([PAPER, "--resamples", "0"], "--resamples = 0: must be above 0"),
    ],
)
def test_bad_arguments_are_refused_before_anything_is_written(tmp_path, arguments, message):
    with pytest.raises(ConfigError, match=re.escape(message)):
        report.main([*map(str, arguments), "--out", str(tmp_path / "report")])
    assert list(tmp_path.iterdir()) == []


def test_a_spreadsheets_mark_and_empty_lines_are_no_fault(tmp_path):
    (tmp_path / "r.csv").write_text(f"\ufeff{HEADER}\ns,pong,muzero,0,100,greedy,1,,,\n\n", encoding="utf-8")
    assert [row.game for row in results.read(tmp_path / "r.csv").rows] == ["pong"]


def test_a_report_says_first_that_trials_are_missing():
    stated = json.dumps({"games": ["pong"], "seeds": [1, 2], "arms": {"a": {}, "b": {}}})
    rows = [trial(arm=arm, seed=seed) for seed in (1, 2) for arm in ("a", "b")]
    line = lambda *comments, rows: suite_directory.what_is_missing(PAPER, Results(comments, tuple(rows)))
    assert line(f"suite: {stated}", rows=rows[:2]) == ["2 of 4 trials are in the file: nothing can be concluded yet."]
    assert line(f"suite: {stated}", rows=rows) == line(rows=rows) == []  # the paper's table states no suite
