"""The tables of a report about audits."""

import pytest

from scripts.experiments import results
from scripts.experiments.report import audits, tables
from scripts.experiments.results import LAST_FRAMES, RANDOM
from tests.scripts.experiments.made_up import UNCHECKED, made_up, trial


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
    # An error lacks
    assert found[0] == (
        results.HEAD_ERROR,
        games[0],
        UNCHECKED,
        "muzero+past",
        *[None] * 5,
    )
    known = [row for row in found if row[4] is not None]
    assert {row[0] for row in known} == {results.MODEL_ERROR} and {row[3] for row in known} == {
        "muzero+past"
    }
    assert [row[1:3] for row in known] == [
        *((game, UNCHECKED) for game in games),
        ("all 2 that count", ""),
    ]
    breakout, _, both = known
    assert breakout[4:7] == pytest.approx((0.65, 0.25, -0.4)) and both[4:7] == pytest.approx(
        (1.15, 0.75, -0.4)
    )
    # A resampled error has a standard deviation of 0.112: the mean of 4 differs between arms by
    # sqrt(2 / 4) times that.
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
    for arm, errors in (
        ("muzero", [0.5] * 4),
        ("muzero+past", [0.1] * 4),
        ("third", [0.1, None, 0.1, 0.1]),
    ):
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
    own, shared = (
        [row for row in table.rows if row[4] is not None] for table in audits.tables(compared)
    )
    # The same errors look smaller
    assert [row[4:7] for row in own] == [pytest.approx((0.5, 1 / 6, -1 / 3))]
    assert [row[4:7] for row in shared] == [(0.25, 0.25, 0.0), (0.5, 1.5, 1.0)]


def test_a_variance_that_may_be_noise_is_no_measure():
    """Noise taken off, it may come out below 0: the arm with the larger error would seem the better
    one.
    """
    rows = [row for row in made_up(games=("pong",)) if row.kind == LAST_FRAMES]
    for arm, error in (("muzero", 1.0), ("muzero+past", 2.0)):
        rows += audited([error] * 4, arm, "pong", results.MODEL_SQUARED)
        rows += audited([-0.01, 0.004, -0.02, 0.01], arm, "pong", results.VARIANCE)
    shared = audits._over_shared_variance(
        tables.compare(tuple(rows), LAST_FRAMES, "muzero", 50)
    ).rows
    assert (
        shared
        and {row[1] for row in shared} == {"pong"}
        and {cell for row in shared for cell in row[4:]} == {None}
    )


def test_without_audits_the_tables_are_empty(compared):
    assert [table.rows for table in audits.tables(compared)] == [[], []]
