"""One smoke run for all tests of programs: they only read it, or copy it."""

import os
import sys

import pytest
import ray

from scripts.program import commands
from tests.scripts.runs import EVERY_ROW, NO_CHECKPOINT_BETWEEN, Programs


@pytest.fixture(scope="session")
def programs(tmp_path_factory):
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    return Programs(shared / "compiled")


@pytest.fixture(scope="session")
def smoke(programs, tmp_path_factory):
    """Returns (run directory, completed process) of `train.py smoke`; tests only read it."""
    path = tmp_path_factory.mktemp("smoke") / "run"
    settings = (*EVERY_ROW, *NO_CHECKPOINT_BETWEEN)
    return path, programs.run("train", "smoke", "--run-dir", path, *settings)


@pytest.fixture
def call(monkeypatch, capsys):
    """Returns `call(program, *arguments) -> (exit code, stdout, stderr)` in this process, where Ray
    must not start.
    """

    def refuse(*args, **kwargs):
        raise AssertionError("Ray was started")

    monkeypatch.setattr(ray, "init", refuse)

    def run(program, *arguments):
        monkeypatch.setattr(sys, "argv", [program.__file__, *map(str, arguments)])
        try:
            code = commands.run(program.main)
        except SystemExit as end:  # tyro's own
            code = end.code
        return code, *capsys.readouterr()

    return run
