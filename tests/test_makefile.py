"""The Makefile takes the newest Python that works."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
WORKS, BROKEN = "exit 0", "echo 'command not found' >&2; exit 127"


@pytest.mark.parametrize(
    "launchers, chosen",
    [
        ({"python3.11": WORKS, "python3.12": WORKS, "python3.13": WORKS}, "python3.13"),
        ({"python3.11": WORKS, "python3.12": WORKS}, "python3.12"),
        (
            {"python3.11": WORKS, "python3.13": BROKEN},
            "python3.11",
        ),  # a launcher without an interpreter behind it
    ],
)
def test_install_takes_the_newest_python_that_works(tmp_path, launchers, chosen):
    assert f"{chosen} -m venv new" in install(tmp_path, launchers).stdout


def test_the_python_can_be_named(tmp_path):
    assert "mine -m venv new" in install(tmp_path, {"python3.13": WORKS}, "PYTHON=mine").stdout


def test_without_a_python_it_says_what_it_needs(tmp_path):
    done = install(tmp_path, {}, dry=False)
    assert done.returncode == 2 and "needs one of python3.13 python3.12 python3.11" in done.stderr
    assert not (tmp_path / "new").exists()


def install(folder, launchers, *arguments, dry=True):
    """Returns the finished `make install` where nothing but these programs and a shell can be
    found.
    """
    for name, body in launchers.items():
        (folder / name).write_text(f"#!/bin/sh\n{body}\n")
        (folder / name).chmod(0o755)
    (folder / "sh").symlink_to(shutil.which("sh"))
    for name in ("pyproject.toml", "constraints.txt"):
        (folder / name).touch()
    command = [
        shutil.which("make"),
        "-f",
        ROOT / "Makefile",
        *(("-n",) if dry else ()),
        "install",
        "VENV=new",
        *arguments,
    ]
    environment = {**os.environ, "PATH": str(folder)}
    return subprocess.run(
        command,
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
