"""train.py: what a whole run leaves behind, what is refused, dry runs."""

import json
import re
import shlex
import socket

import jax
import numpy as np
import pytest

from configs import presets
from configs.schema import ConfigError
from configs.serialise import to_dict
from configs.suite import Suite, Trial
from learner.records.metrics import DOCUMENTED_TAGS, documented_tag
from scripts import resume, train
from scripts.experiments import trials
from scripts.program import commands
from scripts.training import cluster, whole_run
from tests.scripts.runs import (
    EVERY_ROW,
    NO_CHECKPOINT_BETWEEN,
    board,
    column,
    complete_steps,
    rows,
    stored,
    strictly_increasing,
)

pytestmark = pytest.mark.timeout(900)  # several programs a test, on a machine that may be busy


def test_smoke_trains_to_its_limit_and_prints_its_score(smoke):
    path, done = smoke
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0] == f"run directory: {path}"
    assert "saved after 8 updates, " in done.stdout
    assert lines[-6] == "breakout, 1 whole games each (Ctrl-C: the run is saved already):"
    score = r"-?\d+\.\d\d \(human-normalised -?\d+\.\d\d\)"
    for line, player in zip(lines[-5:-1], ("sampled", "greedy", "constant", "random"), strict=True):
        held = ", best of all: (NOOP|FIRE|RIGHT|LEFT)" if player == "constant" else ""
        # Truncated after 60 frames
        assert re.fullmatch(rf"  {player} +{score}{held}, 1 unfinished", line)
    assert lines[-1] == f"drawn: {path / 'curve.png'}"
    assert sum(line.startswith("return ") for line in lines) == 8
    assert "Traceback" not in done.stderr and "os.fork" not in done.stderr


def test_smoke_leaves_a_complete_run_directory(smoke):
    path, _ = smoke
    assert {entry.name for entry in path.iterdir()} == {
        "config.json", "provenance.json", "lock", "metrics.jsonl", "episodes.jsonl", "tensorboard",
        "checkpoints", "evaluations", "logs", "curve.png",
    }  # fmt: skip
    config = json.loads((path / "config.json").read_text())
    expected = to_dict(presets.PRESETS["smoke"])
    expected["log"]["interval_seconds"] = 1e-6
    expected["log"]["checkpoint_interval_minutes"] = 60.0
    assert config == expected
    # A run that is killed before its first checkpoint can be resumed
    assert complete_steps(path) == [0, 8]
    assert {entry.name for entry in (path / "evaluations").iterdir()} == {
        "sampled.json", "final.json", "constant.json", "random.json",
    }  # fmt: skip
    log = (path / "logs" / "worker-000.log").read_text()
    assert "JAX_PLATFORMS cpu" in log and "failed" not in log


def test_provenance_says_where_the_numbers_come_from(smoke):
    path, _ = smoke
    (record,) = json.loads((path / "provenance.json").read_text())
    assert record["event"] == "start" and record["seeds"] == {"seed": 0}
    settings = (*EVERY_ROW, *NO_CHECKPOINT_BETWEEN)
    assert record["command"] == ["scripts/train.py", "smoke", "--run-dir", str(path), *settings]
    assert re.fullmatch(r"[0-9a-f]{40}", record["git"]["commit"] or "") or record["git"]["reason"]
    assert record["packages"]["jax"] == jax.__version__


def test_rows_count_updates_and_frames(smoke):
    path, _ = smoke
    assert column(path, "num_updates") == [1, 2, 3, 4, 5, 6, 7, 8]
    frames = column(path, "num_frames")
    # 2 environments, 7 decisions, 4 frames
    assert frames[0] == 2 * 7 * 4 and strictly_increasing(frames)
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
    written = {tag for row in rows(path) for tag in row} - {
        "num_frames",
        "num_updates",
        "wall_seconds",
    }
    assert {tag: documented_tag(tag) for tag in written if documented_tag(tag) is None} == {}
    elsewhere = ("replay/", "advantage/", "loss/return", "loss/entropy")  # this preset has none
    expected = {tag for tag in DOCUMENTED_TAGS if not tag.startswith(elsewhere)}
    assert {documented_tag(tag) for tag in written} == expected
    assert {tag for tag in written if re.search(r"_k\d+$", tag)} == {
        *(f"loss/reward_k{k}" for k in (1, 2)),
        *(f"loss/{part}_k{k}" for part in ("value", "policy", "past") for k in (0, 1, 2)),
    }


