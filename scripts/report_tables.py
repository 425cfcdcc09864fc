"""The tables of a report: what was compared, and what the statistics say."""

import itertools
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from actors.scores import scale
from scripts import comparison
from scripts.comparison import Cell, Estimate
from scripts.results import AUDIT_KINDS, Row

MISSING = "not available"
_RESAMPLED = "Intervals: the seeds of both arms are resampled within every game (rliable)."


class Table(NamedTuple):
    """A table of a report; cells are text, numbers, or None for what is not available."""

    name: str  # of its CSV file
    title: str
    columns: tuple[str, ...]
    rows: list[tuple]
    note: str = ""
    by_game: bool = False  # long: stands at the end of a page, and not on a terminal


class Comparison(NamedTuple):
    """Everything the tables and plots are made of."""

    rows: tuple[Row, ...]
    kind: str
    arms: list[str]  # the baseline first
    cells: dict[tuple[str, str], Cell]
    games: list[str]  # all of them
    learned: dict[str, bool | None]  # by game: does the baseline beat the random policy
    compared: list[str]  # games with a score in every arm that are not known to be unlearned
    normalised: list[str]  # those of them that have a normalised axis
    resamples: int

    def runs(self, arm: str) -> np.ndarray | None:
        """Returns the normalised scores of an arm [seeds, games], None without scores of single seeds."""
        return comparison.matrix(self.cells, arm, self.normalised) if self.normalised else None

    def raw(self, arm: str, games: list[str]) -> np.ndarray:
        """Returns the mean scores of an arm [games]."""
        return np.array([self.cells[game, arm].mean for game in games])


def compare(rows: tuple[Row, ...], kind: str, baseline: str, resamples: int) -> Comparison:
    """Returns the comparison of all arms with `baseline` by the scores of `kind`."""
    arms = [baseline, *(arm for arm in dict.fromkeys(row.arm for row in rows) if arm != baseline)]
    games = list(dict.fromkeys(row.game for row in rows))
    cells = comparison.cells(rows, kind)
    learned = {game: comparison.beats_random(rows, cells.get((game, baseline)), game, baseline) for game in games}
    compared = [game for game in games if all((game, arm) in cells for arm in arms) and learned[game] is not False]
    normalised = [game for game in compared if scale(game) is not None]
    return Comparison(rows, kind, arms, cells, games, learned, compared, normalised, resamples)


def tables(compared: Comparison) -> list[Table]:
    """Returns the tables of a report, in order."""
    made = (_tests, _differences, _aggregates, _value_equivalence, _wall_time, _game_differences, _games)
    return [make(compared) for make in made]


def _games(compared: Comparison) -> Table:
    columns = ["game", "counts"]
    for arm in compared.arms:
        columns += [arm, f"{arm}: standard error", f"{arm}: seeds", f"{arm}: normalised"]
    rows = []
    for game in compared.games:
        row = [game, _counts(compared, game)]
        for arm in compared.arms:
            cell = compared.cells.get((game, arm), Cell(None, None, None))
            seeds = None if cell.seeds is None else len(cell.seeds)
            row += [cell.mean, cell.standard_error, seeds, comparison.normalised(game, cell.mean)]
        rows.append(tuple(row))
    sources = sorted({axis.source for axis in map(scale, compared.games) if axis is not None})
    note = f"Normalised scores: {'; '.join(sources) or MISSING}."
    return Table("games", "Every game: mean over seeds", tuple(columns), rows, note, by_game=True)


def _counts(compared: Comparison, game: str) -> str:
    if compared.learned[game] is False:
        return "no: not learned, no evidence"
    if game not in compared.compared:
        return "no: an arm has no score"
    checked = "" if compared.learned[game] else ", not checked against random play"
    return f"yes{checked}" if game in compared.normalised else f"yes, raw scores only{checked}"


def _interval(estimate: Estimate | None) -> tuple:
    if estimate is None:
        return None, None, None
    return estimate.value, *(estimate.interval or (None, None))


def _aggregates(compared: Comparison) -> Table:
    rows = []
    for arm in compared.arms if compared.normalised else []:
        mean = comparison.means(compared.cells, arm, compared.normalised)
        for name, estimate in comparison.aggregate(compared.runs(arm), mean, compared.resamples).items():
            rows.append((arm, name, *_interval(estimate)))
    columns = ("arm", "over games", "normalised score", "95 %: low", "95 %: high")
    note = f"Stratified bootstrap over the seeds of every game (rliable), {compared.resamples:,} resamples."
    return Table("aggregates", f"All {len(compared.normalised)} games together", columns, rows, note)


