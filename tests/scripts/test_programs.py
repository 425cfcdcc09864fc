"""The real programs: what they leave behind, how they go on, what they refuse. Many tests share one smoke run."""

import contextlib
import csv
import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import imageio.v2 as imageio
import jax
import numpy as np
import psutil
import pytest
import ray
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from configs import presets
from configs.schema import ConfigError, StopConfig
from configs.serialise import from_dict, to_dict
from configs.suite import Suite, Trial
from learner.loop import Counters
from learner.records.checkpoint import Checkpointer
from learner.records.metrics import DOCUMENTED_TAGS, documented_tag
from learner.records.run_directory import RunDirectory
from scripts import curves, evaluate, resume, train
from scripts.experiments import trials
from scripts.experiments.curves import names
from scripts.playing.evaluation import evaluation_seed, load_agent, load_env, selection_seed
from scripts.program import commands
from scripts.program.exit_codes import ExitCode
from scripts.training import cluster, whole_run
from scripts.training.beginning import Start, begin
from scripts.training.recording import Recording

pytestmark = pytest.mark.timeout(900)  # several programs a test, on a machine that may be busy

ROOT = Path(__file__).resolve().parents[2]
EVERY_ROW = ("--log.interval-seconds", "1e-6")
SECONDS = 420  # on a busy machine; some 20 on an idle one


class Programs:
    """Starts the real programs; they share their compiled functions, which are most of what a short run costs."""

    def __init__(self, cache):
        self.environment = os.environ | {
            "JAX_PLATFORMS": "cpu",
            "JAX_COMPILATION_CACHE_DIR": str(cache),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
            "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
        }

    def run(self, name, *arguments):
        """Returns the completed process of scripts/<name>.py."""
        command = [sys.executable, f"scripts/{name}.py", *map(str, arguments)]
        return subprocess.run(
            command, cwd=ROOT, env=self.environment, capture_output=True, text=True, timeout=SECONDS, check=False
        )

    def start(self, name, *arguments):
        """Returns the running process, leader of a process group of its own."""
        command = [sys.executable, f"scripts/{name}.py", *map(str, arguments)]
        pipes = dict(stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        return subprocess.Popen(command, cwd=ROOT, env=self.environment, start_new_session=True, **pipes)


@pytest.fixture(scope="module")
def programs(tmp_path_factory):
    return Programs(tmp_path_factory.mktemp("compiled"))


@pytest.fixture(scope="module")
def smoke(programs, tmp_path_factory):
    """Returns (run directory, completed process) of `train.py smoke`; tests only read it."""
    path = tmp_path_factory.mktemp("smoke") / "run"
    return path, programs.run("train", "smoke", "--run-dir", path, *EVERY_ROW)


@pytest.fixture
def call(monkeypatch, capsys):
    """Returns `call(program, *arguments) -> (exit code, stdout, stderr)` in this process, where Ray must not start."""

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


def rows(path):
    return [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]


def column(path, name):
    return [row[name] for row in rows(path)]


def complete_steps(path):
    return sorted(int(manifest.parent.name) for manifest in (path / "checkpoints").glob("[0-9]*/manifest.json"))


def stored(path, step=None):
    """Returns a checkpoint of a run as plain dictionaries."""
    checkpointer = Checkpointer(path / "checkpoints", max_to_keep=3, abstract_state=None)
    try:
        return checkpointer.restore(step)
    finally:
        checkpointer.close()


def begun(path, start):
    """Returns how a session of the run at `path` begins: its state, on the host, and its counters. Trains nothing."""
    directory = RunDirectory.open(path)
    beginning = begin(from_dict(directory.read_config()), directory, start)
    beginning.saver.close()
    return jax.device_get(beginning.state), beginning.counters


def board(path):
    events = EventAccumulator(str(path / "tensorboard"), size_guidance={"scalars": 0})
    events.Reload()
    return events


def strictly_increasing(numbers):
    return all(a < b for a, b in zip(numbers, numbers[1:], strict=False))


# --- a whole run -----------------------------------------------------------------------------------------------------


def test_smoke_trains_to_its_limit_and_prints_its_score(smoke):
    path, done = smoke
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0] == f"run directory: {path}"
    assert "saved after 8 updates, " in done.stdout
    assert lines[-5] == "breakout, 1 whole games each (Ctrl-C: the run is saved already):"
    score = r"-?\d+\.\d\d \(human-normalised -?\d+\.\d\d\)"
    for line, player in zip(lines[-4:], ("sampled", "greedy", "constant", "random"), strict=True):
        held = ", best of all: (NOOP|FIRE|RIGHT|LEFT)" if player == "constant" else ""
        assert re.fullmatch(rf"  {player} +{score}{held}, 1 unfinished", line)  # truncated after 60 frames
    assert sum(line.startswith("return ") for line in lines) == 8
    assert "Traceback" not in done.stderr and "os.fork" not in done.stderr


