"""What a run says of itself beside its line of progress."""

import io
import json
import sys

import pytest

from learner.loop import Counters
from learner.records.run_directory import RunDirectory
from scripts.training.recording import Recording

SPEED = {"perf/frames_per_second": 1.0, "perf/updates_per_second": 1.0}


@pytest.fixture
def recording(tmp_path, monkeypatch):
    """Returns the recording of a run that goes on after two skipped updates, and what it prints."""
    out = io.StringIO()
    monkeypatch.setattr(sys, "stdout", out)
    directory = RunDirectory.create(tmp_path / "run", {}, ["test"], {})
    parts = Recording(directory, Counters(num_skipped=2), is_resumed=False, num_frames=None)
    yield parts, out
    parts.close()


def warnings(recording, counters, **scalars):
    """Returns the lines of a row that are warnings."""
    parts, out = recording
    out.seek(0)
    out.truncate()
    parts.add_row(counters, SPEED | scalars, (0.5,))
    return [line for line in out.getvalue().splitlines() if line.startswith("warning: ")]


def test_skipped_updates_are_told_whenever_there_are_more(recording):
    def skipped(number):
        return warnings(recording, Counters(num_skipped=number))

    assert skipped(2) == []  # told by the session before
    (line,) = skipped(5)
    assert line.startswith("warning: 5 updates skipped since the start of the run")
    assert skipped(5) == []
    assert len(skipped(6)) == 1


def test_targets_beyond_the_support_are_told_once(recording):
    def saturated(share):
        return warnings(recording, Counters(), **{"loss/target_saturated": share})

    assert saturated(0.1) == []
    (line,) = saturated(0.87)
    assert "87% of the value targets" in line and "env.reward_clip" in line
    assert saturated(0.9) == []


def test_rows_are_json_without_nan(recording, tmp_path):
    warnings(recording, Counters(), **{"loss/total": float("nan")})
    (row,) = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    assert json.loads(row, parse_constant=pytest.fail)["loss/total"] is None
