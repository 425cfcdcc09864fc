"""A comparison of made-up arms; a suite and stand-ins for its programs."""

import pytest

from configs import suite as suites
from scripts.experiments.report import tables
from scripts.experiments.results import LAST_FRAMES
from tests.scripts.experiments.made_up import made_up
from tests.scripts.experiments.stand_ins import SUITE, make_programs


@pytest.fixture(scope="module")
def compared():
    return tables.compare(made_up(), LAST_FRAMES, "muzero", 200)


@pytest.fixture
def found(tmp_path):
    (tmp_path / "tiny.toml").write_text(SUITE)
    return suites.load(str(tmp_path / "tiny.toml"))


@pytest.fixture
def importable(tmp_path, monkeypatch):
    """Has every process that is started from here find the stand-ins in `tmp_path`."""
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    return tmp_path


@pytest.fixture
def programs(importable):
    """Returns the package of stand-ins that are over at once."""
    return make_programs(importable / "programs", 0.0)