def test_smoke_leaves_a_complete_run_directory(smoke):
    path, _ = smoke
    assert {entry.name for entry in path.iterdir()} == {
        "config.json", "provenance.json", "lock", "metrics.jsonl", "episodes.jsonl", "tensorboard", "checkpoints",
        "evaluations", "logs",
    }  # fmt: skip
    config = json.loads((path / "config.json").read_text())
    expected = to_dict(presets.PRESETS["smoke"])
    expected["log"]["interval_seconds"] = 1e-6
    assert config == expected
    assert complete_steps(path) == [0, 8]  # a run that is killed before its first checkpoint can be resumed
    assert {entry.name for entry in (path / "evaluations").iterdir()} == {
        "sampled.json", "final.json", "constant.json", "random.json",
    }  # fmt: skip
    log = (path / "logs" / "worker-000.log").read_text()
    assert "JAX_PLATFORMS cpu" in log and "failed" not in log


def test_provenance_says_where_the_numbers_come_from(smoke):
    path, _ = smoke
    (record,) = json.loads((path / "provenance.json").read_text())
    assert record["event"] == "start" and record["seeds"] == {"seed": 0}
    assert record["command"] == ["scripts/train.py", "smoke", "--run-dir", str(path), *EVERY_ROW]
    assert re.fullmatch(r"[0-9a-f]{40}", record["git"]["commit"] or "") or record["git"]["reason"]
    assert record["packages"]["jax"] == jax.__version__


def test_rows_count_updates_and_frames(smoke):
    path, _ = smoke
    assert column(path, "num_updates") == [1, 2, 3, 4, 5, 6, 7, 8]
    frames = column(path, "num_frames")
    assert frames[0] == 2 * 7 * 4 and strictly_increasing(frames)  # 2 environments, 7 decisions, 4 frames
    assert max(b - a for a, b in zip(frames, frames[1:], strict=False)) == 2 * 5 * 4
    assert strictly_increasing(column(path, "wall_seconds"))
    assert stored(path).metadata["counters"] == {
        "num_updates": 8,
        "num_steps": frames[-1] // 4,
        "num_frames": frames[-1],
        "num_episodes": len((path / "episodes.jsonl").read_text().splitlines()),
        "num_batches": 8,
        "num_skipped": 0,
        "seconds": column(path, "wall_seconds")[-1],
    }


def test_every_documented_tag_is_written_and_no_other(smoke):
    path, _ = smoke
    written = {tag for row in rows(path) for tag in row} - {"num_frames", "num_updates", "wall_seconds"}
    assert {tag: documented_tag(tag) for tag in written if documented_tag(tag) is None} == {}
    assert {documented_tag(tag) for tag in written} == set(DOCUMENTED_TAGS)
    assert {tag for tag in written if re.search(r"_k\d+$", tag)} == {
        *(f"loss/reward_k{k}" for k in (1, 2)),
        *(f"loss/{part}_k{k}" for part in ("value", "policy", "past") for k in (0, 1, 2)),
    }


def test_tensorboard_has_the_same_tags_and_values_over_frames(smoke):
    path, _ = smoke
    events = board(path)
    written = {tag for row in rows(path) for tag in row} - {"num_frames", "num_updates", "wall_seconds"}
    assert set(events.Tags()["scalars"]) == written
    for tag in ("loss/total", "episode/return", "value_buffer/filled"):
        points = [(point.step, point.value) for point in events.Scalars(tag)]
        expected = [(row["num_frames"], row[tag]) for row in rows(path) if tag in row]
        assert expected and [step for step, _ in points] == [step for step, _ in expected]
        np.testing.assert_allclose([value for _, value in points], [value for _, value in expected], rtol=1e-6)


def test_every_number_of_the_log_is_finite(smoke):
    path, _ = smoke
    assert [(row["num_updates"], tag) for row in rows(path) for tag, value in row.items() if value is None] == []


def test_schedule_buffer_and_lag_are_what_the_preset_asks_for(smoke):
    path, _ = smoke
    np.testing.assert_allclose(
        column(path, "optimiser/learning_rate"), [1e-4 * (1 - u / 8) for u in range(8)], rtol=1e-5
    )
    assert column(path, "value_buffer/filled") == [
        0,
        1,
        1,
        2,
        2,
        2,
        2,
        2,
    ]  # pushed after updates 2, 4, 6, 8; room for 2
    assert max(column(path, "lag/params_version_max")) <= 3  # one batch ahead, and the overlap of the one before
    assert column(path, "lag/params_version_mean")[0] == 0.0


