"""What is checked before anything starts."""

import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces

from actors import scores
from actors.environments import EnvironmentSpec
from configs.presets import PRESETS
from configs.schema import ConfigError, EnvConfig
from scripts.program import commands

ROOT = Path(__file__).resolve().parents[3]


def test_a_machine_without_its_devices_is_refused_in_jaxs_words(monkeypatch):
    monkeypatch.setenv("JAX_PLATFORMS", "nonsense")
    with pytest.raises(ConfigError, match="JAX finds no device here: RuntimeError: .*nonsense"):
        commands.check_machine(PRESETS["atari-paper"])


class Lying(gymnasium.Env):
    """Says uint8 pixels, returns floats."""

    observation_space = spaces.Box(0, 255, (3, 20, 20), np.uint8)
    action_space = spaces.Discrete(2)
    observation = np.full((3, 20, 20), 0.5)

    def reset(self, *, seed=None, options=None):
        return self.observation, {}

    def step(self, action):
        raise RuntimeError("no such lever")


class Broken(Lying):
    """Fails in its first decision."""

    observation = np.zeros((3, 20, 20), np.uint8)


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (Lying, "ValueError: .*of float64 from 0.5 to 0.5, allowed: Box"),
        (Broken, r"RuntimeError: no such lever \(.*test_commands.py, line \d+\)"),
    ],
)
def test_an_environment_that_fails_or_lies_is_refused_in_one_line(monkeypatch, kind, message):
    spec = gymnasium.envs.registration.EnvSpec("test/Own-v0", entry_point=lambda: kind())
    monkeypatch.setitem(gymnasium.registry, "test/Own-v0", spec)
    config = dataclasses.replace(PRESETS["smoke"], env=EnvConfig("test/Own-v0"))
    with pytest.raises(ConfigError, match=f"env.name = test/Own-v0: .*: {message}") as caught:
        commands.check_environment(config)
    assert "\n" not in str(caught.value)


def test_an_own_game_of_an_atari_game_s_name_has_no_human_score(monkeypatch):
    spec = gymnasium.envs.registration.EnvSpec("Pong-v0", entry_point=Lying)
    assert scores.human_normalised("Pong", 14.6) is not None
    monkeypatch.setitem(gymnasium.registry, "Pong-v0", spec)
    assert scores.human_normalised("Pong-v0", 14.6) is None


@pytest.mark.parametrize(("shape", "is_noted"), [((3, 40, 40), True), ((40, 40, 3), False)])
def test_images_that_seem_to_have_their_channels_first_are_noted(shape, is_noted):
    note = commands.channels_note(EnvironmentSpec(shape, "uint8", 2, 1))
    assert (note is not None) is is_noted
    assert not is_noted or "taken for 40 channels of 3×40" in note


def test_programs_find_the_modules_of_the_user_and_not_their_own(tmp_path):
    """`python scripts/train.py` has its folder first on the path, where `memory` is ours."""
    (tmp_path / "memory.py").write_text("OWN = True")
    program = (
        "import sys; sys.path.insert(0, sys.argv[1]); import scripts; "
        "from actors.environments import _import_module; _import_module('memory', 'memory:A-v0'); "
        "sys.modules['memory'].OWN"
    )
    command = [sys.executable, "-P", "-c", program, str(ROOT / "scripts")]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    subprocess.run(command, check=True, cwd=tmp_path, env=environment)
