"""A comparison of made-up arms."""

import pytest

from scripts.experiments.report import tables
from scripts.experiments.results import LAST_FRAMES
from tests.scripts.experiments.made_up import made_up


@pytest.fixture(scope="module")
def compared():
    return tables.compare(made_up(), LAST_FRAMES, "muzero", 200)
