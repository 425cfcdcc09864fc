"""What a run leaves at its end, as pictures."""

import re

import pytest
from matplotlib import pyplot
from matplotlib.figure import Figure

from configs import presets
from configs.schema import ConfigError
from learner.records.run_directory import NotWritten
from scripts.playing import video
from scripts.training import ending

RESULTS = [
    {"protocol": protocol, "mean": mean, "standard_error": error, "returns": [mean] * 3}
    for protocol, mean, error in (
        ("sampled", 30.0, 2.0),
        ("greedy", 40.0, 4.0),
        ("constant", 10.0, 1.0),
        ("random", 5.0, None),
    )
]


def drawn(monkeypatch, tmp_path, rows):
    """Returns the axes that `draw_curve` leaves in its file."""
    kept, before = [], pyplot.get_fignums()
    save = Figure.savefig
    monkeypatch.setattr(
        Figure,
        "savefig",
        lambda figure, *args, **kwargs: kept.append(figure) or save(figure, *args, **kwargs),
    )
    ending.draw_curve(presets.PRESETS["smoke"], rows, RESULTS, tmp_path / "curve.png")
    assert (tmp_path / "curve.png").read_bytes().startswith(b"\x89PNG")
    assert pyplot.get_fignums() == before  # nothing is left in memory
    (panel,) = kept[0].axes
    return panel


def test_the_curve_holds_what_was_played_and_every_score(monkeypatch, tmp_path):
    rows = [
        {"num_frames": 100_000, "episode/return": 7.0},
        {"num_frames": 200_000},  # no game ended
        {"num_frames": 300_000, "episode/return": None},  # nor here
        {"num_frames": 400_000, "episode/return": 9.0},
    ]
    panel = drawn(monkeypatch, tmp_path, rows)
    played, *scores = panel.get_lines()
    assert played.get_xdata().tolist() == [0.1, 0.4] and played.get_ydata().tolist() == [7.0, 9.0]
    assert [line.get_ydata()[0] for line in scores] == [30.0, 40.0, 10.0, 5.0]
    assert len({(line.get_color(), line.get_linestyle()) for line in scores}) == 4
    assert "seed 0" in panel.get_title() and "3 games" in panel.get_title()
    assert panel.get_xlabel() == "environment frames (millions)"
    assert panel.get_xlim() == (0, 0.4)


def test_a_run_in_which_no_game_ended_is_drawn_and_says_so(monkeypatch, tmp_path):
    panel = drawn(monkeypatch, tmp_path, [{"num_frames": 100_000}])
    assert panel.get_lines()[0].get_label() == "as played: no game has ended"


@pytest.mark.parametrize(
    "error", [ConfigError("--video: Own-v0 cannot be rendered"), OSError("no space left")]
)
def test_a_game_that_cannot_be_filmed_costs_a_line(monkeypatch, tmp_path, capsys, error):
    def refuse(*args, **kwargs):
        raise error

    monkeypatch.setattr(video, "record", refuse)
    ending.film(presets.PRESETS["smoke"], None, tmp_path / "game.mp4", seed=0)
    assert capsys.readouterr().out == f"no video: {error}\n"


def test_a_curve_that_cannot_be_written_is_named(tmp_path):
    path = tmp_path / "none" / "curve.png"
    with pytest.raises(NotWritten, match=re.escape(str(path))):
        ending.draw_curve(presets.PRESETS["smoke"], [], RESULTS, path)
