"""resume.py: runs that go on after their end, a kill, an interrupt, a damage."""

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import psutil
import pytest

from configs.schema import ConfigError, StopConfig
from learner.records.run_directory import RunDirectory
from scripts import resume
from scripts.program.exit_codes import ExitCode
from scripts.training import whole_run
from scripts.training.beginning import Start
from scripts.training.recording import Recording
from tests.scripts.runs import (
    EVERY_ROW,
    ROOT,
    SECONDS,
    begun,
    board,
    column,
    complete_steps,
    leaves,
    rows,
    rows_of_a_torn_file,
    stored,
    strictly_increasing,
)

pytestmark = pytest.mark.timeout(900)  # several programs a test, on a machine that may be busy


@pytest.fixture(scope="module")
def resumed(smoke, programs, tmp_path_factory):
    """Returns (run directory, completed process) of a copy of the smoke run that was resumed for 4
    more updates.
    """
    path = tmp_path_factory.mktemp("resumed") / "run"
    shutil.copytree(smoke[0], path)
    return path, programs.run("resume", path, "--stop.num-updates", 12)


def test_resume_continues_counters_schedule_and_buffer(smoke, resumed):
    path, done = resumed
    assert done.returncode == 0, done.stderr
    assert "saved after 12 updates" in done.stdout
    assert column(path, "num_updates") == list(range(1, 13))
    assert rows(path)[:8] == rows(smoke[0])
    assert strictly_increasing(column(path, "num_frames")) and strictly_increasing(
        column(path, "wall_seconds")
    )
    # The workers start afresh
    assert column(path, "num_frames")[8] - column(path, "num_frames")[7] == 2 * 7 * 4
    # The schedule of the run, not a new one
    assert column(path, "optimiser/learning_rate")[8:] == [0.0] * 4
    assert column(path, "value_buffer/filled")[8:] == [2.0] * 4
    counters = stored(path).metadata["counters"]
    assert (counters["num_updates"], counters["num_batches"]) == (12, 12)
    assert counters["num_frames"] == column(path, "num_frames")[-1]
    episodes = (path / "episodes.jsonl").read_text()
    assert episodes.startswith((smoke[0] / "episodes.jsonl").read_text())
    assert counters["num_episodes"] == len(episodes.splitlines())


def test_resume_keeps_the_settings_and_adds_to_provenance(smoke, resumed):
    path, _ = resumed
    assert (path / "config.json").read_text() == (smoke[0] / "config.json").read_text()
    start, again = json.loads((path / "provenance.json").read_text())
    assert (start["event"], again["event"]) == ("start", "resume")
    assert again["command"] == ["scripts/resume.py", str(path), "--stop.num-updates", "12"]


def test_tensorboard_goes_on_without_gap_or_overlap(resumed):
    path, _ = resumed
    assert [point.step for point in board(path).Scalars("loss/total")] == column(path, "num_frames")


def test_a_resumed_session_does_not_play_the_same_games_again(resumed):
    path, _ = resumed
    logs = (path / "logs" / "worker-000.log").read_text()
    seeds = re.findall(r"seed (\d+)", logs)
    assert len(seeds) == len(set(seeds)) == 2


def wait_for(condition, process):
    deadline = time.monotonic() + SECONDS
    while not condition():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline, "nothing happened"
        time.sleep(0.02)


def end(process, number):
    """Sends a signal to the whole process group, as a terminal or a cluster manager does; returns
    the output.
    """
    os.killpg(process.pid, number)
    return process.communicate(timeout=SECONDS)[0]


@contextlib.contextmanager
def held(process):
    """Stops a process while the block looks at what it has written."""
    assert process.poll() is None, process.communicate()[0]
    process.send_signal(signal.SIGSTOP)
    while psutil.Process(process.pid).status() != psutil.STATUS_STOPPED:
        assert process.poll() is None, process.communicate()[0]
    yield
    process.send_signal(signal.SIGCONT)  # nothing if the block has ended it


@pytest.fixture(scope="module")
def killed(programs, tmp_path_factory):
    """Returns the run directory of a run that was killed with rows beyond its last checkpoint."""
    path = tmp_path_factory.mktemp("killed") / "run"
    often = ("--log.checkpoint-interval-minutes", "0.003")
    limit = ("--stop.num-updates", "60")
    process = programs.start("train", "smoke", "--run-dir", path, *EVERY_ROW, *often, *limit)

    def is_killed_in_the_middle():
        with held(process):  # else it may save, or end, between the look and the kill
            steps = complete_steps(path)
            if (
                not steps
                or not 0 < steps[-1] < len((path / "metrics.jsonl").read_text().splitlines()) - 1
            ):
                return False
            end(process, signal.SIGKILL)
            return True

    wait_for(is_killed_in_the_middle, process)
    assert process.returncode == -signal.SIGKILL
    assert rows_of_a_torn_file(path)[-1]["num_updates"] < 60, "it was over before the kill"
    return path