def test_tensorboard_has_the_same_tags_and_values_over_frames(smoke):
    path, _ = smoke
    events = board(path)
    written = {tag for row in rows(path) for tag in row} - {
        "num_frames",
        "num_updates",
        "wall_seconds",
    }
    assert set(events.Tags()["scalars"]) == written
    for tag in ("loss/total", "episode/return", "value_buffer/filled"):
        points = [(point.step, point.value) for point in events.Scalars(tag)]
        expected = [(row["num_frames"], row[tag]) for row in rows(path) if tag in row]
        assert expected and [step for step, _ in points] == [step for step, _ in expected]
        np.testing.assert_allclose(
            [value for _, value in points], [value for _, value in expected], rtol=1e-6
        )


def test_every_number_of_the_log_is_finite(smoke):
    path, _ = smoke
    assert [
        (row["num_updates"], tag)
        for row in rows(path)
        for tag, value in row.items()
        if value is None
    ] == []


def test_schedule_buffer_and_lag_are_what_the_preset_asks_for(smoke):
    path, _ = smoke
    np.testing.assert_allclose(
        column(path, "optimiser/learning_rate"), [1e-4 * (1 - u / 8) for u in range(8)], rtol=1e-5
    )
    # Pushed after updates 2, 4, 6, 8; room for 2
    assert column(path, "value_buffer/filled") == [
        0,
        1,
        1,
        2,
        2,
        2,
        2,
        2,
    ]
    # One batch ahead, and the overlap of the one before
    assert max(column(path, "lag/params_version_max")) <= 3
    assert column(path, "lag/params_version_mean")[0] == 0.0


def test_games_are_logged_as_played(smoke):
    path, _ = smoke
    episodes = [json.loads(line) for line in (path / "episodes.jsonl").read_text().splitlines()]
    assert len(episodes) >= 4
    for _, num_steps, num_frames in (row["episode"] for row in episodes):
        # Up to 5 no-ops, then decisions of 4 frames
        assert 13 <= num_steps <= 15 and num_frames == 60
    assert {row["num_frames"] for row in episodes} <= set(column(path, "num_frames"))


def test_a_suite_can_read_the_results_of_a_whole_run(smoke):
    path, _ = smoke
    suite = Suite(
        "s", "smoke", ("breakout",), (0,), column(path, "num_frames")[-1], {"muzero": {}}, {}
    )
    assert trials.is_finished(suite, path)
    results = {row.kind: row for row in trials.rows(suite, Trial("breakout", "muzero", 0), path)}
    files = {"greedy": "final", "sampled": "sampled", "constant": "constant", "random": "random"}
    for kind, name in files.items():
        assert (
            results[kind].score
            == json.loads((path / "evaluations" / f"{name}.json").read_text())["mean"]
        )
    assert results["last-10-percent"].wall_seconds == column(path, "wall_seconds")[-1]
    assert trials.progress(path).num_frames == suite.frames == results["random"].frames


