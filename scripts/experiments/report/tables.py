"""The tables of a report: what was compared, and what the statistics say."""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from actors.scores import scale
from scripts.experiments import comparison
from scripts.experiments.comparison import Cell, Estimate
from scripts.experiments.results import CONSTANT, GREEDY, RANDOM, SAMPLED, Row

MISSING = "not available"
ENDS = ("95 %: low", "95 %: high")
_WELCH_ENDS = ("95 % by Welch: low", "95 % by Welch: high")
RESAMPLED = (
    "Intervals: the seeds of both arms are resampled within every game. With few seeds they are "
    "too narrow: "
    "with five a game they hold the truth in 87 of 100 cases for one game, and in 91 for the mean "
    "over four."
)
_WELCH = "Those by Welch are t intervals of the same difference, which hold it in 95."


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
    # By game: scores of the random policy, which plays the same games for every arm
    random: dict[str, Cell | None]
    constant: dict[str, Cell | None]  # by game: scores of the best constant action, likewise
    compared: list[str]  # games with a score in every arm that are not known to be unlearned
    normalised: list[str]  # those of them that have a normalised axis
    resamples: int

    def learned(self, game: str, arm: str) -> bool | None:
        """Returns whether an arm has learned a game; see `comparison.has_learned`."""
        return comparison.has_learned(
            self.cells.get((game, arm)), self.random[game], self.constant[game]
        )

    def runs(self, arm: str) -> np.ndarray | None:
        """Returns the normalised scores of an arm [seeds, games], None without scores of single
        seeds.
        """
        return comparison.matrix(self.cells, arm, self.normalised) if self.normalised else None

    def is_uneven(self) -> bool:
        """Returns whether some arm has not as many single seeds in every game."""
        return any(len({len(x) for x in self.seeds(arm, self.normalised)}) > 1 for arm in self.arms)

    def seeds(self, arm: str, games: list[str]) -> list[np.ndarray]:
        """Returns the raw scores of an arm, [seeds] a game; [0] where there are none of single
        seeds.
        """
        return [np.array(list((self.cells[game, arm].seeds or {}).values())) for game in games]

    def normalised_seeds(self, arms: Iterable[str], games: list[str]) -> list[list[np.ndarray]]:
        """Returns the normalised scores of each arm, [seeds] a game."""
        axes = list(map(scale, games))
        return [
            [axis.normalise(x) for axis, x in zip(axes, self.seeds(arm, games), strict=True)]
            for arm in arms
        ]

    def raw(self, arm: str, games: list[str]) -> np.ndarray:
        """Returns the mean scores of an arm [games]."""
        return np.array([self.cells[game, arm].mean for game in games])


def compare(rows: tuple[Row, ...], kind: str, baseline: str, resamples: int) -> Comparison:
    """Returns the comparison of all arms with `baseline` by the scores of `kind`."""
    arms = [baseline, *(arm for arm in dict.fromkeys(row.arm for row in rows) if arm != baseline)]
    games = list(dict.fromkeys(row.game for row in rows))
    cells = comparison.cells(rows, kind)
    random, constant = (
        _of_any_arm(comparison.cells(rows, blind), games, arms) for blind in (RANDOM, CONSTANT)
    )
    everything = Comparison(rows, kind, arms, cells, games, random, constant, [], [], resamples)

    def is_scored(game):
        return all((game, arm) in cells for arm in arms)

    compared = [
        game
        for game in games
        if is_scored(game) and everything.learned(game, baseline) is not False
    ]
    return everything._replace(
        compared=compared, normalised=[game for game in compared if scale(game) is not None]
    )


def _of_any_arm(
    cells: dict[tuple[str, str], Cell], games: list[str], arms: list[str]
) -> dict[str, Cell | None]:
    """Returns what the first arm that has them says of players that are no arm's own."""
    return {
        game: next((cells[game, arm] for arm in arms if (game, arm) in cells), None)
        for game in games
    }


def tables(compared: Comparison) -> list[Table]:
    """Returns the tables of a report, in order; those of the audits are in `report_audits`."""
    made = (_differences, _tests, _aggregates, _wall_time, _game_differences, _games, _seeds)
    return [make(compared) for make in made]


