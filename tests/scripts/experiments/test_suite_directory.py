"""The directory of a suite: whose it is, how it grows, what of it travels."""

import dataclasses
import json
import re

import pytest

from configs import suite as suites
from configs.presets import PRESETS
from configs.schema import ConfigError
from scripts.experiments import results, suite_directory
from tests.scripts.experiments.stand_ins import run_all


def test_a_directory_belongs_to_one_suite(found, tmp_path):
    suite_directory.open_out(found, tmp_path / "out")
    suite_directory.open_out(found, tmp_path / "out")
    other = suites.overridden(found, None, (1, 3), None)
    message = "suite.json: of another suite (seeds: [1, 2] -> [1, 3]); choose another"
    with pytest.raises(ConfigError, match=re.escape(message)):
        suite_directory.open_out(other, tmp_path / "out")


def test_a_directory_grows_by_games_and_seeds_alone(found, tmp_path):
    def stated():
        return json.loads((tmp_path / "suite.json").read_text())

    suite_directory.open_out(found, tmp_path)
    suite_directory.open_out(
        suites.overridden(found, ("Acrobot-v1", *found.games), (1, 2, 3), None), tmp_path
    )
    assert (stated()["games"], stated()["seeds"]) == (["Acrobot-v1", "CartPole-v1"], [1, 2, 3])
    with pytest.raises(
        ConfigError, match=re.escape("seeds: [1, 2, 3] -> [1, 2]")
    ):  # its results would be lost
        suite_directory.open_out(found, tmp_path)
    assert stated()["seeds"] == [1, 2, 3]


def test_a_preset_that_has_changed_is_another_suite(found, tmp_path, monkeypatch):
    suite_directory.open_out(found, tmp_path)
    preset = PRESETS["cartpole"]
    changed = dataclasses.replace(preset, loss=dataclasses.replace(preset.loss, td_lambda=0.123))
    monkeypatch.setitem(PRESETS, "cartpole", changed)
    with pytest.raises(ConfigError, match="of another suite .preset_sha256: "):
        suite_directory.open_out(found, tmp_path)


def test_a_setting_that_is_added_with_its_default_changes_no_suite(found, monkeypatch):
    before, present = suite_directory.identity(found), suite_directory.to_dict
    monkeypatch.setattr(suite_directory, "to_dict", lambda config: present(config) | {"later": 1})
    assert suite_directory.identity(found) == before


def test_the_results_alone_carry_a_suite_to_another_machine(
    found, programs, tmp_path, monkeypatch, capsys
):
    """Two trials are finished on one machine; the other one gets results.csv and nothing else."""
    here, there, file = tmp_path / "here", tmp_path / "there", "results.csv"
    assert run_all(found, here, programs, monkeypatch) == found.trials()
    whole = results.read(here / file)
    half = tuple(row for row in whole.rows if row.seed == 1)
    elsewhere = (
        *(text for text in whole.comments if text.startswith("suite: ")),
        "commit: of the first machine",
    )
    there.mkdir()
    results.write(there / file, results.Results(elsewhere, half))

    assert run_all(found, there, programs, monkeypatch) == [
        trial for trial in found.trials() if trial.seed == 2
    ]
    assert "2 of 4 trials are finished already" in capsys.readouterr().out
    merged = results.read(there / file)
    assert merged.rows == whole.rows
    assert whole.comments[1:] == ("commit: of the trial",) and merged.comments == (
        *elsewhere,
        "commit: of the trial",
    )
    assert run_all(found, there, programs, monkeypatch) == []


def test_results_of_another_suite_are_not_carried_over(found, programs, tmp_path, monkeypatch):
    out, other = tmp_path / "out", suites.overridden(found, None, None, 2000)
    run_all(found, out, programs, monkeypatch)
    (out / "suite.json").unlink()
    with pytest.raises(
        ConfigError, match=re.escape("results.csv: of another suite (frames: 1000 -> 2000); choose")
    ):
        suite_directory.open_out(other, out)
    assert not (out / "suite.json").exists()
    results.write(out / "results.csv", results.Results((), results.read(out / "results.csv").rows))
    with pytest.raises(
        ConfigError,
        match="results.csv: does not say which suite it is of; choose another directory",
    ):
        suite_directory.open_out(found, out)
