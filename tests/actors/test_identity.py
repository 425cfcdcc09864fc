"""Driver and worker of different code: refused with what differs, before anything of the worker's
is built.
"""

import shutil
from pathlib import Path

import pytest

from actors import identity
from actors.worker import PickledBuilder

ROOT = Path(__file__).resolve().parents[2]
ROOMS = ("muzero", "actors", "learner", "configs", "scripts")


def test_the_same_code_passes():
    identity.require_same_code(dict(identity.code_identity()))


@pytest.mark.parametrize(
    "name", ["actors", "muzero", "learner", "configs", "scripts", "jax", "python"]
)
def test_a_difference_is_named(name):
    assert name in identity.code_identity()
    other = identity.code_identity() | {name: "0.0"}
    with pytest.raises(
        identity.CodeMismatch, match=f"runs other code than the driver: {name}: 0.0 in the driver, "
    ):
        identity.require_same_code(other)


def test_a_file_more_or_a_byte_less_is_another_code(tmp_path):
    (tmp_path / "a.py").write_text("x = 1\n")
    first = identity._digest(tmp_path)
    (tmp_path / "b.py").touch()
    second = identity._digest(tmp_path)
    (tmp_path / "a.py").write_text("x = 2\n")
    assert len({first, second, identity._digest(tmp_path)}) == 3


def test_a_file_more_in_any_folder_of_the_code_is_another_code(tmp_path, monkeypatch):
    for room in ROOMS:
        shutil.copytree(ROOT / room, tmp_path / room, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(identity, "_ROOT", tmp_path)
    known = identity.code_identity.__wrapped__()
    folders = {file.parent for file in tmp_path.rglob("*.py")}
    assert len(folders) >= len(ROOMS) + 10
    for folder in folders:
        (folder / "one_more.py").touch()
        found = identity.code_identity.__wrapped__()
        (folder / "one_more.py").unlink()
        assert {name for name in found if found[name] != known[name]} == {
            folder.relative_to(tmp_path).parts[0]
        }


def test_a_worker_of_other_code_builds_nothing(monkeypatch):
    built = []
    builder = PickledBuilder(built.append)
    builder._identity = builder._identity | {"scripts": "other"}
    with pytest.raises(identity.CodeMismatch, match="scripts: other in the driver"):
        builder(seed=1)
    assert built == []