def test_games_are_logged_as_played(smoke):
    path, _ = smoke
    episodes = [json.loads(line) for line in (path / "episodes.jsonl").read_text().splitlines()]
    assert len(episodes) >= 4
    for _, num_steps, num_frames in (row["episode"] for row in episodes):
        assert 13 <= num_steps <= 15 and num_frames == 60  # up to 5 no-ops, then decisions of 4 frames
    assert {row["num_frames"] for row in episodes} <= set(column(path, "num_frames"))


def test_a_suite_can_read_the_results_of_a_whole_run(smoke):
    path, _ = smoke
    suite = Suite("s", "smoke", ("breakout",), (0,), column(path, "num_frames")[-1], {"muzero": {}}, {})
    assert trials.is_finished(suite, path)
    results = {row.kind: row for row in trials.rows(suite, Trial("breakout", "muzero", 0), path)}
    files = {"greedy": "final", "sampled": "sampled", "constant": "constant", "random": "random"}
    for kind, name in files.items():
        assert results[kind].score == json.loads((path / "evaluations" / f"{name}.json").read_text())["mean"]
    assert results["last-10-percent"].wall_seconds == column(path, "wall_seconds")[-1]
    assert trials.progress(path).num_frames == suite.frames == results["random"].frames


# --- going on --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def resumed(smoke, programs, tmp_path_factory):
    """Returns (run directory, completed process) of a copy of the smoke run that was resumed for 4 more updates."""
    path = tmp_path_factory.mktemp("resumed") / "run"
    shutil.copytree(smoke[0], path)
    return path, programs.run("resume", path, "--stop.num-updates", 12)


def test_resume_continues_counters_schedule_and_buffer(smoke, resumed):
    path, done = resumed
    assert done.returncode == 0, done.stderr
    assert "saved after 12 updates" in done.stdout
    assert column(path, "num_updates") == list(range(1, 13))
    assert rows(path)[:8] == rows(smoke[0])
    assert strictly_increasing(column(path, "num_frames")) and strictly_increasing(column(path, "wall_seconds"))
    assert column(path, "num_frames")[8] - column(path, "num_frames")[7] == 2 * 7 * 4  # the workers start afresh
    assert column(path, "optimiser/learning_rate")[8:] == [0.0] * 4  # the schedule of the run, not a new one
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
    """Sends a signal to the whole process group, as a terminal or a cluster manager does; returns the output."""
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
            if not steps or not 0 < steps[-1] < len((path / "metrics.jsonl").read_text().splitlines()) - 1:
                return False
            end(process, signal.SIGKILL)
            return True

    wait_for(is_killed_in_the_middle, process)
    assert process.returncode == -signal.SIGKILL
    assert rows_of_a_torn_file(path)[-1]["num_updates"] < 60, "it was over before the kill"
    return path


def rows_of_a_torn_file(path):
    return [json.loads(line) for line in (path / "metrics.jsonl").read_text().split("\n")[:-1]]


def test_a_resumed_session_starts_from_the_very_state_of_the_checkpoint(killed, tmp_path):
    path = tmp_path / "run"
    shutil.copytree(killed, path)
    checkpoint = stored(path)
    state, counters = begun(path, Start(resume=True))
    assert counters._asdict() == checkpoint.metadata["counters"]
    assert int(state.num_updates) == checkpoint.step > 0
    restored = leaves(state)
    expected = {jax.tree_util.keystr(k, simple=True, separator="/"): v for k, v in leaves(checkpoint.state)}
    assert len(restored) == len(expected) > 100
    for keys, leaf in restored:
        name = jax.tree_util.keystr(keys, simple=True, separator="/")
        np.testing.assert_array_equal(leaf, expected[name], err_msg=name)
    Recording(RunDirectory.open(path), counters, is_resumed=True, num_frames=None).close()
    assert column(path, "num_updates") == list(range(1, checkpoint.step + 1))  # rows beyond it are cut


def leaves(state):
    return jax.tree_util.tree_leaves_with_path(state)


def test_a_killed_run_reaches_its_end_without_gap_or_overlap(killed, programs, tmp_path):
    path = tmp_path / "run"
    shutil.copytree(killed, path)
    last = complete_steps(path)[-1]
    kept = [row for row in rows_of_a_torn_file(path) if row["num_updates"] <= last]
    lost = rows_of_a_torn_file(path)[len(kept) :]
    done = programs.run("resume", path)
    assert done.returncode == 0, done.stderr
    assert column(path, "num_updates") == list(range(1, 61))
    assert strictly_increasing(column(path, "num_frames")) and strictly_increasing(column(path, "wall_seconds"))
    assert len(kept) == last > 0 and lost, "the kill has to cost something, or this shows nothing"
    assert rows(path)[: len(kept)] == kept and rows(path)[len(kept)] != lost[0]
    assert complete_steps(path)[-1] == 60 and len(complete_steps(path)) == 3
    counters = stored(path).metadata["counters"]
    assert (counters["num_updates"], counters["num_frames"]) == (60, column(path, "num_frames")[-1])
    frames = [json.loads(line)["num_frames"] for line in (path / "episodes.jsonl").read_text().splitlines()]
    assert frames == sorted(frames) and set(frames) <= set(column(path, "num_frames"))
    assert counters["num_episodes"] == len(frames)


