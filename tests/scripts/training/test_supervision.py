"""The supervisor: what it runs after which end, with children that only end."""

import signal
import sys

import pytest

from scripts.program.exit_codes import RESTARTABLE, ExitCode
from scripts.training import supervision


@pytest.fixture
def ends(monkeypatch, tmp_path):
    """Returns (commands run so far, `let(*exit codes)`, run directory); nothing sleeps, nothing is
    started.
    """
    commands, codes = [], []
    monkeypatch.setattr(
        supervision, "_run", lambda command: (commands.append(command), (codes.pop(0), False))[1]
    )
    monkeypatch.setattr(supervision.time, "sleep", lambda seconds: commands.append(seconds))
    return commands, codes.extend, tmp_path


def run(path, max_restarts=2):
    return supervision.supervise(["train", "smoke"], path, ["--ray-address", "auto"], max_restarts)


def test_a_dead_learner_is_resumed_until_it_ends(ends):
    commands, let, path = ends
    (path / "config.json").touch()
    let([-signal.SIGKILL, ExitCode.ACTORS_LOST, ExitCode.DONE])
    assert run(path) == 0
    programs = [command[1:] for command in commands if isinstance(command, list)]
    again = ["-P", "-m", "scripts.resume", str(path), "--ray-address", "auto"]
    assert programs == [["-P", "-m", "scripts.train", "smoke"], again, again]
    assert [x for x in commands if isinstance(x, float)] == [1.0, 2.0]


def test_a_run_that_died_before_it_began_is_started_again(ends):
    commands, let, path = ends
    let([ExitCode.CRASH, ExitCode.DONE])
    assert run(path) == 0
    assert commands[0] == commands[2] and "scripts.train" in commands[0]


@pytest.mark.parametrize("code", [code for code in ExitCode if code not in RESTARTABLE])
def test_what_cannot_pass_is_not_tried_again(ends, code):
    commands, let, path = ends
    let([code])
    assert run(path) == code and len(commands) == 1


def test_the_restarts_are_counted(ends):
    commands, let, path = ends
    let([-signal.SIGKILL] * 3)
    assert run(path) == 128 + signal.SIGKILL
    assert len([x for x in commands if isinstance(x, list)]) == 3


@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP", "SIGUSR1"])
def test_a_real_child_gets_the_signal_once_and_is_not_restarted(tmp_path, name):
    """It tells its parent to end, as a cluster manager would, and ends with the code of a saved
    run.
    """
    (tmp_path / "child.py").write_text(
        "import os, signal, sys, time\n"
        f"signal.signal(signal.{name}, lambda *_: sys.exit(143))\n"
        f"os.kill(os.getppid(), signal.{name})\n"
        "time.sleep(60)\n"
    )
    assert supervision._run([sys.executable, str(tmp_path / "child.py")]) == (143, True)


@pytest.mark.parametrize(
    "given", [["--max-restarts", "3"], ["--max-restarts=3"], ["--max_restarts", "3"], []]
)
def test_the_option_is_taken_out(given):
    assert supervision.without(["smoke", *given, "--seed", "3"], "--max-restarts") == [
        "smoke",
        "--seed",
        "3",
    ]