def test_a_resumed_session_starts_from_the_very_state_of_the_checkpoint(killed, tmp_path):
    path = tmp_path / "run"
    shutil.copytree(killed, path)
    checkpoint = stored(path)
    state, counters = begun(path, Start(resume=True))
    assert counters._asdict() == checkpoint.metadata["counters"]
    assert int(state.num_updates) == checkpoint.step > 0
    restored = leaves(state)
    expected = {
        jax.tree_util.keystr(k, simple=True, separator="/"): v for k, v in leaves(checkpoint.state)
    }
    assert len(restored) == len(expected) > 100
    for keys, leaf in restored:
        name = jax.tree_util.keystr(keys, simple=True, separator="/")
        np.testing.assert_array_equal(leaf, expected[name], err_msg=name)
    Recording(RunDirectory.open(path), counters, is_resumed=True, num_frames=None).close()
    # Rows beyond it are cut
    assert column(path, "num_updates") == list(range(1, checkpoint.step + 1))


def test_a_killed_run_reaches_its_end_without_gap_or_overlap(killed, programs, tmp_path):
    path = tmp_path / "run"
    shutil.copytree(killed, path)
    last = complete_steps(path)[-1]
    kept = [row for row in rows_of_a_torn_file(path) if row["num_updates"] <= last]
    lost = rows_of_a_torn_file(path)[len(kept) :]
    done = programs.run("resume", path)
    assert done.returncode == 0, done.stderr
    assert column(path, "num_updates") == list(range(1, 61))
    assert strictly_increasing(column(path, "num_frames")) and strictly_increasing(
        column(path, "wall_seconds")
    )
    assert len(kept) == last > 0 and lost, "the kill has to cost something, or this shows nothing"
    assert rows(path)[: len(kept)] == kept and rows(path)[len(kept)] != lost[0]
    assert complete_steps(path)[-1] == 60 and len(complete_steps(path)) == 3
    counters = stored(path).metadata["counters"]
    assert (counters["num_updates"], counters["num_frames"]) == (60, column(path, "num_frames")[-1])
    frames = [
        json.loads(line)["num_frames"]
        for line in (path / "episodes.jsonl").read_text().splitlines()
    ]
    assert frames == sorted(frames) and set(frames) <= set(column(path, "num_frames"))
    assert counters["num_episodes"] == len(frames)


@pytest.fixture(scope="module")
def interrupted(programs, tmp_path_factory):
    """Returns (run directory, outputs, exit codes, answer of a second program meanwhile) of Ctrl-C,
    then SIGTERM.
    """
    path = tmp_path_factory.mktemp("interrupted") / "run"
    arguments = ("smoke", "--run-dir", path, *EVERY_ROW, "--stop.num-updates", 10**6)
    first = programs.start("train", *arguments)
    wait_for(
        lambda: (path / "metrics.jsonl").exists() and len(rows_of_a_torn_file(path)) > 2, first
    )
    meanwhile = programs.run("resume", path)
    output = end(first, signal.SIGINT)
    count = len(rows(path))
    second = programs.start("resume", path, "--stop.minutes", 60.0)
    wait_for(lambda: len(rows_of_a_torn_file(path)) > count + 2, second)
    outputs = output, end(second, signal.SIGTERM)
    return path, outputs, (first.returncode, second.returncode), meanwhile, count


@pytest.mark.parametrize("session_number, name, code", [(0, "SIGINT", 130), (1, "SIGTERM", 143)])
def test_an_interrupt_saves_and_says_how_to_go_on(interrupted, session_number, name, code):
    path, outputs, codes, _, _ = interrupted
    assert codes[session_number] == code == ExitCode[name], outputs[session_number]
    assert f"{name}: finishing the batch, then saving." in outputs[session_number]
    # Those of the resumed session, which no file has
    limits = "" if session_number == 0 else " --stop.minutes 60.0"
    assert (
        f"interrupted; go on with: python scripts/resume.py {path}{limits}\n"
        in outputs[session_number]
    )
    assert "Traceback" not in outputs[session_number]


def test_an_interrupted_run_has_saved_its_last_row(interrupted):
    path, outputs, _, _, count = interrupted
    assert complete_steps(path)[-1] == column(path, "num_updates")[-1]
    assert f"saved after {count} updates" in outputs[0]
    assert (
        column(path, "num_updates") == list(range(1, len(rows(path)) + 1))
        and len(rows(path)) > count + 2
    )
    assert stored(path).metadata["counters"]["num_frames"] == column(path, "num_frames")[-1]


