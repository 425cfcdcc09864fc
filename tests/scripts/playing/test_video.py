"""The video of a game: what the panel draws where, and what ends up in the file."""

import sys

import gymnasium
import imageio.v2 as imageio
import numpy as np
import pytest
from gymnasium import spaces

from actors.agent import Decision
from actors.environments import make_environment
from configs.presets import PRESETS
from configs.schema import Config, ConfigError, EnvConfig
from scripts.playing import evaluation, video, video_panel
from scripts.playing.video_panel import HEIGHT, WIDTH, Panel

POLICY = np.array([0.1, 0.6, 0.05, 0.25], np.float32)
BAR_LEFT, BAR_RIGHT = 24 + 122, WIDTH - 24 - 50


def draw(policy=POLICY, *, action=1, value=2.0, panel=None, total=0.0, num_decisions=0):
    panel = panel or Panel(
        "Game", [f"action {a}" for a in range(len(policy))], value_unit="discounted"
    )
    return panel.draw(Decision(action, np.asarray(policy), value), total, num_decisions)


def painted(image, colour, tolerance=6):
    """Returns where `image` has `colour` [height, width] bool."""
    return (abs(image.astype(int) - colour) <= tolerance).all(-1)


def bars(image, colour):
    """Returns (top, length) of every horizontal bar of `colour` in the bar column, from the top."""
    columns = painted(image, colour)[video_panel._ROW_TOP - 4 :, BAR_LEFT : BAR_RIGHT + 1]
    lengths = columns.sum(axis=1)
    starts = np.flatnonzero((lengths > 3) & (np.append(0, lengths[:-1]) <= 3))
    return [(int(start), int(lengths[start + 2])) for start in starts]


def test_panel_has_the_size_that_the_codec_wants():
    image = draw()
    assert (image.shape, image.dtype) == ((HEIGHT, WIDTH, 3), np.uint8)
    assert HEIGHT % 16 == WIDTH % 16 == 0


def test_bars_are_as_long_as_the_visit_probabilities_and_the_chosen_one_stands_out():
    image = draw()
    width = BAR_RIGHT - BAR_LEFT
    (chosen_top, chosen_length), *more = bars(image, video_panel._CHOSEN)
    assert more == []
    assert chosen_length == pytest.approx(0.6 * width, abs=2)
    others = bars(image, video_panel._BAR)
    assert [length for _, length in others] == pytest.approx(
        [0.1 * width, 0.05 * width, 0.25 * width], abs=2
    )
    tops = [top for top, _ in others]
    assert tops[0] < chosen_top < tops[1] < tops[2]  # in the order of the actions
    assert len(bars(draw(action=3), video_panel._CHOSEN)) == 1
    assert bars(draw(action=3), video_panel._CHOSEN)[0][1] == pytest.approx(0.25 * width, abs=2)


def test_all_eighteen_actions_of_atari_have_a_bar_inside_the_picture():
    image = draw(np.full(18, 1 / 18), action=17)
    assert len(bars(image, video_panel._BAR)) == 17
    assert len(bars(image, video_panel._CHOSEN)) == 1
    assert painted(image[-8:], video_panel._GROUND).all()


def test_of_many_actions_the_most_visited_are_shown():
    policy = np.full(40, 0.001)
    policy[[3, 30]] = 0.5, 0.3
    image = draw(policy, action=3)
    width = BAR_RIGHT - BAR_LEFT
    assert bars(image, video_panel._CHOSEN)[0][1] == pytest.approx(0.5 * width, abs=2)
    assert bars(image, video_panel._BAR)[-1][1] == pytest.approx(0.3 * width, abs=2)


def curve_heights(image):
    """Returns the rows of the curve's topmost pixel in every column it is drawn in,
    from the left.
    """
    # Inside the card, without its labels
    mask = painted(image, video_panel._VALUE)[175:300, 24 : WIDTH - 24 - 56]
    return [int(np.flatnonzero(column)[0]) for column in mask.T if column.any()]


