"""The installed commands: they exist, start as programs of ours from any directory, and so do their
children.
"""

import contextlib
import importlib.metadata
import json
import os
import runpy
import subprocess
import sys
import time
from pathlib import Path

import pytest

from scripts.program import console, process, reexecution

COMMANDS = ("train", "resume", "evaluate", "suite", "report", "look")
BIN = Path(sys.executable).parent
PLAIN = {
    name: value for name, value in os.environ.items() if name not in ("LD_PRELOAD", "MALLOC_CONF")
}


@pytest.fixture
def elsewhere(tmp_path):
    """Returns a directory whose own packages have the names of ours,
    and end whoever imports them.
    """
    for name in ("scripts", "configs", "muzero"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("raise SystemExit('not ours')")
    return tmp_path


def output(command, folder):
    done = subprocess.run(
        command, cwd=folder, env=PLAIN, capture_output=True, text=True, timeout=200, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_every_program_of_a_user_has_a_command():
    ours = {
        entry.name: entry.value
        for entry in importlib.metadata.entry_points(group="console_scripts")
        if entry.name.startswith("muzero-")
    }
    assert ours == {f"muzero-{name}": f"scripts.program.console:{name}" for name in COMMANDS}
    assert all((BIN / name).exists() for name in ours)


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_runs_its_entry_point_as_the_main_program(name):
    command = getattr(console, name)
    assert command.func is runpy.run_module and command.args == (f"scripts.{name}",)
    assert command.keywords == {"run_name": "__main__", "alter_sys": True}
    assert (reexecution.PROGRAMS / f"{name}.py").is_file()


def test_a_command_starts_from_any_directory(elsewhere):
    settings = json.loads(output([BIN / "muzero-train", "smoke", "--dry-run"], elsewhere))
    assert settings["env"]["name"] == "breakout"


@pytest.mark.parametrize("name", COMMANDS)
def test_the_help_of_a_command_names_it(elsewhere, name):
    assert output([BIN / f"muzero-{name}", "--help"], elsewhere).startswith(
        f"usage: muzero-{name} "
    )


@pytest.mark.parametrize(
    "typed, name",
    [
        (("python", "/bin/muzero-train", "smoke"), "muzero-train"),
        (("python", "scripts/train.py", "smoke"), "train.py"),
        (("python", "-P", "-m", "scripts.train", "smoke"), "train.py"),
        (("python", "/bin/muzero-resume", "muzero-train"), "train.py"),
    ],
)
def test_a_program_knows_the_name_it_was_called_by(monkeypatch, typed, name):
    monkeypatch.setattr(sys, "orig_argv", list(typed))
    monkeypatch.setattr(sys, "argv", ["train.py", typed[-1]])
    assert process.called_as("train") == name


def test_a_child_by_module_starts_from_any_directory(elsewhere):
    command = [sys.executable, *process.run_as_module("train", "smoke", "--dry-run")]
    assert json.loads(output(command, elsewhere))["env"]["name"] == "breakout"
    tied = process.tied_command(*process.run_as_module("train", "smoke", "--dry-run"))
    assert json.loads(output(tied, elsewhere))["env"]["name"] == "breakout"


@pytest.mark.skipif(
    not reexecution.jemalloc_env_vars(), reason="Ray brings no jemalloc to this machine"
)
def test_a_command_starts_again_with_jemalloc(elsewhere):
    library = reexecution.jemalloc_env_vars()["LD_PRELOAD"]
    command = [BIN / "muzero-train", "smoke", "--dry-run"]
    with subprocess.Popen(command, cwd=elsewhere, env=PLAIN, stdout=subprocess.PIPE) as program:
        preloaded = []
        while program.poll() is None:
            with contextlib.suppress(OSError):  # it has ended
                preloaded.append(
                    f"LD_PRELOAD={library}" in Path(f"/proc/{program.pid}/environ").read_text()
                )
            time.sleep(0.01)
        settings = json.load(program.stdout)
    assert not preloaded[0] and any(preloaded)  # the same process, with the same arguments
    assert program.returncode == 0 and settings["env"]["name"] == "breakout"


def test_what_a_user_is_told_to_type_can_be_typed_here(monkeypatch, tmp_path):
    assert process.spelling("resume") == "python scripts/resume.py"  # a checkout
    monkeypatch.setattr(process, "PROGRAMS", tmp_path / "scripts")
    assert process.spelling("resume") == "muzero-resume"
