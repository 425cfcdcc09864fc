"""The line for whoever watches a run."""

import io

import pytest

from learner.records.progress import Progress, ProgressState, format_progress

STATE = ProgressState(
    mean_return=12.345,
    num_frames=1_200_000,
    total_frames=5_000_000,
    frames_per_second=3210.4,
    updates_per_second=6.126,
    lag=1.5,
    fractions_done=(0.24, 0.5),
)


def test_the_line_says_everything():
    assert format_progress(STATE, 3_725.0) == (
        "return 12.35 | frames 1,200,000/5,000,000 | 3,210 frames/s | 6.13 updates/s | lag 1.5 | "
        "time left 1:02:05"
    )
    unknown = STATE._replace(mean_return=None, total_frames=None)
    assert format_progress(unknown, None).startswith("return ? | frames 1,200,000 | ")
    assert format_progress(unknown, None).endswith("| time left ?")


def test_plain_lines_and_the_time_left_to_the_first_limit():
    stream, times = io.StringIO(), iter([100.0, 100.0, 160.0])
    progress = Progress(stream=stream, clock=lambda: next(times))
    progress.update(STATE)
    # 0.1 of the second limit in 60 s, 0.4 to go
    progress.update(STATE._replace(fractions_done=(0.25, 0.6)))
    progress.close()
    first, second = stream.getvalue().splitlines()
    assert first.endswith("time left ?") and second.endswith("time left 0:04:00")
    assert "\x1b" not in stream.getvalue()


def test_a_terminal_gets_one_line_rewritten_in_place():
    stream = io.StringIO()
    progress = Progress(interactive=True, stream=stream)
    progress.update(STATE)
    progress.update(STATE._replace(mean_return=99.0))
    progress.close()
    assert "return 99.00" in stream.getvalue() and "\x1b[" in stream.getvalue()
    assert stream.getvalue().count("\n") <= 2


@pytest.mark.parametrize("interactive", [True, False])
def test_a_line_that_is_said_stays(interactive):
    stream = io.StringIO()
    progress = Progress(interactive=interactive, stream=stream)
    progress.say("warning: [bold]targets[/bold]")  # no markup
    progress.update(STATE)
    progress.close()
    assert "warning: [bold]targets[/bold]" in stream.getvalue()
