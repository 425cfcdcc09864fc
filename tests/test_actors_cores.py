"""Claims of cores: exclusive between processes, whole or not at all, gone with their holder."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from actors import cores

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """A machine of four cores whose claims nobody else sees; the claims of this process end with the test."""
    monkeypatch.setattr(cores.tempfile, "gettempdir", lambda: str(tmp_path))
    monkeypatch.setattr(cores.os, "sched_getaffinity", lambda pid: {0, 1, 2, 3})
    yield tmp_path
    while cores._held:
        cores._held.pop().close()


def test_claims_are_disjoint_and_whole_or_nothing(machine):
    assert cores.claim_cores(1) == (3,)
    assert cores.claim_cores(2) == (1, 2)
    assert cores.claim_cores(2) is None  # one is left, and stays free
    assert cores.claim_cores(1) == (0,)
    assert cores.claim_cores(1) is None


def test_a_claim_ends_with_the_process_that_holds_it(machine):
    code = "import os; os.sched_getaffinity = lambda pid: {0, 1, 2, 3}; from actors.cores import claim_cores as claim; "
    code += "print(claim(3), flush=True); input()"
    holder = subprocess.Popen(
        [sys.executable, "-c", code], cwd=ROOT, env=os.environ | {"TMPDIR": str(machine)}, stdin=subprocess.PIPE,
        stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert holder.stdout.readline().strip() == "(1, 2, 3)"
    assert cores.claim_cores(2) is None
    holder.kill()
    holder.wait()
    assert cores.claim_cores(4) == (0, 1, 2, 3)
