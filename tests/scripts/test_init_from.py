"""train.py --init-from: weights of another run."""

import json
import re
import shutil

import jax
import numpy as np
import pytest

from configs.serialise import from_dict, to_dict
from learner.loop import Counters
from learner.records.run_directory import RunDirectory
from scripts import train
from scripts.program import commands
from scripts.training import whole_run
from scripts.training.beginning import Start
from tests.scripts.runs import begun, stored

pytestmark = pytest.mark.timeout(900)  # several programs a test, on a machine that may be busy


@pytest.mark.parametrize("suffix, step", [("", 8), ("@8", 8), ("@latest", 8), ("@0", 0)])
def test_init_from_takes_the_weights_and_nothing_else(smoke, suffix, step, tmp_path):
    path, _ = smoke
    config = from_dict(json.loads((path / "config.json").read_text()))
    load_params = whole_run.initial_params(
        config, commands.check_environment(config), f"{path}{suffix}"
    )
    RunDirectory.create(tmp_path / "new", to_dict(config), ["test"], {})
    state, counters = begun(tmp_path / "new", Start(load_params=load_params))
    source = stored(path, step).state
    for name in ("params", "search_average", "target_average"):
        found = jax.tree.leaves(getattr(state, name)._asdict())
        expected = jax.tree.leaves(source["search_average"])
        assert len(found) == len(expected) > 20
        for left, right in zip(found, expected, strict=True):
            np.testing.assert_array_equal(left, right)
    assert counters == Counters()
    assert (int(state.num_updates), int(state.value_buffer.num_pushed)) == (0, 0)


def test_init_from_takes_a_path_with_an_at_sign(smoke, call, tmp_path):
    shutil.copytree(smoke[0], tmp_path / "run@home")
    assert call(train, "smoke", "--dry-run", "--init-from", str(tmp_path / "run@home"))[0] == 0
    assert call(train, "smoke", "--dry-run", "--init-from", f"{tmp_path / 'run@home'}@8")[0] == 0
    code, _, error = call(train, "smoke", "--dry-run", "--init-from", f"{tmp_path / 'run@home'}@7")
    assert code == 2 and "no checkpoint 7" in error


def test_init_from_is_checked_by_a_dry_run(smoke, call):
    assert call(train, "smoke", "--init-from", f"{smoke[0]}@8", "--dry-run")[0] == 0


def test_a_run_that_died_before_its_first_checkpoint_gives_no_weights(smoke, call, tmp_path):
    shutil.copy(smoke[0] / "config.json", tmp_path)
    code, _, error = call(train, "smoke", "--dry-run", "--init-from", str(tmp_path))
    assert code == 2 and "no checkpoint in" in error


@pytest.mark.parametrize(
    "arguments, message",
    [
        (("smoke", "--init-from", "{run}@7"), r"no checkpoint 7 in .*; there are \[0, 8\]"),
        (
            ("smoke", "--init-from", "{run}@soon"),
            "checkpoint = soon: must be latest, best or a number of updates",
        ),
        (("smoke", "--init-from", "{run}@best"), "checkpoint = best: .* has none"),
        (
            ("smoke", "--init-from", "{run}-nowhere"),
            "-nowhere holds no run: there is no config.json",
        ),
        (
            ("cartpole", "--init-from", "{run}"),
            r"its environment breakout has .*48, 48.*, CartPole-v1 has ",
        ),
        (
            ("smoke", "--env.name", "ms_pacman", "--init-from", "{run}"),
            "breakout has .*num_actions=4.*num_actions=9",
        ),
        (
            ("smoke", "--network.latent-size", "17", "--init-from", "{run}"),
            "another network: network.latent_size: 16 -> 17",
        ),
        (
            ("smoke", "--support.num-bins", "23", "--init-from", "{run}"),
            "another network: support.num_bins: 21 -> 23",
        ),
    ],
)
def test_weights_that_do_not_fit_are_refused(
    smoke, call, tmp_path, monkeypatch, arguments, message
):
    monkeypatch.chdir(tmp_path)
    code, _, error = call(
        train, *(argument.replace("{run}", str(smoke[0])) for argument in arguments)
    )
    assert code == 2
    (line,) = error.splitlines()
    assert line.startswith("error: ") and re.search(message, line)
    assert list(tmp_path.iterdir()) == []
