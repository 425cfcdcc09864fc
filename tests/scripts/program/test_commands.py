"""What is checked before anything starts."""

import pytest

from configs.presets import PRESETS
from configs.schema import ConfigError
from scripts.program import commands


def test_a_machine_without_its_devices_is_refused_in_jaxs_words(monkeypatch):
    monkeypatch.setenv("JAX_PLATFORMS", "nonsense")
    with pytest.raises(ConfigError, match="JAX finds no device here: RuntimeError: .*nonsense"):
        commands.check_machine(PRESETS["atari-paper"])