def _games(compared: Comparison) -> Table:
    columns = [
        "game",
        "counts",
        "random",
        "random: standard error",
        "constant",
        "constant: standard error",
    ]
    above = ("standard errors above random", "standard errors above constant")
    for arm in compared.arms:
        columns += [
            arm,
            *(
                f"{arm}: {what}"
                for what in ("standard error", "seeds", *above, "learned", "normalised")
            ),
        ]
    nothing, rows = Cell(None, None, None), []
    for game in compared.games:
        blind = [compared.random[game] or nothing, compared.constant[game] or nothing]
        row = [
            game,
            counts(compared, game),
            *(value for cell in blind for value in (cell.mean, cell.standard_error)),
        ]
        for arm in compared.arms:
            cell = compared.cells.get((game, arm), nothing)
            seeds = None if cell.seeds is None else len(cell.seeds)
            beyond = [comparison.errors_above(cell, other) for other in blind]
            learned = {True: "yes", False: "no", None: None}[compared.learned(game, arm)]
            row += [
                cell.mean,
                cell.standard_error,
                seeds,
                *beyond,
                learned,
                comparison.normalised(game, cell.mean),
            ]
        rows.append(tuple(row))
    sources = sorted({axis.source for axis in map(scale, compared.games) if axis is not None})
    note = (
        f"An arm has learned a game if it is more than {comparison.NUM_STANDARD_ERRORS:g} standard "
        f"errors of the "
        "difference above random play and above the best constant action, all over seeds. A game "
        "counts if "
        f"{compared.arms[0]} has, as far as the file can tell. Normalised scores: "
        f"{'; '.join(sources) or MISSING}."
    )
    return Table("games", "Every game: mean over seeds", tuple(columns), rows, note, by_game=True)


def _seeds(compared: Comparison) -> Table:
    # Not in older files
    later = [SAMPLED] if any(row.kind == SAMPLED for row in compared.rows) else []
    kinds = list(dict.fromkeys((compared.kind, *later, GREEDY)))
    by_kind, rows = [comparison.cells(compared.rows, kind) for kind in kinds], []
    for game in compared.games:
        cells = [found.get((game, arm)) for found in by_kind for arm in compared.arms]
        scores = [{} if cell is None or cell.seeds is None else cell.seeds for cell in cells]
        rows += [
            (game, str(seed), *(each.get(seed) for each in scores))
            for seed in sorted(set().union(*scores))
        ]
    columns = ("game", "seed", *(f"{arm}: {kind}" for kind in kinds for arm in compared.arms))
    note = (
        "The arms of a seed begin with the same parameters and environments; the intervals do not "
        "use that."
    )
    return Table("seeds", "Every trial", columns, rows, note, by_game=True)


def counts(compared: Comparison, game: str) -> str:
    """Returns whether a game counts in what is said of all games together, and if not, why."""
    baseline = compared.cells.get((game, compared.arms[0]))
    if compared.learned(game, compared.arms[0]) is False:
        return "no: not learned, no evidence"
    if game not in compared.compared:
        return "no: an arm has no score"
    blind = {"random play": compared.random[game], "a constant action": compared.constant[game]}
    unknown = [
        name for name, cell in blind.items() if comparison.errors_above(baseline, cell) is None
    ]
    checked = f", not checked against {' or '.join(unknown)}" if unknown else ""
    return f"yes{checked}" if game in compared.normalised else f"yes, raw scores only{checked}"


def learned_line(compared: Comparison) -> list[str]:
    """Returns how many games every arm has learned, in a line; none for a file without constant
    actions.
    """
    if not any(compared.constant.values()):
        return []
    found = "; ".join(f"{arm} {_count_learned(compared, arm)}" for arm in compared.arms)
    return [f"Games learned (better than random play and than any one button held): {found}."]


def _count_learned(compared: Comparison, arm: str) -> str:
    verdicts = [compared.learned(game, arm) for game in compared.games]
    unknown = f", {verdicts.count(None)} unknown" if None in verdicts else ""
    return f"{verdicts.count(True)} of {len(verdicts)}{unknown}"


def interval(estimate: Estimate | None) -> tuple:
    """Returns value, low and high of an estimate, None for what is not available."""
    if estimate is None:
        return None, None, None
    return estimate.value, *(estimate.interval or (None, None))


def _known(compared: Comparison, name: str, estimate: Estimate) -> Estimate | None:
    """Returns the estimate; None for an interquartile mean over runs in one arm and over games in
    another.
    """
    return None if name == "interquartile mean" and compared.is_uneven() else estimate


def _aggregates(compared: Comparison) -> Table:
    rows = []
    for arm in compared.arms if compared.normalised else []:
        mean = comparison.means(compared.cells, arm, compared.normalised)
        for name, estimate in comparison.aggregate(
            compared.runs(arm), mean, compared.resamples
        ).items():
            rows.append((arm, name, *interval(_known(compared, name, estimate))))
    columns = ("arm", "over games", "normalised score", *ENDS)
    note = f"Stratified bootstrap over the seeds of every game, {compared.resamples:,} resamples."
    return Table(
        "aggregates", f"All {len(compared.normalised)} games together", columns, rows, note
    )


