"""The records of a run: rows on disk, curves without overlap or gap after a resume."""

import json
import math
import re
import subprocess
import sys
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from learner.records.episodes import EpisodeLog
from learner.records.metrics import (
    DOCUMENTED_TAGS,
    MeanAccumulator,
    MetricWriter,
    documented_tag,
)
from learner.records.run_directory import NotWritten, RunDirectoryError

ROOT = Path(__file__).resolve().parents[3]


def write_rows(writer, frames, offset=0.0):
    for num_frames in frames:
        scalars = {"loss/total": num_frames + offset, "episode/return": 1.0}
        writer.write(
            num_frames, scalars, num_updates=num_frames // 10, wall_seconds=num_frames / 100
        )


def write_run(run_dir, frames):
    writer = MetricWriter(run_dir, resume_from_frames=None)
    write_rows(writer, frames)
    writer.close()


def resume_run(run_dir, resume_from, frames):
    writer = MetricWriter(run_dir, resume_from_frames=resume_from)
    write_rows(writer, frames, offset=0.5)
    writer.close()


def refuse(constant):
    raise AssertionError(f"{constant} is not JSON")


def read_rows(run_dir):
    return [
        json.loads(line, parse_constant=refuse)
        for line in (run_dir / "metrics.jsonl").read_text().splitlines()
    ]


def read_curve(run_dir, tag="loss/total"):
    accumulator = EventAccumulator(str(run_dir / "tensorboard"))
    accumulator.Reload()
    return [(event.step, event.value) for event in accumulator.Scalars(tag)]


RESUMED = [(100, 100.0), (200, 200.0), (300, 300.5), (400, 400.5)]


def test_a_row_is_on_disk_when_write_returns(tmp_path):
    writer = MetricWriter(tmp_path, resume_from_frames=None)
    writer.write(400, {"loss/total": 0.25}, num_updates=5, wall_seconds=1.5)
    assert read_rows(tmp_path) == [
        {"num_frames": 400, "num_updates": 5, "wall_seconds": 1.5, "loss/total": 0.25}
    ]
    writer.close()
    assert read_curve(tmp_path) == [(400, 0.25)]


def test_a_full_disk_is_told_at_once_and_nothing_waits_for_it(tmp_path):
    """A file may grow to 4 kB here; in a process of its own,
    since that holds for all of its files.
    """
    program = """if True:
        import resource, sys
        from pathlib import Path
        from learner.records.metrics import MetricWriter
        from learner.records.run_directory import NotWritten
        writer = MetricWriter(Path(sys.argv[1]), resume_from_frames=None)
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
        try:
            for n in range(1000):
                writer.write(n, {"loss/total": 1.0}, num_updates=n, wall_seconds=0.0)
        except NotWritten as error:
            print(error)
        try:
            writer.close()
        except NotWritten:
            pass
    """
    command = [sys.executable, "-c", program, str(tmp_path)]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"{tmp_path / 'metrics.jsonl'} cannot be written: ")


def test_a_damaged_row_is_named(tmp_path):
    write_run(tmp_path, [100])
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write("no json\n")
    with pytest.raises(
        RunDirectoryError, match=re.escape(f"{tmp_path / 'metrics.jsonl'} is damaged: ")
    ):
        resume_run(tmp_path, 100, [200])


def test_what_json_cannot_say_is_null(tmp_path):
    writer = MetricWriter(tmp_path, resume_from_frames=None)
    writer.write(1, {"a": math.nan, "b": math.inf, "c": 2.0}, num_updates=0, wall_seconds=0.0)
    writer.close()
    [row] = read_rows(tmp_path)
    assert (row["a"], row["b"], row["c"]) == (None, None, 2.0)
    [(step, value)] = read_curve(tmp_path, "a")
    assert step == 1 and math.isnan(value)


def test_a_new_run_does_not_append_to_an_old_one(tmp_path):
    write_run(tmp_path, [100])
    with pytest.raises(FileExistsError):
        MetricWriter(tmp_path, resume_from_frames=None)


