"""One smoke run for all tests of programs: they only read it, or copy it."""

import fcntl
import os
import pickle
import sys

import pytest
import ray

from scripts.program import commands
from tests.scripts.runs import EVERY_ROW, NO_CHECKPOINT_BETWEEN, Programs


@pytest.fixture(scope="session")
def programs():
    return Programs()


@pytest.fixture(scope="session")
def smoke(programs, tmp_path_factory):
    """Returns (run directory, completed process) of `train.py smoke`; tests only read it.

    The processes of `make test` share it: the first that asks runs it, the others wait.
    """
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "smoke"
    folder.mkdir(exist_ok=True)
    path, record = folder / "run", folder / "done"
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not record.exists():
            done = programs.run(
                "train", "smoke", "--run-dir", path, *EVERY_ROW, *NO_CHECKPOINT_BETWEEN
            )
            record.write_bytes(pickle.dumps(done))
    return path, pickle.loads(record.read_bytes())


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