def _differences(compared: Comparison) -> Table:
    rows, baseline = [], compared.arms[0]
    for arm in compared.arms[1:] if compared.normalised else []:
        pair = compared.runs(arm), compared.runs(baseline)
        both = tuple(comparison.means(compared.cells, name, compared.normalised) for name in (arm, baseline))
        found = comparison.difference(*pair, both, compared.resamples)
        rows += [(arm, f"{name}, difference", *_interval(estimate)) for name, estimate in found.items()]
        chance = comparison.probability_of_improvement(*pair, compared.resamples)
        rows.append((arm, "probability of improvement", *_interval(chance)))
    columns = ("arm", f"against {baseline}", "normalised score", "95 %: low", "95 %: high")
    return Table("effects", "Effects over games", columns, rows, _RESAMPLED)


def _game_differences(compared: Comparison) -> Table:
    rows, baseline = [], compared.arms[0]
    for game in compared.compared:
        for arm in compared.arms[1:]:
            pair = [comparison.raw_matrix(compared.cells, name, [game]) for name in (arm, baseline)]
            means = [compared.cells[game, name].mean for name in (arm, baseline)]
            found = Estimate(means[0] - means[1], None)
            if None not in map(type, pair) and all(scores is not None for scores in pair):
                found = comparison.mean_difference(*pair, compared.resamples)
            chance = comparison.probability_of_improvement(*pair, compared.resamples)
            rows.append((game, arm, *_interval(found), *_interval(chance)))
    score, chance = f"raw score, against {baseline}", "probability of improvement"
    ends = ("95 %: low", "95 %: high")
    columns = ("game", "arm", score, *ends, chance, *(f"{chance}, {end}" for end in ends))
    return Table("game_effects", "Effects, game by game", columns, rows, _RESAMPLED, by_game=True)


def _tests(compared: Comparison) -> Table:
    rows, baseline = [], compared.arms[0]
    for arm in compared.arms[1:]:
        raw = [compared.raw(name, compared.compared) for name in (arm, baseline)]
        rows.append((arm, "raw", *_test(*raw)))
        if compared.normalised:
            scores = [comparison.means(compared.cells, name, compared.normalised)[0] for name in (arm, baseline)]
            rows.append((arm, "normalised", *_test(*scores)))
        else:
            rows.append((arm, "normalised", 0, None, None, None))
    columns = ("arm", f"scores, against {baseline}", "games", "W", "p", "smallest p possible")
    note = "Two-sided Wilcoxon signed-rank test over the games' mean scores (scipy); equal scores are dropped."
    return Table("tests", "Tests over games", columns, rows, note)


def _test(scores: np.ndarray, baseline: np.ndarray) -> tuple:
    found = comparison.wilcoxon_test(scores, baseline)
    return (len(scores), None, None, None) if found is None else tuple(found)


def _value_equivalence(compared: Comparison) -> Table:
    rows, baseline = [], compared.arms[0]
    for kind, arm in itertools.product(AUDIT_KINDS, compared.arms[1:]):
        cells = comparison.cells(compared.rows, kind)
        games = [game for game in compared.compared if _is_audited(compared, cells, game, (arm, baseline))]
        groups = [(game, [game]) for game in games] + ([(f"all {len(games)}", games)] if len(games) > 1 else [])
        for name, group in groups:
            errors = [comparison.raw_matrix(cells, each, group) for each in (arm, baseline)]
            if all(each is not None for each in errors):
                found = comparison.mean_difference(*errors, compared.resamples)
                rows.append((kind, name, arm, float(errors[1].mean()), float(errors[0].mean()), *_interval(found)))
    columns = ("error", "game", "arm", baseline, "of the arm", "difference", "95 %: low", "95 %: high")
    note = (
        "Audit of all stored past policies together: squared errors of their values over the variance of real returns; "
        "1 is a constant, 0 is perfect. audit-head: no imagined step; audit-model: after K; audit-target: what they "
        f"learn from. A game is left out where a trial of the two arms has no error. {_RESAMPLED}"
    )
    return Table("value_equivalence", "Value equivalence", columns, rows, note)


def _is_audited(compared: Comparison, cells: dict[tuple[str, str], Cell], game: str, arms: Iterable[str]) -> bool:
    """Returns whether every trial of these arms in a game has an error."""
    num_seeds = lambda found, arm: len(found[game, arm].seeds or ()) if (game, arm) in found else 0
    return all(0 < num_seeds(compared.cells, arm) == num_seeds(cells, arm) for arm in arms)


def _wall_time(compared: Comparison) -> Table:
    rows = []
    for arm in compared.arms:
        trials = [row for row in compared.rows if row.arm == arm and row.kind == compared.kind]
        hours = [row.wall_seconds / 3600 for row in trials if row.wall_seconds is not None]
        rows.append((arm, len(hours), sum(hours) / len(hours) if hours else None, sum(hours) if hours else None))
    return Table("wall_time", "Wall time", ("arm", "trials timed", "hours, mean", "hours, all"), rows)
