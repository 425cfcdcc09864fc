"""The tables of a report about the audits: how value-equivalent are the models of the arms?"""

import numpy as np

from scripts.experiments import comparison
from scripts.experiments.comparison import Cell
from scripts.experiments.report.tables import ENDS, RESAMPLED, Comparison, Table, counts, interval
from scripts.experiments.results import (
    HEAD_ERROR,
    HEAD_SQUARED,
    MODEL_ERROR,
    MODEL_SQUARED,
    TARGET_ERROR,
    TARGET_SQUARED,
    VARIANCE,
)

_Cells = dict[tuple[str, str], Cell]  # by (game, arm)


def tables(compared: Comparison) -> list[Table]:
    """Returns the errors of the arms over each trial's own variance, as registered, and over one
    that they share.
    """
    return [_over_own_variance(compared), _over_shared_variance(compared)]


def _over_own_variance(compared: Comparison) -> Table:
    kinds = _kinds(compared, HEAD_ERROR, MODEL_ERROR, "audit-excess", TARGET_ERROR)
    note = (
        "Audit of all stored past policies together: squared errors of their values over the "
        "variance of real returns, "
        "trial by trial; 1 is a constant, 0 is perfect. audit-head: no imagined step; audit-model: "
        "after K; "
        "audit-excess: what the steps add; audit-target: what they learn from. Not available in a "
        "game where noise may "
        "explain all variance of a trial. An arm whose returns vary more has smaller errors here, "
        "by that alone: see "
        f"the next table. {RESAMPLED}"
    )
    rows = _rows(compared, kinds, dict.fromkeys(compared.games, 1.0))
    return Table("value_equivalence", "Value equivalence", _columns(compared), rows, note)


def _over_shared_variance(compared: Comparison) -> Table:
    kinds = _kinds(
        compared, HEAD_SQUARED, MODEL_SQUARED, "audit-excess-squared", TARGET_SQUARED, VARIANCE
    )
    units = {game: _mean_variance(kinds[VARIANCE], game) for game in compared.games}
    note = (
        "The same squared errors over the mean variance of the returns in all trials of a game: "
        "one measure for all "
        "arms, and no trial is left out. Not available in a game where that mean is not two "
        "standard errors above 0. "
        f"audit-variance: an arm's own variance by that measure. {RESAMPLED}"
    )
    title = "Value equivalence, over one variance a game"
    return Table(
        "value_equivalence_shared", title, _columns(compared), _rows(compared, kinds, units), note
    )


def _mean_variance(cells: _Cells, game: str) -> float:
    """Returns the mean variance of the returns over all trials of a game, NaN if it may be noise
    about 0.
    """
    found = [
        variance
        for (name, _), cell in cells.items()
        if name == game
        for variance in (cell.seeds or {}).values()
    ]
    known = len(found) > 1 and np.mean(found) > 2 * np.std(found, ddof=1) / np.sqrt(len(found))
    return float(np.mean(found)) if known else np.nan


def _columns(compared: Comparison) -> tuple[str, ...]:
    return ("error", "game", "counts", "arm", compared.arms[0], "of the arm", "difference", *ENDS)


def _kinds(
    compared: Comparison, head: str, model: str, excess: str, *others: str
) -> dict[str, _Cells]:
    """Returns the scores by kind; `excess` is what `model` has beyond `head`, trial by trial: the
    model's part.
    """
    found = {kind: comparison.cells(compared.rows, kind) for kind in (head, model, *others)}
    beyond = {}
    for key in found[head].keys() & found[model].keys():
        before, after = found[head][key].seeds or {}, found[model][key].seeds or {}
        if shared := {seed: after[seed] - before[seed] for seed in after.keys() & before.keys()}:
            beyond[key] = Cell(float(np.mean(list(shared.values()))), None, shared)
    return {
        head: found[head],
        model: found[model],
        excess: beyond,
        **{kind: found[kind] for kind in others},
    }


def _rows(compared: Comparison, kinds: dict[str, _Cells], units: dict[str, float]) -> list[tuple]:
    """Returns a row a kind, arm and game, errors in `units` of the game, and one of those that
    count and lack none.
    """
    rows, baseline = [], compared.arms[0]
    has_audit = {row.game for row in compared.rows if row.kind.startswith("audit")}
    audited = [game for game in compared.games if game in has_audit]
    for kind, cells in kinds.items():
        for arm in compared.arms[1:]:
            pair = arm, baseline
            whole = [
                game
                for game in audited
                if _is_whole(compared, cells, game, pair) and np.isfinite(units[game])
            ]
            for game in audited:
                errors = (
                    _difference(compared, cells, pair, [game], units)
                    if game in whole
                    else (None,) * 5
                )
                rows.append((kind, game, counts(compared, game), arm, *errors))
            counted = [game for game in whole if game in compared.compared]
            if len(counted) > 1:
                errors = _difference(compared, cells, pair, counted, units)
                rows.append((kind, f"all {len(counted)} that count", "", arm, *errors))
    return rows


def _difference(
    compared: Comparison,
    cells: _Cells,
    pair: tuple[str, str],
    games: list[str],
    units: dict[str, float],
) -> tuple:
    """Returns errors of the baseline and of the arm, their difference and its interval."""
    errors = [comparison.raw_matrix(cells, name, games) for name in pair]
    if any(each is None for each in errors):
        return (None,) * 5
    arm, baseline = (each / np.array([units[game] for game in games]) for each in errors)
    found = comparison.mean_difference(arm, baseline, compared.resamples)
    return float(baseline.mean()), float(arm.mean()), *interval(found)


def _is_whole(compared: Comparison, cells: _Cells, game: str, pair: tuple[str, str]) -> bool:
    """Returns whether every trial of these arms in a game has an error."""

    def num_seeds(found, arm):
        return len(found[game, arm].seeds or ()) if (game, arm) in found else 0

    return all(0 < num_seeds(compared.cells, arm) == num_seeds(cells, arm) for arm in pair)
