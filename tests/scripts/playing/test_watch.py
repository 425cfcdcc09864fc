"""The line for whoever waits for games to end."""

import sys

import pytest

from scripts.playing.watch import Watch


@pytest.mark.parametrize(
    ("is_terminal", "expected"),
    [
        (False, "  greedy: 1 of 9 games, 6 s\n  greedy: 4 of 9 games, 12 s\n"),
        (True, "\r\x1b[K  greedy: 1 of 9 games, 6 s\r\x1b[K  greedy: 4 of 9 games, 12 s\r\x1b[K"),
    ],
)
def test_it_speaks_now_and_then(capsys, monkeypatch, is_terminal, expected):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: is_terminal)
    times = iter([100.0, 100.5, 106.0, 106.5, 112.0])
    watch = Watch("greedy", 9, clock=lambda: next(times))
    for num_ended in (0, 1, 2, 4):
        watch(num_ended)
    watch.close()
    assert capsys.readouterr().err == expected