def _differences(compared: Comparison) -> Table:
    rows, baseline, games = [], compared.arms[0], compared.normalised
    for arm in compared.arms[1:]:
        if games:
            both = tuple(comparison.means(compared.cells, name, games) for name in (arm, baseline))
            found = comparison.difference(
                compared.runs(arm), compared.runs(baseline), both, compared.resamples
            )
            exact = comparison.welch(*compared.normalised_seeds((arm, baseline), games))
            for name, estimate in found.items():
                resampled = interval(_known(compared, name, estimate))
                by_welch = interval(exact)[1:] if name == "mean" else (None, None)
                rows.append((arm, f"normalised score, {name}", len(games), *resampled, *by_welch))
        pair = [
            comparison.raw_matrix(compared.cells, name, compared.compared)
            for name in (arm, baseline)
        ]
        chance = comparison.probability_of_improvement(*pair, compared.resamples)
        rows.append(
            (
                arm,
                "probability of improvement",
                len(compared.compared),
                *interval(chance),
                None,
                None,
            )
        )
    columns = ("arm", f"difference to {baseline}", "games", "value", *ENDS, *_WELCH_ENDS)
    note = (
        f"{RESAMPLED} {_WELCH} An interval of a probability that ends at 0 or 1 is narrower than "
        f"so few seeds can say. "
        "What is resampled needs the same number of seeds in every game."
    )
    return Table("effects", "Effects over games", columns, rows, note)


def _game_differences(compared: Comparison) -> Table:
    rows, baseline = [], compared.arms[0]
    for game in compared.games:
        for arm in compared.arms[1:]:
            if not all((game, name) in compared.cells for name in (arm, baseline)):
                continue
            pair = [comparison.raw_matrix(compared.cells, name, [game]) for name in (arm, baseline)]
            means = [compared.cells[game, name].mean for name in (arm, baseline)]
            found = Estimate(means[0] - means[1], None)
            if all(scores is not None for scores in pair):
                found = comparison.mean_difference(*pair, compared.resamples)
            exact = comparison.welch(*(compared.seeds(name, [game]) for name in (arm, baseline)))
            chance = comparison.probability_of_improvement(*pair, compared.resamples)
            row = (*interval(found), *interval(exact)[1:], *interval(chance))
            rows.append((game, counts(compared, game), arm, *row))
    score, chance = f"raw score, difference to {baseline}", "probability of improvement"
    columns = (
        "game",
        "counts",
        "arm",
        score,
        *ENDS,
        *_WELCH_ENDS,
        chance,
        *(f"{chance}, {end}" for end in ENDS),
    )
    return Table(
        "game_effects",
        "Effects, game by game",
        columns,
        rows,
        f"{RESAMPLED} {_WELCH}",
        by_game=True,
    )


def _tests(compared: Comparison) -> Table:
    rows, baseline = [], compared.arms[0]
    for arm in compared.arms[1:]:
        raw = [compared.raw(name, compared.compared) for name in (arm, baseline)]
        rows.append((arm, "raw", *_test(*raw)))
        if compared.normalised:
            scores = [
                comparison.means(compared.cells, name, compared.normalised)[0]
                for name in (arm, baseline)
            ]
            rows.append((arm, "normalised", *_test(*scores)))
        else:
            rows.append((arm, "normalised", 0, None, None, None))
    columns = ("arm", f"scores, against {baseline}", "games", "W", "p", "smallest p possible")
    note = (
        "Two-sided Wilcoxon signed-rank test over the games' mean scores (scipy); equal scores are "
        "dropped."
    )
    return Table("tests", "Tests over games", columns, rows, note)


def _test(scores: np.ndarray, baseline: np.ndarray) -> tuple:
    found = comparison.wilcoxon_test(scores, baseline)
    return (len(scores), None, None, None) if found is None else tuple(found)


def _wall_time(compared: Comparison) -> Table:
    rows = []
    for arm in compared.arms:
        trials = [row for row in compared.rows if row.arm == arm and row.kind == compared.kind]
        hours = [row.wall_seconds / 3600 for row in trials if row.wall_seconds is not None]
        rows.append(
            (
                arm,
                len(hours),
                sum(hours) / len(hours) if hours else None,
                sum(hours) if hours else None,
            )
        )
    return Table(
        "wall_time", "Wall time", ("arm", "trials timed", "hours, mean", "hours, all"), rows
    )
