"""What a score is worth: the axis on which 0 is random play and 1 a published score.

`atari_scores.csv` holds the random and human scores of the 57 games as printed in table 3 of Grimm
et al., "Proper Value Equivalence", NeurIPS 2021; `game` is the ROM's name in ale_py.

`minatar_scores.csv` holds, for the minimal action sets (`-v1`), the mean return of the uniformly
random policy, `play_randomly(stream, num_episodes=1000, seed=0)` with
`stream = Stream(make_environment(EnvConfig(game), training=False), seed=2**31, reward_clip=None)`
(Freeway: 200 games), and the return of a PPO agent published in the table of environments of gymnax
0.0.4 (R. T. Lange, 2022, README).  That agent played without sticky actions and at most 1,000 steps
a game: it gives the games a common unit and is no baseline of ours.  The table lists no Seaquest,
which therefore has no normalised score.
"""

import csv
import functools
from collections.abc import Sequence
from importlib import resources
from typing import NamedTuple

import gymnasium
from scipy import stats

from actors import atari


class Scale(NamedTuple):
    """Two scores of a game that define its normalised axis."""

    zero: float  # the random policy's
    one: float  # human, or published
    source: str  # of both, a few words

    def normalise(self, score: float) -> float:
        """Returns `score` on this axis."""
        return (score - self.zero) / (self.one - self.zero)


_ATARI_SOURCE = "random and human scores of table 3, Grimm et al. 2021"
_MINATAR_SOURCE = "random policy measured here; 1 is gymnax 0.0.4's published PPO return"


def _rows(file: str) -> list[dict[str, str]]:
    return list(csv.DictReader(resources.files("actors").joinpath(file).read_text().splitlines()))


@functools.cache
def _atari_scales() -> dict[str, Scale]:
    rows = _rows("atari_scores.csv")
    return {
        row["game"]: Scale(float(row["random"]), float(row["human"]), _ATARI_SOURCE) for row in rows
    }


@functools.cache
def _minatar_scales() -> dict[str, Scale]:
    rows = [row for row in _rows("minatar_scores.csv") if row["published"]]
    return {
        row["game"]: Scale(float(row["random"]), float(row["published"]), _MINATAR_SOURCE)
        for row in rows
    }


def scale(name: str) -> Scale | None:
    """Returns the normalised axis of an environment, None if no published scores are known for it.

    Args:
      name: any spelling that `atari.find_game` knows, a MinAtar id with its version, or any other
        environment's name.
    """
    if name in _minatar_scales():
        return _minatar_scales()[name]
    registered = gymnasium.registry.get(name)
    if registered is not None and registered.entry_point != atari.EMULATOR_ENTRY_POINT:
        return None  # somebody's own Pong-v0
    game = atari.find_game(name)
    return None if game is None else _atari_scales().get(game.kwargs["game"])


def human_normalised(name: str, score: float) -> float | None:
    """Returns `score` on the axis where 0 is random and 1 human play, None if the table has no such
    game.

    Args:
      name: any spelling that `atari.find_game` knows, or any other environment's name.
      score: mean unclipped return of whole games.
    """
    axis = None if name in _minatar_scales() else scale(name)
    return None if axis is None else axis.normalise(score)


def standard_error(scores: Sequence[float]) -> float | None:
    """Returns the standard error of the mean of `scores`, None for fewer than two."""
    return float(stats.sem(scores)) if len(scores) > 1 else None
