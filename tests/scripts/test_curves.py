"""curves.py on a whole run."""

import csv
import re
import shutil

import pytest

from configs.schema import ConfigError
from learner.records.run_directory import RunDirectory
from scripts import curves
from scripts.experiments.curves import names
from tests.scripts.runs import rows

pytestmark = pytest.mark.timeout(900)  # several programs a test, on a machine that may be busy


def test_curves_of_a_run(smoke, call, tmp_path):
    code, _, error = call(curves, smoke[0], "--out", tmp_path / "new" / "mine")
    assert (code, error) == (0, "")
    lines = (tmp_path / "new" / "mine-curves.csv").read_text().splitlines()
    assert lines[0] == "run,environment,seed,num_frames,num_updates,wall_seconds,episode/return"
    assert lines[1].startswith("run,breakout,0,")
    assert len(lines) - 1 == sum("episode/return" in row for row in rows(smoke[0])) > 0
    with (tmp_path / "new" / "mine-scores.csv").open() as file:
        scores = [
            (row["environment"], row["seed"], row["protocol"], row["episodes"])
            for row in csv.DictReader(file)
        ]
    players = ("constant", "greedy", "random", "sampled")
    assert scores == [("breakout", "0", player, "1") for player in players]
    assert (tmp_path / "new" / "mine.png").stat().st_size > 1000


def test_runs_of_one_seed_are_told_apart(tmp_path):
    directories = [RunDirectory(tmp_path / name) for name in ("a/run", "b/run", "c")]
    assert names(directories) == ["a/run", "b/run", "c"]
    assert names(directories[:1]) == ["run"]


def test_curves_of_nothing_of_one_run_twice_and_of_a_damaged_run_are_refused(smoke, call, tmp_path):
    shutil.copytree(smoke[0], tmp_path / "run", ignore=shutil.ignore_patterns("checkpoints"))
    with (tmp_path / "run" / "metrics.jsonl").open("a") as file:
        file.write("{bad}\n")
    for runs, message in (
        ((), "give at least one run directory"),
        ((smoke[0], smoke[0]), "one of these runs stands there twice"),
        ((tmp_path / "run",), "is damaged: .*; take the bad line out to go on"),
    ):
        code, _, error = call(curves, *runs, "--out", tmp_path / "mine")
        assert code == 2 and re.search(message, error) and len(error.splitlines()) == 1


def test_curves_of_a_run_without_a_game_are_refused(smoke, call, tmp_path):
    shutil.copytree(smoke[0], tmp_path / "run")
    (tmp_path / "run" / "metrics.jsonl").write_text('{"num_frames": 1}\n{"num_fr')
    with pytest.raises(ConfigError, match="no game has been finished yet"):
        curves.main([str(tmp_path / "run"), "--out", str(tmp_path / "mine")])
    assert not (tmp_path / "mine-curves.csv").exists()
