"""The format of results."""

import pytest

from configs.schema import ConfigError
from scripts.experiments import results
from scripts.experiments.results import CURVE, Results
from tests.scripts.experiments.made_up import HEADER, trial


def test_results_come_back_as_they_were_written(tmp_path):
    rows = (
        trial(game='odd, "name"', score=0.1 + 0.2, episodes=3),
        trial(seed=None, kind=CURVE, score=None),
    )
    written = Results(("source: a test",), rows)
    results.write(tmp_path / "r.csv", written)
    assert results.read(tmp_path / "r.csv") == written


@pytest.mark.parametrize(
    "text, message",
    [
        ("a,b\n", "the header must be suite,game"),
        ("", "the header must be suite,game"),
        (f"{HEADER}\n", "has no rows: no trial has finished yet"),
        (
            f"{HEADER}\ns,pong,muzero,0,100,best,1,,,\n",
            "line 2: kind = best: must be one of last-10-percent",
        ),
        (
            f"{HEADER}\ns,pong,muzero,0,100,greedy,many,,,\n",
            "line 2: score = many: must be a number",
        ),
        (f"{HEADER}\ns,pong,muzero,0,100,greedy,nan,,,\n", "line 2: score = nan: must be finite"),
        (
            f"{HEADER}\ns,pong,muzero,-1,100,greedy,1,,,\n",
            "line 2: seed = -1: must be finite, not negative",
        ),
        (f"# c\n{HEADER}\ns,,muzero,0,100,greedy,1,,,\n", "line 3: game is empty"),
        (f"{HEADER}\ns,pong,muzero,0\n", "line 2: 4 columns, must be 10"),
        (
            f"{HEADER}\n" + 2 * "s,pong,muzero,0,100,greedy,1,,,\n",
            "pong, muzero, seed 0: more than one row",
        ),
        (
            f"{HEADER}\ns,pong,a,0,1,greedy,1,,,\ns,pong,a,,1,greedy,1,,,\n",
            "rows with and without a seed",
        ),
        (
            f"{HEADER}\ns,pong,a,0,1,greedy,1,,,\nz,pong,a,1,1,greedy,1,,,\n",
            "suite = s, z: a file holds exactly one",
        ),
    ],
)
def test_a_bad_file_is_refused_in_one_line(tmp_path, text, message):
    (tmp_path / "r.csv").write_text(text)
    with pytest.raises(ConfigError) as error:
        results.read(tmp_path / "r.csv")
    assert message in str(error.value) and "\n" not in str(error.value)


def test_a_spreadsheets_mark_and_empty_lines_are_no_fault(tmp_path):
    (tmp_path / "r.csv").write_text(
        f"\ufeff{HEADER}\ns,pong,muzero,0,100,greedy,1,,,\n\n", encoding="utf-8"
    )
    assert [row.game for row in results.read(tmp_path / "r.csv").rows] == ["pong"]
