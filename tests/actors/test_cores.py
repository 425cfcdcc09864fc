"""Claims of cores: exclusive between processes, whole or not at all, gone with their holder."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from actors import cores

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """A machine of four cores whose claims nobody else sees; the claims of this process end with
    the test.
    """
    monkeypatch.setattr(cores.tempfile, "gettempdir", lambda: str(tmp_path))
    monkeypatch.setattr(cores.os, "sched_getaffinity", lambda pid: {0, 1, 2, 3})
    monkeypatch.setattr(cores, "_QUOTA", tmp_path / "cpu.max")
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
    code = (
        "import os; os.sched_getaffinity = lambda pid: {0, 1, 2, 3}; from actors.cores import "
        "claim_cores as claim; "
    )
    code += "print(claim(3), flush=True); input()"
    holder = subprocess.Popen(
        [sys.executable, "-c", code], cwd=ROOT, env=os.environ | {"TMPDIR": str(machine)},
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert holder.stdout.readline().strip() == "(1, 2, 3)"
    assert cores.claim_cores(2) is None
    holder.kill()
    holder.wait()
    assert cores.claim_cores(4) == (0, 1, 2, 3)


@pytest.mark.parametrize(
    "quota, usable, pinned_to",
    [(None, 4, {3}), ("max 100000", 4, {3}), ("250000 100000", 2, None), ("9 90", 1, None)],
)
def test_a_container_with_a_share_of_time_has_threads_in_place_of_cores(
    machine, monkeypatch, quota, usable, pinned_to
):
    pinned = []
    monkeypatch.setattr(cores.os, "sched_setaffinity", lambda pid, cores: pinned.append(set(cores)))
    monkeypatch.setenv("PJRT_NPROC", "")
    if quota is not None:
        (machine / "cpu.max").write_text(f"{quota}\n")
    assert cores.usable_cores() == usable
    assert cores.keep_to_cores(1) == (pinned_to and tuple(pinned_to))
    assert pinned == ([] if pinned_to is None else [pinned_to])
    assert os.environ["PJRT_NPROC"] == "1"


def test_xla_has_as_many_threads_as_it_is_told():
    count = "import jax, os; jax.devices(); tasks = os.listdir('/proc/self/task'); "
    count += (
        "print(sum('XLAEigen' in open(f'/proc/self/task/{task}/comm').read() for task in tasks))"
    )
    for told in ("1", "3"):
        environment = os.environ | {"PJRT_NPROC": told, "JAX_PLATFORMS": "cpu"}
        output = subprocess.run(
            [sys.executable, "-c", count],
            env=environment,
            capture_output=True,
            check=True,
            text=True,
        )
        assert output.stdout.strip() == told
