"""The tables of a report on scores of single seeds."""

import numpy as np
import pytest

from actors import scores
from scripts.experiments import comparison, results
from scripts.experiments.report import tables
from scripts.experiments.results import CONSTANT, LAST_FRAMES, SAMPLED
from tests.scripts.experiments.made_up import UNCHECKED, by_game, cell, made_up, trial


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
    assert [
        values[0] is None
        for (_, name), values in aggregates.items()
        if name == "interquartile mean"
    ] == [True] * 2
    mean = next(
        row for row in tables._differences(found).rows if row[1] == "normalised score, mean"
    )
    assert mean[4:6] == (None, None) and mean[6] < mean[3] < mean[7]  # Welch needs no equal numbers


def test_a_game_that_was_not_learned_is_no_evidence():
    def nothing(row):
        return row._replace(score=0.33 if row.kind == LAST_FRAMES else row.score)

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
    found = tables.compare(
        made_up(games=("CartPole-v1", "pong", "qbert")), LAST_FRAMES, "muzero", 50
    )
    assert [row[2] for row in tables._tests(found).rows] == [3, 2]
    assert tables._games(found).rows[0][1] == "yes, raw scores only"


def test_a_game_that_an_arm_has_not_finished_is_left_out():
    rows = [
        row for row in made_up() if (row.game, row.arm) != ("MinAtar/Asterix-v1", "muzero+past")
    ]
    found = tables.compare(tuple(rows), LAST_FRAMES, "muzero", 50)
    assert "MinAtar/Asterix-v1" not in found.compared and "MinAtar/Asterix-v1" in found.games
    assert tables._games(found).rows[1][1] == "no: an arm has no score"


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
    def held(row):
        return row._replace(score=9.8) if (row.game, row.kind) == ("pong", CONSTANT) else row

    found = tables.compare(
        tuple(map(held, made_up(games=("pong", "qbert")))), LAST_FRAMES, "muzero", 50
    )
    games = by_game(tables._games(found))
    assert {name: (row["counts"], row["muzero: learned"]) for name, row in games.items()} == {
        "pong": ("no: not learned, no evidence", "no"), "qbert": ("yes", "yes")
    }  # fmt: skip
    assert games["pong"]["muzero: standard errors above random"] > 5
    assert games["pong"]["constant"] == 9.8 and games["qbert"]["constant"] == pytest.approx(0.215)
    assert tables.learned_line(found) == [
        "Games learned (better than random play and than any one button held): muzero 1 of 2; "
        "muzero+past 1 of 2."
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
    later = (
        *rows,
        *(row._replace(kind=SAMPLED, score=3.0) for row in rows if row.kind == LAST_FRAMES),
    )
    for given, kinds in (
        (rows, (LAST_FRAMES, "greedy")),
        (later, (LAST_FRAMES, "sampled", "greedy")),
    ):
        found = tables._seeds(tables.compare(given, LAST_FRAMES, "muzero", 50))
        assert found.columns[2:] == tuple(
            f"{arm}: {kind}" for kind in kinds for arm in ("muzero", "muzero+past")
        )


def test_a_game_has_its_effect_without_a_normaliser_or_equal_seeds():
    rows = made_up(games=("CartPole-v1", "pong"))
    rows = [row for row in rows if (row.game, row.arm, row.seed) != ("pong", "muzero", 3)]
    compared = tables.compare(tuple(rows), LAST_FRAMES, "muzero", 200)
    cartpole, pong = tables._game_differences(compared).rows
    for _, _, arm, value, low, high, welch_low, welch_high, chance, *_ in (cartpole, pong):
        assert (
            arm == "muzero+past"
            and welch_low < low < value < high < welch_high
            and 0.5 < chance <= 1
        )
    # Better by 10 %
    assert cartpole[3] == pytest.approx(compared.cells["CartPole-v1", "muzero"].mean / 10)


def test_without_seeds_a_game_has_a_difference_and_no_interval():
    rows = (trial(seed=None, score=1.0), trial(seed=None, arm="muzero+past", score=3.0))
    found = tables._game_differences(tables.compare(rows, LAST_FRAMES, "muzero", 50)).rows
    assert found == [("pong", UNCHECKED, "muzero+past", 2.0, *[None] * 7)]


def test_wall_time_of_both_arms_is_reported(compared):
    assert tables._wall_time(compared).rows == [
        ("muzero", 12, 1.0, 12.0),
        ("muzero+past", 12, 1.0, 12.0),
    ]


def test_every_trial_is_shown_with_its_greedy_score():
    rows = (*made_up(2, ("pong",)), trial("pong", "muzero", 1, results.GREEDY, 7.0))
    found = tables._seeds(tables.compare(rows, LAST_FRAMES, "muzero", 50)).rows
    scores = {(row.arm, row.seed): row.score for row in rows if row.kind == LAST_FRAMES}
    expected = [("pong", str(n), scores["muzero", n], scores["muzero+past", n]) for n in (0, 1)]
    assert found == [(*expected[0], None, None), (*expected[1], 7.0, None)]
