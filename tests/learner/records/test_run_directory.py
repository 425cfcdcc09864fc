"""Run directories: one run each, one trainer at a time, and a record of where the numbers came
from.
"""

import datetime
import json
import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path
from unittest import mock

import pytest

from learner.records import run_directory
from learner.records.provenance import git_provenance
from learner.records.run_directory import (
    NotWritten,
    RunDirectory,
    RunDirectoryError,
    RunDirectoryInUse,
    default_path,
    write_atomically,
)

ROOT = Path(__file__).resolve().parents[3]
COMMAND = ["scripts/train.py", "--seed", "3"]


def create(path, config=None):
    return RunDirectory.create(path, config or {"seed": 3}, COMMAND, {"seed": 3})


def git(root, *arguments):
    identity = ["-c", "user.name=n", "-c", "user.email=e"]
    subprocess.run(["git", "-C", str(root), *identity, *arguments], check=True, capture_output=True)


def make_checkout(path):
    path.mkdir()
    git(path, "init")
    (path / "a.py").write_text("x = 1\n")
    git(path, "add", ".")
    git(path, "commit", "-m", "first")
    return path


def test_a_new_run_has_its_places_and_its_settings(tmp_path):
    run = create(tmp_path / "deep" / "run", {"loss": {"past_weight": 0.25}})
    assert RunDirectory.open(tmp_path / "deep" / "run").read_config() == {
        "loss": {"past_weight": 0.25}
    }
    assert sorted(path.name for path in run.path.iterdir()) == [
        "checkpoints",
        "config.json",
        "evaluations",
        "logs",
        "provenance.json",
        "tensorboard",
    ]
    assert run.checkpoints == tmp_path / "deep" / "run" / "checkpoints"
    assert run.metrics_file == tmp_path / "deep" / "run" / "metrics.jsonl"


def test_a_directory_with_a_run_is_refused_untouched(tmp_path):
    create(tmp_path / "run")
    before = (tmp_path / "run" / "config.json").read_bytes()
    with pytest.raises(RunDirectoryError, match=r"already holds a run.*scripts/resume\.py"):
        create(tmp_path / "run", {"seed": 4})
    assert (tmp_path / "run" / "config.json").read_bytes() == before


@pytest.mark.parametrize("trace", ["metrics.jsonl", "checkpoints/5"])
def test_remains_of_a_run_are_refused_too(tmp_path, trace):
    (tmp_path / trace).mkdir(parents=True)
    with pytest.raises(RunDirectoryError, match="already holds a run"):
        create(tmp_path)


def test_of_two_at_once_one_is_refused(tmp_path, monkeypatch):
    create(tmp_path / "run")
    # Both have looked, neither has written
    monkeypatch.setattr(RunDirectory, "_holds_a_run", lambda self: False)
    with pytest.raises(RunDirectoryError, match="already holds a run"):
        create(tmp_path / "run", {"seed": 4})
    assert RunDirectory.open(tmp_path / "run").read_config() == {"seed": 3}
    assert not list((tmp_path / "run").glob(".config*"))


def test_opening_what_is_no_run_says_so(tmp_path):
    with pytest.raises(RunDirectoryError, match="holds no run"):
        RunDirectory.open(tmp_path)


CHILD = """
import sys, time
from learner.records.run_directory import RunDirectory
with RunDirectory.open(sys.argv[1]).lock():
    print("locked", flush=True)
    time.sleep(60)
"""


