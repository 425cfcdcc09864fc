"""suite.py: dry runs, what is refused, how many trials run at once."""

import os
import re

import pytest

from configs import suite as suites
from configs.schema import ConfigError
from scripts import suite
from scripts.experiments import driver


def test_a_dry_run_prints_the_commands_and_starts_nothing(tmp_path, capsys):
    arguments = [
        "run",
        "minatar",
        "--out",
        str(tmp_path / "out"),
        "--seeds",
        "7",
        "--frames",
        "99",
        "--dry-run",
    ]
    assert suite.main(arguments) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 10 and all(
        line.startswith("python scripts/train.py minatar --run-dir ") for line in lines
    )
    assert all("--seed 7 --stop.num-frames 99" in line for line in lines)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["nothing"], "suite = nothing: must be one of"),
        (
            ["minatar", "--games", "MinAtar/Pong-v1"],
            "env.name = MinAtar/Pong-v1: unknown environment",
        ),
        (["minatar", "--seeds", "4", "4"], "seeds = [4, 4]: has duplicates"),
        (["minatar", "--jobs", "0"], "--jobs = 0: must be above 0"),
        (
            ["atari57", "--games", "pong"],
            "suite atari57: its actors need a cluster; give --ray-address",
        ),
        (
            ["minatar", "--ray-address", "127.0.0.1:1"],
            "--ray-address 127.0.0.1:1: no Ray cluster answers there",
        ),
    ],
)
def test_bad_arguments_are_refused_before_anything_is_made(tmp_path, arguments, message):
    with pytest.raises(ConfigError, match=re.escape(message)):
        suite.main(["run", *arguments, "--out", str(tmp_path / "out")])
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    "name, address, num_cpus, room",
    [
        ("minatar", None, 2, 2),
        ("minatar", "auto", 2, 50),  # Ray keeps the others waiting
        ("atari57", "auto", 294, 3),  # 2 CPUs and 96 actors each
        ("atari57", "auto", 293, 2),
        ("atari57", "auto", 16, 1),
    ],
)
def test_no_more_trials_start_than_there_are_cpus_for_their_actors(
    name, address, num_cpus, room, monkeypatch
):
    monkeypatch.setattr(driver.ray, "cluster_resources", lambda: {"CPU": float(num_cpus)})
    assert driver._room(suites.load(name), address) == room