def test_the_curve_shows_the_values_of_the_last_decisions_the_newest_at_the_right():
    panel = Panel("Game", list("abcd"), value_unit="discounted")
    for value in np.linspace(0.0, 10.0, 120):
        rising = draw(value=value, panel=panel)
    heights = curve_heights(rising)
    assert len(heights) > 120
    assert heights[0] - heights[-1] > 80  # rows count downwards: it rises
    for _ in range(video_panel._CURVE_LENGTH):
        flat = draw(value=10.0, panel=panel)
    # The rise has scrolled away
    assert max(curve_heights(flat)[:-12]) - min(curve_heights(flat)[:-12]) <= 1
    assert len(curve_heights(flat)) > 1.8 * len(heights)


def test_numbers_change_with_return_value_and_decision():
    base = draw()
    left, right = (slice(66, 139), slice(24, 210)), (slice(66, 139), slice(222, WIDTH - 24))
    header = (slice(20, 60), slice(WIDTH // 2, WIDTH))
    for changed, region in (
        (draw(total=1234.0), left),
        (draw(value=-5.5), right),
        (draw(num_decisions=77), header),
    ):
        assert (changed[region] != base[region]).any()
        outside = changed.copy()
        outside[region] = base[region]
        outside[150:307] = base[150:307]  # the labels of the curve follow the value
        np.testing.assert_array_equal(outside, base)


@pytest.mark.parametrize(
    "shape, width, box",
    # height and width of a frame; width of the stage; top, left, height and width of the picture in
    # it
    [
        ((210, 160), 480, (5, 0, 630, 480)),  # Atari, three times
        ((160, 160), 640, (0, 0, 640, 640)),  # MinAtar
        ((400, 600), 800, (53, 0, 533, 800)),  # Gymnasium's classics
        ((1000, 1000), 640, (0, 0, 640, 640)),
    ],
)
def test_frames_are_fitted_to_the_stage(shape, width, box):
    frame = np.full((*shape, 3), 200, np.uint8)
    frame[0, 0] = 10
    stage = video._stage(frame)
    assert stage.shape == (640, width, 3) and stage.dtype == np.uint8
    top, left, picture_height, picture_width = box
    bright = (stage > 100).all(-1)
    rows, columns = np.flatnonzero(bright.any(1)), np.flatnonzero(bright.any(0))
    assert (rows[0], columns[0], len(rows), len(columns)) == (
        top,
        left,
        picture_height,
        picture_width,
    )


def test_small_pictures_keep_sharp_edges():
    frame = np.random.default_rng(0).integers(0, 256, (210, 160, 3), np.uint8)
    np.testing.assert_array_equal(video._stage(frame)[5:635:3, 0:480:3], frame)


def test_actions_have_the_names_of_the_game():
    def names(name, count):
        return evaluation.action_names(make_environment(EnvConfig(name), training=False), count)

    assert names("breakout", 4) == ["NOOP", "FIRE", "RIGHT", "LEFT"]
    assert names("CartPole-v1", 2) == ["action 0", "action 1"]


class Painted(gymnasium.Env):
    """A game of `LENGTH` decisions, reward 2.5 each; state t is painted in its own grey."""

    LENGTH = 6
    metadata = {"render_modes": ["rgb_array"], "render_fps": 20}
    observation_space = spaces.Box(0, 9, (1,), np.float32)
    action_space = spaces.Discrete(4)

    def __init__(self, render_mode=None):
        self.render_mode, self.closed = render_mode, False

    def reset(self, *, seed=None, options=None):
        self.time = 0
        return np.array([0], np.float32), {}

    def step(self, action):
        self.time += 1
        return np.array([self.time], np.float32), 2.5, self.time == self.LENGTH, False, {}

    def render(self):
        return np.full((100, 100, 3), 30 * self.time + 20, np.uint8)


class Agent:
    """Stands in for the real agent: remembers what it was shown."""

    def __init__(self):
        self.shown = []

    def decide(self, observation, is_first):
        self.shown.append((float(observation[0, 0]), bool(is_first[0])))
        return Decision(np.array([1], np.int32), POLICY[None], np.array([0.5]))


@pytest.fixture
def painted_game(monkeypatch):
    gymnasium.register("Painted-v0", entry_point=Painted)
    agent = Agent()
    monkeypatch.setattr(evaluation, "make_agent", lambda *args, **kwargs: agent)
    yield Config(env=EnvConfig(name="Painted-v0")), agent
    del gymnasium.registry["Painted-v0"]


def read(path):
    with imageio.get_reader(path) as reader:
        return reader.get_meta_data(), [frame for frame in reader]


def test_the_file_holds_every_state_of_one_game_and_lingers_on_the_last(painted_game, tmp_path):
    config, agent = painted_game
    path = tmp_path / "new folder" / "game.mp4"
    video.record(config, None, path, seed=3)
    assert agent.shown == [(0.0, True), *((float(t), False) for t in range(1, 7))]
    meta, frames = read(path)
    assert meta["size"] == (1040, 640) and meta["fps"] == 20.0 and meta["codec"] == "h264"
    assert len(frames) == 7 + 2 * 20
    greys = [frame[300:340, 300:340].mean() for frame in frames]
    assert greys[:7] == pytest.approx([30 * t + 20 for t in range(7)], abs=4)
    assert greys[7:] == pytest.approx([200] * 40, abs=4)
    orange = painted(frames[0], video_panel._CHOSEN, tolerance=40)
    # The panel is to the right of the game
    assert orange[:, 608:].sum() > 1000 and not orange[:, :608].any()


def test_a_game_without_end_is_cut(painted_game, tmp_path, monkeypatch):
    config, agent = painted_game
    monkeypatch.setattr(video, "MAX_DECISIONS", 4)
    video.record(config, None, tmp_path / "game.mp4", seed=3)
    assert len(agent.shown) == 5
    assert len(read(tmp_path / "game.mp4")[1]) == 5 + 40


def test_the_panel_counts_the_return_of_the_game(painted_game, monkeypatch, tmp_path):
    config, _ = painted_game
    drawn = []
    original = Panel.draw
    monkeypatch.setattr(
        Panel, "draw", lambda self, *args: drawn.append(args) or original(self, *args)
    )
    video.record(config, None, tmp_path / "game.mp4", seed=3)
    assert [total for _, total, _ in drawn] == [2.5 * t for t in range(7)]
    assert [num_decisions for _, _, num_decisions in drawn] == list(range(7))
    assert drawn[0][0].action == 1 and drawn[0][0].policy.shape == (4,)


class Unpainted(Painted):
    """Cannot be rendered."""

    metadata = {"render_modes": []}

    def render(self):
        return None


@pytest.mark.filterwarnings("ignore:.*render_mode='rgb_array'")
def test_an_environment_without_pictures_is_refused(tmp_path):
    gymnasium.register("Unpainted-v0", entry_point=Unpainted)
    with pytest.raises(ConfigError, match=r"^--video: Unpainted-v0 cannot be rendered here"):
        video.record(
            Config(env=EnvConfig(name="Unpainted-v0")), None, tmp_path / "game.mp4", seed=0
        )
    del gymnasium.registry["Unpainted-v0"]
    assert list(tmp_path.iterdir()) == []


def test_cartpole_without_pygame_says_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "pygame", None)
    with pytest.raises(
        ConfigError, match=r"CartPole-v1 cannot be rendered here: .*gymnasium\[classic-control\]"
    ):
        video.check(PRESETS["cartpole"], tmp_path / "game.mp4")


def test_another_ending_is_refused_before_anything_is_played(tmp_path):
    with pytest.raises(ConfigError, match=r"--video .*game\.gif: must end in \.mp4"):
        video.check(PRESETS["smoke"], tmp_path / "game.gif")
    video.check(PRESETS["smoke"], tmp_path / "game.MP4")