@pytest.mark.parametrize("resume_from_frames", [None, 0])
def test_records_that_cannot_be_opened_are_not_written(tmp_path, resume_from_frames):
    with pytest.raises(NotWritten, match="metrics.jsonl cannot be written"):
        MetricWriter(tmp_path / "gone", resume_from_frames=resume_from_frames)
    with pytest.raises(NotWritten, match="episodes.jsonl cannot be written"):
        EpisodeLog(tmp_path / "gone", resume_from_frames=0)


def test_a_resume_cuts_what_lies_beyond_the_checkpoint(tmp_path):
    write_run(tmp_path, [100, 200, 300, 400])
    resume_run(tmp_path, 200, [300, 400])
    assert [(row["num_frames"], row["loss/total"]) for row in read_rows(tmp_path)] == RESUMED
    assert read_curve(tmp_path) == RESUMED


def test_two_resumes_in_a_row(tmp_path):
    write_run(tmp_path, [100, 200, 300])
    resume_run(tmp_path, 200, [250, 300, 350, 400, 500])
    resume_run(tmp_path, 200, [300, 400])
    assert read_curve(tmp_path) == RESUMED
    assert [row["num_frames"] for row in read_rows(tmp_path)] == [100, 200, 300, 400]


def test_a_resume_before_any_checkpointed_row_starts_over(tmp_path):
    write_run(tmp_path, [100, 200])
    resume_run(tmp_path, 0, [100])
    assert read_curve(tmp_path) == [(100, 100.5)]
    assert [row["loss/total"] for row in read_rows(tmp_path)] == [100.5]


def test_a_half_written_last_line_goes(tmp_path):
    write_run(tmp_path, [100, 200])
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"num_frames": 150, "loss/to')
    resume_run(tmp_path, 200, [300])
    assert [row["num_frames"] for row in read_rows(tmp_path)] == [100, 200, 300]


def test_events_lost_in_a_kill_come_back_from_the_rows(tmp_path):
    write_run(tmp_path, [100, 200, 300])
    [events] = (tmp_path / "tensorboard").iterdir()
    content = events.read_bytes()
    events.write_bytes(content[: len(content) // 2])  # torn in the middle of a record
    assert [step for step, _ in read_curve(tmp_path)] == [100]
    resume_run(tmp_path, 200, [300, 400])
    assert read_curve(tmp_path) == RESUMED


def test_a_long_run_keeps_its_early_events_on_a_resume(tmp_path):
    frames = list(range(10, 2510, 10))
    write_run(tmp_path, frames)
    resume_run(tmp_path, 2400, [2450])
    assert [step for step, _ in read_curve(tmp_path)] == [*range(10, 2410, 10), 2450]


def test_means_are_over_each_tags_own_observations():
    means = MeanAccumulator()
    means.add({"a": 1.0, "b": 10.0})
    means.add({"a": 2.0})
    means.add({"a": 6.0})
    assert means.pop() == {"a": 3.0, "b": 10.0}
    assert means.pop() == {}


def test_the_documented_tags_are_the_promised_ones():
    promised = {
        "episode": "return length",
        "loss": "total reward value policy past reward_k{k} value_k{k} policy_k{k} past_k{k} "
        "target_saturated "
        "return return_k{k} entropy entropy_k{k}",
        "advantage": "mean_square",
        "value_buffer": "filled age_mean rho_mean rho_clipped_fraction overlap overlap_newest "
        "overlap_oldest "
        "explained_variance",
        "search": "policy_entropy depth q_range unvisited_fraction root_value_minus_network_value",
        "optimiser": "gradient_norm update_norm learning_rate skipped",
        "perf": "frames_per_second updates_per_second learner_wait_fraction sequences_dropped "
        "feed_wait_fraction feed_copy_fraction batches_ready rollouts_waiting compilations",
        "lag": "params_version_mean params_version_max sequences_dropped",
        "replay": "decisions starts ratio age_mean",
    }
    assert set(DOCUMENTED_TAGS) == {
        f"{group}/{name}" for group, names in promised.items() for name in names.split()
    }
    assert all("\n" not in meaning and meaning for meaning in DOCUMENTED_TAGS.values())
    assert documented_tag("loss/value_k12") == "loss/value_k{k}"
    assert documented_tag("loss/total") == "loss/total"
    assert documented_tag("loss/total_k1") is None