@pytest.fixture(scope="module")
def interrupted(programs, tmp_path_factory):
    """Returns (run directory, outputs, exit codes, answer of a second program meanwhile) of Ctrl-C, then SIGTERM."""
    path = tmp_path_factory.mktemp("interrupted") / "run"
    arguments = ("smoke", "--run-dir", path, *EVERY_ROW, "--stop.num-updates", 10**6)
    first = programs.start("train", *arguments)
    wait_for(lambda: (path / "metrics.jsonl").exists() and len(rows_of_a_torn_file(path)) > 2, first)
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
    limits = "" if session_number == 0 else " --stop.minutes 60.0"  # those of the resumed session, which no file has
    assert f"interrupted; go on with: python scripts/resume.py {path}{limits}\n" in outputs[session_number]
    assert "Traceback" not in outputs[session_number]


def test_an_interrupted_run_has_saved_its_last_row(interrupted):
    path, outputs, _, _, count = interrupted
    assert complete_steps(path)[-1] == column(path, "num_updates")[-1]
    assert f"saved after {count} updates" in outputs[0]
    assert column(path, "num_updates") == list(range(1, len(rows(path)) + 1)) and len(rows(path)) > count + 2
    assert stored(path).metadata["counters"]["num_frames"] == column(path, "num_frames")[-1]


def test_a_run_directory_in_use_is_refused_with_the_holder(interrupted):
    path, _, _, meanwhile, _ = interrupted
    assert meanwhile.returncode == 2
    (line,) = meanwhile.stderr.splitlines()
    assert re.fullmatch(rf"error: {path} is in use: process \d+ on host \S+ trains in it\. .*", line)


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
    options = dict(cwd=ROOT, env=programs.environment, capture_output=True, text=True, timeout=SECONDS, check=False)
    done = subprocess.run(command, **options)
    assert done.returncode == ExitCode.NOT_SAVED, done.stderr
    assert f"error: {path / 'metrics.jsonl'} cannot be written: [Errno 28] No space left on device" in done.stderr
    assert "Traceback" not in done.stderr and 0 in complete_steps(path)


# --- weights of another run ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix, step", [("", 8), ("@8", 8), ("@latest", 8), ("@0", 0)])
def test_init_from_takes_the_weights_and_nothing_else(smoke, suffix, step, tmp_path):
    path, _ = smoke
    config = from_dict(json.loads((path / "config.json").read_text()))
    load_params = whole_run.initial_params(config, commands.check_environment(config), f"{path}{suffix}")
    RunDirectory.create(tmp_path / "new", to_dict(config), ["test"], {})
    state, counters = begun(tmp_path / "new", Start(load_params=load_params))
    source = stored(path, step).state
    for name in ("params", "search_average", "target_average"):
        found = jax.tree.leaves(getattr(state, name)._asdict())
        expected = jax.tree.leaves(source["search_average"])
        assert len(found) == len(expected) > 20
        for left, right in zip(found, expected, strict=True):
            np.testing.assert_array_equal(left, right)
    assert counters == Counters()
    assert (int(state.num_updates), int(state.value_buffer.num_pushed)) == (0, 0)


def test_init_from_takes_a_path_with_an_at_sign(smoke, call, tmp_path):
    shutil.copytree(smoke[0], tmp_path / "run@home")
    assert call(train, "smoke", "--dry-run", "--init-from", str(tmp_path / "run@home"))[0] == 0
    assert call(train, "smoke", "--dry-run", "--init-from", f"{tmp_path / 'run@home'}@8")[0] == 0
    code, _, error = call(train, "smoke", "--dry-run", "--init-from", f"{tmp_path / 'run@home'}@7")
    assert code == 2 and "no checkpoint 7" in error


def test_init_from_is_checked_by_a_dry_run(smoke, call):
    assert call(train, "smoke", "--init-from", f"{smoke[0]}@8", "--dry-run")[0] == 0


