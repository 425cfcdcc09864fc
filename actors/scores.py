"""Human-normalised Atari scores.

`atari_scores.csv` holds the random and human scores of the 57 games as printed in table 3 of Grimm et
al., "Proper Value Equivalence", NeurIPS 2021; `game` is the ROM's name in ale_py.
"""

import csv
import functools
from importlib import resources

from actors import atari


@functools.cache
def _random_and_human() -> dict[str, tuple[float, float]]:
    text = resources.files("actors").joinpath("atari_scores.csv").read_text()
    return {row["game"]: (float(row["random"]), float(row["human"])) for row in csv.DictReader(text.splitlines())}


def human_normalised(name: str, score: float) -> float | None:
    """Returns `score` on the axis where 0 is random and 1 human play, None if the table has no such game.

    Args:
      name: any spelling that `atari.find_game` knows, or any other environment's name.
      score: mean unclipped return of whole games.
    """
    game = atari.find_game(name)
    if game is None or game.kwargs["game"] not in _random_and_human():
        return None
    random, human = _random_and_human()[game.kwargs["game"]]
    return (score - random) / (human - random)