def test_a_run_directory_in_use_is_refused_with_the_holder(interrupted):
    path, _, _, meanwhile, _ = interrupted
    assert meanwhile.returncode == 2
    (line,) = meanwhile.stderr.splitlines()
    assert re.fullmatch(
        rf"error: {path} is in use: process \d+ on host \S+ trains in it\. .*", line
    )


def test_a_run_that_lost_every_checkpoint_but_the_first_starts_over(smoke, tmp_path):
    path = tmp_path / "run"
    shutil.copytree(smoke[0], path)
    shutil.rmtree(path / "checkpoints" / "8")
    state, counters = begun(path, Start(resume=True))
    assert counters.num_updates == 0 and int(state.num_updates) == 0
    Recording(RunDirectory.open(path), counters, is_resumed=True, num_frames=None).close()
    assert (path / "metrics.jsonl").read_text() == (path / "episodes.jsonl").read_text() == ""


def test_a_run_that_died_before_its_first_checkpoint_starts(smoke, programs, tmp_path):
    """A write that was killed half-way is all that is there."""
    path = tmp_path / "run"
    shutil.copytree(smoke[0], path)
    for slot in (path / "checkpoints").iterdir():
        shutil.rmtree(slot)
    (path / "checkpoints" / "0").mkdir()
    (path / "metrics.jsonl").write_text("")
    done = programs.run("resume", path, "--stop.num-updates", "2")
    assert done.returncode == 0, done.stderr
    assert "saved after 2 updates" in done.stdout and complete_steps(path) == [0, 2]

    provenance = json.loads((path / "provenance.json").read_text())
    provenance[0]["command"] += ["--init-from=runs/other"]
    (path / "provenance.json").write_text(json.dumps(provenance))
    shutil.rmtree(path / "checkpoints" / "0")
    shutil.rmtree(path / "checkpoints" / "2")
    (path / "metrics.jsonl").unlink()
    with pytest.raises(ConfigError, match="was to start from other weights: delete it"):
        resume.main([str(path)])


def test_a_session_that_cannot_write_its_record_ends_and_says_so(programs, tmp_path):
    """As on a full disk, from the third row on; the checkpoints that were written before stand."""
    path = tmp_path / "run"
    program = """if True:
        import errno, os, sys
        from learner.records import tensorboard_events
        from scripts import train
        from scripts.program import commands
        write, count = tensorboard_events.Board.write, [0]
        def fail(*arguments):
            count[0] += 1
            if count[0] > 2:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            write(*arguments)
        tensorboard_events.Board.write = fail
        sys.exit(commands.run(train.main))
    """
    command = [sys.executable, "-c", program, "smoke", "--run-dir", str(path), *EVERY_ROW]
    options = dict(
        cwd=ROOT,
        env=programs.environment,
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    done = subprocess.run(command, **options)
    assert done.returncode == ExitCode.NOT_SAVED, done.stderr
    assert (
        f"error: {path / 'metrics.jsonl'} cannot be written: [Errno 28] No space left on device"
        in done.stderr
    )
    assert "Traceback" not in done.stderr and 0 in complete_steps(path)


@pytest.mark.parametrize(
    "arguments, message",
    [
        (("{tmp}",), "holds no run: there is no config.json"),
        (("{run}", "--stop.num-updates", "0"), "stop.num_updates = 0: must be above 0, or None"),
        (("{run}", "--stop.minutes", "nan"), "stop.minutes = nan: must be above 0, or None"),
        (
            ("{run}", "--ray-address", "127.0.0.1:1"),
            "--ray-address 127.0.0.1:1: no Ray cluster answers there",
        ),
    ],
)
def test_resume_refuses_in_one_line(smoke, call, tmp_path, arguments, message):
    provenance = (smoke[0] / "provenance.json").read_text()
    code, _, error = call(
        resume, *(argument.format(run=smoke[0], tmp=tmp_path) for argument in arguments)
    )
    assert code == 2
    (line,) = error.splitlines()
    assert line.startswith("error: ") and message in line
    assert (smoke[0] / "provenance.json").read_text() == provenance


def test_resume_can_change_nothing_but_the_end(smoke, call):
    code, _, error = call(resume, smoke[0], "--learner.batch-size", "4")
    assert code == 2 and "--learner.batch-size" in error


def test_resume_keeps_a_limit_that_is_not_given_and_takes_away_one_that_is_none(smoke, monkeypatch):
    stops = []
    monkeypatch.setattr(whole_run, "resume", lambda path, stop, *_, **__: stops.append(stop) or 0)
    for arguments in (
        [],
        ["--stop.minutes", "3"],
        ["--stop.num-updates", "None", "--stop.num-frames", "9"],
    ):
        assert resume.main([str(smoke[0]), *arguments]) == 0
    assert stops == [
        StopConfig(num_updates=8),
        StopConfig(num_updates=8, minutes=3.0),
        StopConfig(num_frames=9),
    ]