@pytest.mark.parametrize(
    "arguments, message",
    [
        (("smoke", "--init-from", "{run}@7"), r"no checkpoint 7 in .*; there are \[0, 8\]"),
        (("smoke", "--init-from", "{run}@soon"), "checkpoint = soon: must be latest, best or a number of updates"),
        (("smoke", "--init-from", "{run}@best"), "checkpoint = best: .* has none"),
        (("smoke", "--init-from", "{run}-nowhere"), "-nowhere holds no run: there is no config.json"),
        (("cartpole", "--init-from", "{run}"), r"its environment breakout has .*48, 48.*, CartPole-v1 has "),
        (("smoke", "--env.name", "ms_pacman", "--init-from", "{run}"), "breakout has .*num_actions=4.*num_actions=9"),
        (
            ("smoke", "--network.latent-size", "17", "--init-from", "{run}"),
            "another network: network.latent_size: 16 -> 17",
        ),
        (("smoke", "--support.num-bins", "23", "--init-from", "{run}"), "another network: support.num_bins: 21 -> 23"),
    ],
)
def test_weights_that_do_not_fit_are_refused(smoke, call, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    code, _, error = call(train, *(argument.replace("{run}", str(smoke[0])) for argument in arguments))
    assert code == 2
    (line,) = error.splitlines()
    assert line.startswith("error: ") and re.search(message, line)
    assert list(tmp_path.iterdir()) == []


# --- input that cannot work ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments, message",
    [
        (("--env.name", "brekout"), "env.name = brekout: unknown environment 'brekout': did you mean ALE/Breakout-v5?"),
        (("--env.name", "CartPole-v7"), "did you mean CartPole-v1"),
        (("--env.name", "no_such_module:Game-v0"), "module 'no_such_module' cannot be imported"),
        (("--env.name", "Pendulum-v1"), "env.name = Pendulum-v1: .*action space Box.*, allowed: Discrete from 0"),
        (
            ("--learner.batch-size", "3"),
            "learner.batch_size = 3: must be divisible by actors.environments_per_worker = 2",
        ),
        (
            ("--learner.num-minibatches", "4"),
            "learner.num_minibatches = 4: must divide the 5 start states",
        ),
        (("--learner.num-devices", "3"), "learner.batch_size = 2: must be divisible by the 3 devices"),
        (("--actors.sequence-overlap", "8"), "actors.sequence_overlap = 8: must be below actors.sequence_length = 8"),
        (("--actors.sequence-overlap", "1"), "actors.sequence_overlap = 1: must be at least loss.num_unroll_steps = 2"),
        (
            ("--search.policy", "gumbel_halving", "--search.normalisation", "siblings"),
            "search.policy = gumbel_halving: .*loss.past_weight = 0.25",
        ),
        (("--optimiser.learning-rate", "nan"), "optimiser.learning_rate = nan: must be above 0"),
        (("--stop.minutes", "-1"), "stop.minutes = -1.0: must be above 0, or None"),
        (("--ray-address", "127.0.0.1:{port}"), r"--ray-address 127.0.0.1:\d+: no Ray cluster answers there"),
        (("--ray-address", "auto"), "--ray-address auto: "),
        (("--run-dir", "{file}/run"), "--run-dir .*file/run: .*Not a directory"),
    ],
    ids=lambda x: " ".join(x) if isinstance(x, tuple) else "",
)
def test_train_refuses_in_one_line(call, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    monkeypatch.setattr(cluster, "finds_cluster", lambda: False)  # some other program may have one
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))  # bound and not listening: nobody answers
        port = unused.getsockname()[1]
        filled = (argument.format(port=port, file=tmp_path / "file") for argument in arguments)
        code, output, error = call(train, "smoke", *filled)
    assert code == 2
    (line,) = error.splitlines()
    assert line.startswith("error: ") and re.search(message, line)
    assert output == "" and [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize(
    "arguments, words",
    [
        (("smok",), ["smok", "atari-paper, atari-cpu, atari-cpu-onpolicy, minatar, cartpole, smoke"]),
        ((), ["atari-paper, atari-cpu, atari-cpu-onpolicy, minatar, cartpole, smoke"]),
        (("smoke", "--env.nam", "pong"), ["--env.nam", "--env.name"]),
        (("smoke", "--learner.batch-size", "many"), ["--learner.batch-size", "many"]),
        (("smoke", "--search.policy", "alphazero"), ["--search.policy", "alphazero"]),
    ],
    ids=" ".join,
)
def test_train_refuses_what_the_command_line_does_not_know(call, arguments, words):
    code, _, error = call(train, *arguments)
    assert code == 2
    assert [word for word in words if word not in error] == []


def test_a_package_that_is_missing_is_named(call, monkeypatch):
    import gymnasium

    def needs_box2d(*args, **kwargs):
        raise gymnasium.error.DependencyNotInstalled('run `pip install "gymnasium[box2d]"`')

    monkeypatch.setattr(gymnasium, "make", needs_box2d)
    code, _, error = call(train, "smoke", "--env.name", "CartPole-v1", "--dry-run")
    assert (code, error) == (2, 'error: env.name = CartPole-v1: run `pip install "gymnasium[box2d]"`\n')


def test_a_directory_that_holds_a_run_is_refused(smoke, call):
    code, _, error = call(train, "smoke", "--run-dir", smoke[0])
    assert code == 2
    assert error == (
        f"error: {smoke[0]} already holds a run. Continue it with scripts/resume.py, or choose another directory.\n"
    )


def test_all_problems_are_told_at_once(call):
    code, _, error = call(train, "smoke", "--learner.batch-size", "3", "--seed", "-1", "--dry-run")
    assert code == 2
    assert error.startswith("error: seed = -1: ") and "\nlearner.batch_size = 3: " in error


@pytest.mark.parametrize(
    "arguments, message",
    [
        (("{tmp}",), "holds no run: there is no config.json"),
        (("{run}", "--stop.num-updates", "0"), "stop.num_updates = 0: must be above 0, or None"),
        (("{run}", "--stop.minutes", "nan"), "stop.minutes = nan: must be above 0, or None"),
        (("{run}", "--ray-address", "127.0.0.1:1"), "--ray-address 127.0.0.1:1: no Ray cluster answers there"),
    ],
)
def test_resume_refuses_in_one_line(smoke, call, tmp_path, arguments, message):
    provenance = (smoke[0] / "provenance.json").read_text()
    code, _, error = call(resume, *(argument.format(run=smoke[0], tmp=tmp_path) for argument in arguments))
    assert code == 2
    (line,) = error.splitlines()
    assert line.startswith("error: ") and message in line
    assert (smoke[0] / "provenance.json").read_text() == provenance


def test_resume_can_change_nothing_but_the_end(smoke, call):
    code, _, error = call(resume, smoke[0], "--learner.batch-size", "4")
    assert code == 2 and "--learner.batch-size" in error


@pytest.mark.parametrize("program, arguments", [(train, ["smoke", "--dry-run"]), (resume, ["{run}"])])
def test_a_negative_number_of_restarts_is_refused(smoke, call, program, arguments):
    code, output, error = call(program, *(word.format(run=smoke[0]) for word in arguments), "--max-restarts", "-3")
    assert (code, output, error) == (2, "", "error: --max-restarts = -3: must be 0 or above\n")


def test_a_run_that_ray_refuses_leaves_its_directory_free(smoke, call, tmp_path, monkeypatch):
    def refuse(*args, **settings):
        raise ConfigError("no such device")

    monkeypatch.setattr(whole_run, "_train", refuse)
    for _ in range(2):
        code, _, error = call(train, "smoke", "--run-dir", tmp_path / "run")
        assert (code, error) == (2, "error: no such device\n")


def test_resume_keeps_a_limit_that_is_not_given_and_takes_away_one_that_is_none(smoke, monkeypatch):
    stops = []
    monkeypatch.setattr(whole_run, "resume", lambda path, stop, *_, **__: stops.append(stop) or 0)
    for arguments in ([], ["--stop.minutes", "3"], ["--stop.num-updates", "None", "--stop.num-frames", "9"]):
        assert resume.main([str(smoke[0]), *arguments]) == 0
    assert stops == [StopConfig(num_updates=8), StopConfig(num_updates=8, minutes=3.0), StopConfig(num_frames=9)]


def test_ctrl_c_outside_training_is_no_traceback(call, monkeypatch):
    def interrupted(argv):
        raise KeyboardInterrupt

    monkeypatch.setattr(train, "main", interrupted)
    assert call(train)[0] == 130


# --- dry run, presets, curves ----------------------------------------------------------------------------------------


def test_dry_run_prints_the_configuration_and_starts_nothing(call, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, output, error = call(train, "smoke", "--dry-run", "--env.name", "Pong", "--seed", "7")
    assert (code, error) == (0, "")
    expected = to_dict(presets.PRESETS["smoke"])
    expected["env"]["name"], expected["seed"] = "Pong", 7
    assert json.loads(output) == expected
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", sorted(presets.PRESETS))
def test_the_command_in_the_docstring_of_a_preset_runs_that_preset(name):
    (command,) = re.findall(r"^ *python scripts/train\.py (.*)$", presets.DESCRIPTIONS[name], re.MULTILINE)
    preset, options = train.parse(shlex.split(command))
    assert preset == name
    assert options.config.learner == presets.PRESETS[name].learner


def test_a_run_without_a_directory_is_named_after_what_it_is():
    path = commands.default_path("smoke", presets.PRESETS["smoke"])
    assert re.fullmatch(r"runs/smoke-breakout-0-\d{8}T\d{6}Z", str(path))


def test_curves_of_a_run(smoke, call, tmp_path):
    code, _, error = call(curves, smoke[0], "--out", tmp_path / "new" / "mine")
    assert (code, error) == (0, "")
    lines = (tmp_path / "new" / "mine-curves.csv").read_text().splitlines()
    assert lines[0] == "run,environment,seed,num_frames,num_updates,wall_seconds,episode/return"
    assert lines[1].startswith("run,breakout,0,")
    assert len(lines) - 1 == sum("episode/return" in row for row in rows(smoke[0])) > 0
    with (tmp_path / "new" / "mine-scores.csv").open() as file:
        scores = [(row["environment"], row["seed"], row["protocol"], row["episodes"]) for row in csv.DictReader(file)]
    players = ("constant", "greedy", "random", "sampled")
    assert scores == [("breakout", "0", player, "1") for player in players]
    assert (tmp_path / "new" / "mine.png").stat().st_size > 1000


def test_runs_of_one_seed_are_told_apart(tmp_path):
    directories = [RunDirectory(tmp_path / name) for name in ("a/run", "b/run", "c")]
    assert names(directories) == ["a/run", "b/run", "c"]
    assert names(directories[:1]) == ["run"]


def test_curves_of_nothing_of_one_run_twice_and_of_a_damaged_run_are_refused(smoke, call, tmp_path):
    shutil.copytree(smoke[0], tmp_path / "run", ignore=shutil.ignore_patterns("checkpoints"))
    with (tmp_path / "run" / "metrics.jsonl").open("a") as file:
        file.write("{bad}\n")
    for runs, message in (
        ((), "give at least one run directory"),
        ((smoke[0], smoke[0]), "one of these runs stands there twice"),
        ((tmp_path / "run",), "is damaged: .*; take the bad line out to go on"),
    ):
        code, _, error = call(curves, *runs, "--out", tmp_path / "mine")
        assert code == 2 and re.search(message, error) and len(error.splitlines()) == 1


def test_curves_of_a_run_without_a_game_are_refused(smoke, call, tmp_path):
    shutil.copytree(smoke[0], tmp_path / "run")
    (tmp_path / "run" / "metrics.jsonl").write_text('{"num_frames": 1}\n{"num_fr')
    with pytest.raises(ConfigError, match="no game has been finished yet"):
        curves.main([str(tmp_path / "run"), "--out", str(tmp_path / "mine")])
    assert not (tmp_path / "mine-curves.csv").exists()


# --- scoring ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def evaluated(smoke, programs, tmp_path_factory):
    """Returns (folder, completed process) of a greedy evaluation with a video, files in a folder that was not there."""
    folder = tmp_path_factory.mktemp("evaluated") / "new"
    files = ("--out", folder / "score.json", "--video", folder / "game.mp4")
    return folder, programs.run("evaluate", smoke[0], "--episodes", 3, *files)


KEYS = {"environment", "protocol", "checkpoint", "mean", "standard_error", "human_normalised", "returns"}


def test_sampled_score_and_baselines(smoke, call, tmp_path):
    path = tmp_path / "run"
    shutil.copytree(smoke[0], path)
    arguments = (
        "--protocol",
        "sampled",
        "--episodes",
        2,
        "--max-decisions",
        6,
        "--baselines",
        "--baseline-episodes",
        2,
    )
    code, output, _ = call(evaluate, path, *arguments)
    assert code == 0
    folder = path / "evaluations"
    sampled, random, constant = (
        json.loads((folder / f"{name}.json").read_text()) for name in ("sampled-8-2", "random-2", "constant-2")
    )
    assert set(sampled) == set(random) == KEYS | {"num_unfinished"}
    assert set(constant) == set(random) | {"action", "action_name", "action_means"}
    assert [(x["protocol"], x["checkpoint"], len(x["returns"]), x["num_unfinished"]) for x in (sampled, constant)] == [
        ("sampled", 8, 2, 2), ("constant", None, 2, 2)
    ]  # fmt: skip
    assert len(constant["action_means"]) == 4 and constant["action"] == np.argmax(constant["action_means"])
    assert output.count("written to") == 3


def test_greedy_score(evaluated):
    folder, done = evaluated
    assert done.returncode == 0, done.stderr
    result = json.loads((folder / "score.json").read_text())
    assert set(result) == KEYS | {"num_unfinished"}
    assert (result["protocol"], result["checkpoint"], len(result["returns"])) == ("greedy", 8, 3)
    assert result["num_unfinished"] == 3  # the preset truncates games after 60 frames
    assert result["mean"] == pytest.approx(sum(result["returns"]) / 3)
    spread = sum((x - result["mean"]) ** 2 for x in result["returns"]) / 2  # unbiased variance of three games
    assert result["standard_error"] == pytest.approx((spread / 3) ** 0.5)
    assert result["human_normalised"] == pytest.approx((result["mean"] - 1.7) / (30.5 - 1.7))  # breakout, table 3
    printed = json.loads(done.stdout[: done.stdout.rindex("}") + 1])
    assert printed == {key: value for key, value in result.items() if key != "returns"} | {"games": 3}
    assert f"written to {folder / 'score.json'}" in done.stdout


@pytest.mark.filterwarnings("ignore:os.fork")  # ffmpeg, executed at once
def test_video_of_a_game_can_be_played(evaluated):
    folder, _ = evaluated
    with imageio.get_reader(folder / "game.mp4") as reader:
        meta, frames = reader.get_meta_data(), [frame for frame in reader]
    assert meta["codec"] == "h264" and meta["fps"] == 15.0
    assert meta["size"] == (480 + 432, 640) and meta["size"][0] % 2 == meta["size"][1] % 2 == 0
    assert 14 + 30 <= len(frames) <= 16 + 30  # 60 emulator frames, 4 a decision; two seconds of the last state
    game = frames[0][5:635, :480]
    colours = abs(game.astype(int) - game.mean(-1, keepdims=True)).max(-1)
    assert (colours > 40).mean() > 0.05  # breakout's bricks, in colour
    assert abs(frames[0].astype(int) - frames[10].astype(int))[:, 480:].max() > 60  # the panel moves


def test_the_papers_score_is_the_mean_of_the_last_games_as_played(smoke, call, tmp_path):
    out = tmp_path / "score.json"
    code, output, _ = call(evaluate, smoke[0], "--protocol", "training-final-200", "--out", out)
    assert code == 0
    result = json.loads(out.read_text())
    played = [json.loads(line)["episode"][0] for line in (smoke[0] / "episodes.jsonl").read_text().splitlines()]
    assert set(result) == KEYS
    assert (result["protocol"], result["checkpoint"], result["returns"]) == ("training-final-200", None, played)
    assert result["mean"] == pytest.approx(sum(played) / len(played))
    assert '"protocol": "training-final-200"' in output and "returns" not in output


def test_only_the_last_200_games_count(smoke, call, tmp_path):
    path = tmp_path / "run"
    path.mkdir()
    shutil.copy(smoke[0] / "config.json", path)
    games = [json.dumps({"num_frames": n, "episode": [float(n), 5, 20]}) + "\n" for n in range(250)]
    (path / "episodes.jsonl").write_text("".join(games))
    assert call(evaluate, path, "--protocol", "training-final-200")[0] == 0
    result = json.loads((path / "evaluations" / "training-final-200.json").read_text())
    assert result["returns"] == [float(n) for n in range(50, 250)]
    assert result["mean"] == 149.5 and result["standard_error"] == pytest.approx(57.88 / 200**0.5, rel=1e-3)


@pytest.mark.parametrize(
    "arguments, message",
    [
        (("--checkpoint", "best"), "checkpoint = best: .* has none, .*use latest or a number of updates"),
        (("--checkpoint", "newest"), "checkpoint = newest: must be latest, best or a number of updates"),
        (("--checkpoint", "5"), r"no checkpoint 5 in .*; there are \[0, 8\]"),
        (("--episodes", "0"), "--episodes = 0: must be above 0"),
        (("--video", "game.gif"), r"--video game\.gif: must end in \.mp4"),
        (("--out", "."), r"--out \.: is a directory, must be a file"),
        (("--protocol", "training-final-200", "--checkpoint", "8"), "training-final-200: not with --checkpoint, "),
        (("--protocol", "training-final-200", "--episodes", "5"), "training-final-200: not with --checkpoint, "),
        (("--protocol", "training-final-200", "--max-decisions", "5"), "training-final-200: not with --checkpoint, "),
        (("--max-decisions", "0"), "--max-decisions = 0: must be above 0"),
        (("--baseline-episodes", "0"), "--baseline-episodes = 0: must be above 0"),
        (("--out", "file/x.json"), r"--out file: .*File exists"),
    ],
    ids=lambda x: " ".join(x) if isinstance(x, tuple) else "",
)
def test_evaluate_refuses_in_one_line(smoke, call, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    code, output, error = call(evaluate, smoke[0], *arguments)
    assert (code, output) == (2, "")
    (line,) = error.splitlines()
    assert line.startswith("error: ") and re.search(message, line)


def test_a_run_without_a_finished_game_has_no_score_as_played(smoke, call, tmp_path):
    path = tmp_path / "run"
    path.mkdir()
    shutil.copy(smoke[0] / "config.json", path)
    code, _, error = call(evaluate, path, "--protocol", "training-final-200")
    assert code == 2 and "no finished game to score yet" in error


def test_an_agent_in_five_lines(smoke):
    env = load_env(smoke[0])
    observation, _ = env.reset(seed=1)
    agent = load_agent(smoke[0])
    actions = [agent.act(observation) for _ in range(3)]
    assert all(isinstance(action, int) and 0 <= action < 4 for action in actions)
    agent.reset()
    assert agent.act(observation) == actions[0]
    env.close()


@pytest.mark.parametrize("seed", [0, 1, 10**6, 2**32 - 1])
def test_games_that_score_select_and_train_never_share_a_seed(seed):
    scored = range(evaluation_seed(seed), evaluation_seed(seed) + 25)
    selected = [selection_seed(seed, updates) for updates in (0, 1000, 10**9)]
    assert 2**31 <= scored.start and scored.stop <= min(selected)  # training draws below 2**31
    assert max(selected) + 25 < 2**32
