"""Rows of results that nobody has trained for."""

import numpy as np

from scripts.experiments import comparison
from scripts.experiments.results import CONSTANT, CURVE, LAST_FRAMES, RANDOM, Row

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
                rows += [
                    trial(game, arm, seed, CURVE, factor * score * k, frames=50 * k) for k in (1, 2)
                ]
    return tuple(rows)


def by_game(made):
    return {row[0]: dict(zip(made.columns, row, strict=True)) for row in made.rows}


def cell(mean, standard_error=4.0):
    return comparison.Cell(mean, standard_error, None)