@pytest.mark.parametrize(
    "arguments, message",
    [
        (
            ("--env.name", "brekout"),
            "env.name = brekout: unknown environment 'brekout': did you mean ALE/Breakout-v5?",
        ),
        (("--env.name", "CartPole-v7"), "did you mean CartPole-v1"),
        (("--env.name", "no_such_module:Game-v0"), "module 'no_such_module' cannot be imported"),
        (
            ("--env.name", "Pendulum-v1"),
            "env.name = Pendulum-v1: .*action space Box.*, allowed: Discrete from 0",
        ),
        (
            ("--learner.batch-size", "3"),
            "learner.batch_size = 3: must be divisible by actors.environments_per_worker = 2",
        ),
        (
            ("--learner.num-minibatches", "4"),
            "learner.num_minibatches = 4: must divide the 5 start states",
        ),
        (
            ("--learner.num-devices", "3"),
            "learner.batch_size = 2: must be divisible by the 3 devices",
        ),
        (
            ("--actors.sequence-overlap", "8"),
            "actors.sequence_overlap = 8: must be below actors.sequence_length = 8",
        ),
        (
            ("--actors.sequence-overlap", "1"),
            "actors.sequence_overlap = 1: must be at least loss.num_unroll_steps = 2",
        ),
        (
            ("--search.policy", "gumbel_halving", "--search.normalisation", "siblings"),
            "search.policy = gumbel_halving: .*loss.past_weight = 0.25",
        ),
        (("--optimiser.learning-rate", "nan"), "optimiser.learning_rate = nan: must be above 0"),
        (("--stop.minutes", "-1"), "stop.minutes = -1.0: must be above 0, or None"),
        (
            ("--ray-address", "127.0.0.1:{port}"),
            r"--ray-address 127.0.0.1:\d+: no Ray cluster answers there",
        ),
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
        (("smok",), ["smok", "atari-cpu-onpolicy", "atari-paper, atari-cpu"]),
        ((), ["atari-cpu-onpolicy", "atari-paper, atari-cpu"]),
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
    assert (code, error) == (
        2,
        'error: env.name = CartPole-v1: run `pip install "gymnasium[box2d]"`\n',
    )


def test_a_directory_that_holds_a_run_is_refused(smoke, call):
    code, _, error = call(train, "smoke", "--run-dir", smoke[0])
    assert code == 2
    assert error == (
        f"error: {smoke[0]} already holds a run. Continue it with scripts/resume.py, or choose "
        f"another directory.\n"
    )


def test_all_problems_are_told_at_once(call):
    code, _, error = call(train, "smoke", "--learner.batch-size", "3", "--seed", "-1", "--dry-run")
    assert code == 2
    assert error.startswith("error: seed = -1: ") and "\nlearner.batch_size = 3: " in error


@pytest.mark.parametrize(
    "program, arguments", [(train, ["smoke", "--dry-run"]), (resume, ["{run}"])]
)
def test_a_negative_number_of_restarts_is_refused(smoke, call, program, arguments):
    code, output, error = call(
        program, *(word.format(run=smoke[0]) for word in arguments), "--max-restarts", "-3"
    )
    assert (code, output, error) == (2, "", "error: --max-restarts = -3: must be 0 or above\n")


def test_a_run_that_ray_refuses_leaves_its_directory_free(smoke, call, tmp_path, monkeypatch):
    def refuse(*args, **settings):
        raise ConfigError("no such device")

    monkeypatch.setattr(whole_run, "_train", refuse)
    for _ in range(2):
        code, _, error = call(train, "smoke", "--run-dir", tmp_path / "run")
        assert (code, error) == (2, "error: no such device\n")


def test_ctrl_c_outside_training_is_no_traceback(call, monkeypatch):
    def interrupted(argv):
        raise KeyboardInterrupt

    monkeypatch.setattr(train, "main", interrupted)
    assert call(train)[0] == 130


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
    (command,) = re.findall(
        r"^ *python scripts/train\.py (.*)$", presets.DESCRIPTIONS[name], re.MULTILINE
    )
    preset, options = train.parse(shlex.split(command))
    assert preset == name
    assert options.config.learner == presets.PRESETS[name].learner


def test_a_run_without_a_directory_is_named_after_what_it_is():
    path = commands.default_path("smoke", presets.PRESETS["smoke"])
    assert re.fullmatch(r"runs/smoke-breakout-0-\d{8}T\d{6}Z-[0-9a-f]{4}", str(path))