def test_one_process_trains_at_a_time_and_death_frees_the_lock(tmp_path):
    run = create(tmp_path / "run")
    command = [sys.executable, "-c", CHILD, str(run.path)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout.readline() == "locked\n"
        with pytest.raises(RunDirectoryInUse) as error, run.lock():
            pass
        assert f"process {child.pid} on host {socket.gethostname()}" in str(error.value)
        child.send_signal(signal.SIGKILL)
    with run.lock():
        assert json.loads(run.lock_file.read_text())["pid"] == os.getpid()
        with pytest.raises(RunDirectoryInUse), RunDirectory.open(run.path).lock():
            pass
    with run.lock():
        pass


def test_every_session_leaves_a_record(tmp_path):
    run = create(tmp_path / "run")
    run.record_resume(["scripts/resume.py", "run"], {"seed": 3})
    start, resume = json.loads(run.provenance_file.read_text())
    assert (start["event"], resume["event"]) == ("start", "resume")
    assert (start["command"], resume["command"]) == (COMMAND, ["scripts/resume.py", "run"])
    assert start["seeds"] == {"seed": 3}
    assert start["packages"]["orbax-checkpoint"] == "0.12.8"
    assert start["python"] == "{}.{}.{}".format(*sys.version_info[:3])
    run.record_devices(["cpu:0 cpu"])
    assert json.loads(run.provenance_file.read_text()) == [
        start,
        resume | {"jax_devices": ["cpu:0 cpu"]},
    ]
    assert start["machine"]["memory_bytes"] > 2**28 and start["machine"]["num_cores"] >= 1
    assert start["machine"]["cpu"]
    started = datetime.datetime.fromisoformat(start["start_time"])
    assert started.utcoffset() == datetime.timedelta(0)
    assert abs(datetime.datetime.now(datetime.UTC) - started) < datetime.timedelta(minutes=1)


def test_uncommitted_changes_are_kept_in_full(tmp_path):
    root = make_checkout(tmp_path / "code")
    clean = git_provenance(root)
    assert (clean["diff"], clean["untracked"], clean["reason"]) == ("", [], None)
    (root / "a.py").write_text("x = 2\n")
    git(root, "add", ".")  # staged changes are changes
    (root / "b.py").write_text("y = 1\n")
    dirty = git_provenance(root)
    assert len(dirty["commit"]) == 40 and dirty["commit"] == clean["commit"]
    assert "-x = 1\n+x = 2\n" in dirty["diff"]
    assert dirty["untracked"] == ["b.py"]


def test_without_git_there_is_a_reason(tmp_path, monkeypatch):
    root = make_checkout(tmp_path / "code")
    (root / "vendored").mkdir()
    assert git_provenance(root / "vendored") == {
        "commit": None,
        "diff": None,
        "untracked": None,
        "reason": "the code is not the top of a git checkout",
    }
    (root / "vendored" / "COMMIT").write_text("0123abc\n")  # as docker/Dockerfile does
    assert git_provenance(root / "vendored")["commit"] == "0123abc"
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert "not a git repository" in git_provenance(tmp_path)["reason"]
    monkeypatch.setenv("PATH", str(tmp_path))
    assert git_provenance(root)["reason"] == "there is no git program"


def test_a_failed_write_leaves_the_old_file(tmp_path):
    write_atomically(tmp_path / "x.json", "old")
    with pytest.raises(UnicodeEncodeError):
        write_atomically(tmp_path / "x.json", "new \ud800")
    assert [path.name for path in tmp_path.iterdir()] == ["x.json"]
    assert (tmp_path / "x.json").read_text() == "old"


def test_a_record_that_cannot_be_written_is_told_as_such(tmp_path, monkeypatch):
    run = create(tmp_path / "run")
    monkeypatch.setattr(
        run_directory, "write_atomically", mock.Mock(side_effect=OSError(28, "No space left"))
    )
    for write in (lambda: run.record_devices(["cpu:0"]), lambda: run.record_resume(["resume"], {})):
        with pytest.raises(NotWritten, match="provenance.json cannot be written: .*No space left"):
            write()


def test_the_default_path_names_the_run():
    now = datetime.datetime(2025, 1, 2, 3, 4, 5, tzinfo=datetime.UTC)
    one, other = (default_path("paper", "ALE/MsPacman-v5", 7, now=now) for _ in range(2))
    assert re.fullmatch("runs/paper-ALE_MsPacman-v5-7-20250102T030405Z-[0-9a-f]{4}", one.as_posix())
    assert one != other  # of one second


@pytest.mark.parametrize("name", ["a[b]c", "a[", "back\\slash"])
def test_paths_that_checkpoints_cannot_be_read_from_are_refused(tmp_path, name):
    with pytest.raises(RunDirectoryError, match=r"no \[ and no \\ in the path of a run"):
        create(tmp_path / name)
    with pytest.raises(RunDirectoryError, match="choose or rename"):
        RunDirectory.open(tmp_path / name)
    assert not (tmp_path / name).exists()
