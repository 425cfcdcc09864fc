"""The Atari preprocessing: against raw emulators, ale_py's vector environment and a scripted
emulator.
"""

import csv
from types import MappingProxyType

import ale_py
import cv2
import numpy as np
import pytest
from ale_py import roms

from actors import atari, scores
from actors.environments import environment_spec, make_environment, resolve_name
from configs.schema import EnvConfig

with open(scores.__file__.replace("scores.py", "atari_scores.csv")) as table:
    PAPER_GAMES = [row["game"] for row in csv.DictReader(table)]
# Frames the emulator counts while it presses the start buttons of a game; the other games count
# none.
STARTUP_FRAMES = {
    "berzerk": 20,
    "double_dunk": 13,
    "name_this_game": 134,
    "surround": 1,
    "yars_revenge": 7,
}
NOOP, FIRE, RIGHT = range(3)  # of Breakout's minimal action set


def raw_emulator(rom):
    ale_py.ALEInterface.setLoggerMode(ale_py.LoggerMode.Error)
    ale = ale_py.ALEInterface()
    ale.setFloat("repeat_action_probability", 0.0)
    ale.loadROM(roms.get_rom_path(rom))
    ale.reset_game()
    return ale


class ScriptedEmulator:
    """Screen n is filled with `grey[n]`, n = frames since power-on; a game lasts `game_frames`
    frames.
    """

    grey = tuple(range(100))
    game_frames = 100
    lives_at = MappingProxyType({})

    def __init__(self):
        self.settings, self.frame, self.game_start, self.resets, self.current_lives = {}, 0, 0, 0, 3

    @staticmethod
    def setLoggerMode(mode):
        assert mode == ale_py.LoggerMode.Error

    def setFloat(self, key, value):
        self.settings[key] = value

    setInt = setFloat

    def loadROM(self, path):
        assert path.name == "breakout.bin"

    def getMinimalActionSet(self):
        return [ale_py.Action.NOOP, ale_py.Action.FIRE]

    def getScreenDims(self):
        return (210, 160)

    def getScreenGrayscale(self, out):
        out.fill(self.grey[self.frame])

    def act(self, action):
        self.frame += 1
        self.current_lives = self.lives_at.get(self.frame, self.current_lives)
        return 1 if action == ale_py.Action.FIRE else 0

    def game_over(self, with_truncation=True):
        return self.getEpisodeFrameNumber() >= self.game_frames

    def game_truncated(self):
        return False

    def lives(self):
        return self.current_lives

    def getEpisodeFrameNumber(self):
        return self.frame - self.game_start

    def reset_game(self):
        self.game_start, self.resets = self.frame, self.resets + 1


@pytest.fixture
def scripted(monkeypatch):
    def make(max_noops=0, emulator=ScriptedEmulator, **settings):
        monkeypatch.setattr(atari.ale_py, "ALEInterface", emulator)
        return make_environment(
            EnvConfig("breakout", max_noops=max_noops, **settings), training=True
        )

    return make


def test_all_57_games_of_the_paper_start_and_play():
    assert len(PAPER_GAMES) == 57
    for game in PAPER_GAMES:
        env = make_environment(EnvConfig(game), training=True)
        observation, info = env.reset()
        assert (observation.shape, observation.dtype) == ((96, 96, 1), np.uint8), game
        assert 0 <= info["episode_frames"] - STARTUP_FRAMES.get(game, 0) <= 30, game
        observation, reward, terminated, truncated, info_after = env.step(env.action_space.n - 1)
        assert info_after["episode_frames"] == info["episode_frames"] + 4, game
        assert observation in env.observation_space and isinstance(reward, float)
        assert (terminated, truncated) == (False, False), game


@pytest.mark.parametrize("game", PAPER_GAMES)
def test_every_usual_spelling_is_one_name(game):
    camel = game.title().replace("_", "")
    canonical = f"ALE/{camel}-v5"
    spellings = [
        game,
        game.replace("_", ""),
        game.replace("_", " "),
        game.replace("_", "-"),
        game.upper(),
        camel,
    ]
    spellings += [
        canonical,
        f"ALE/{camel}",
        f"{camel}-v4",
        f"{camel}NoFrameskip-v4",
        f"ale_py:{canonical}",
    ]
    assert {resolve_name(spelling) for spelling in spellings} == {canonical}
    assert atari.find_game(canonical).kwargs["game"] == game


@pytest.mark.parametrize(
    ("title", "name"),
    [
        ("Q*bert", "ALE/Qbert-v5"),
        ("Yars' Revenge", "ALE/YarsRevenge-v5"),
        ("Montezuma's Revenge", "ALE/MontezumaRevenge-v5"),
        ("Ms. Pac-Man", "ALE/MsPacman-v5"),
        ("H.E.R.O.", "ALE/Hero-v5"),
        ("Up 'n Down", "ALE/UpNDown-v5"),
        ("Robot Tank", "ALE/Robotank-v5"),
        ("tic_tac_toe_3d", "ALE/TicTacToe3D-v5"),
    ],
)
def test_printed_titles_and_other_games_are_known(title, name):
    assert resolve_name(title) == name


def test_games_that_would_end_the_process_are_unknown():
    assert [atari.find_game(game) for game in ("combat", "joust", "maze_craze", "warlords")] == [
        None
    ] * 4


@pytest.mark.parametrize("game", ["ms_pacman", "space_invaders"])
def test_observation_is_the_maximum_of_all_four_screens(game):
    env, ale = make_environment(EnvConfig(game, max_noops=0), training=False), raw_emulator(game)
    actions, rng = ale.getMinimalActionSet(), np.random.default_rng(0)
    assert environment_spec(env) == ((96, 96, 1), "uint8", len(actions), 4)
    observation, _ = env.reset()
    first = cv2.resize(ale.getScreenGrayscale(), (96, 96), interpolation=cv2.INTER_AREA)
    np.testing.assert_array_equal(observation[:, :, 0], first)
    differs_from_last_two = 0
    for action in rng.integers(len(actions), size=100):
        observation, reward, terminated, _, _ = env.step(action)
        expected_reward, screens = 0, []
        for _ in range(4):
            expected_reward += ale.act(actions[action])
            screens.append(ale.getScreenGrayscale())
        expected, last_two = (
            cv2.resize(np.stack(s).max(axis=0), (96, 96), interpolation=cv2.INTER_AREA)
            for s in (screens, screens[2:])
        )
        assert not terminated
        assert reward == expected_reward
        np.testing.assert_array_equal(observation[:, :, 0], expected)
        differs_from_last_two += bool((expected != last_two).any())
    assert differs_from_last_two > 50


@pytest.mark.parametrize("game", ["breakout", "pong"])
def test_agrees_with_the_vector_environment_of_ale_py_in_its_mode(game):
    oracle = ale_py.AtariVectorEnv(
        game, 1, num_threads=1, stack_num=1, noop_max=0, use_fire_reset=False, reward_clipping=False
    )
    env = make_environment(
        EnvConfig(game, frame_size=84, max_pool_frames=2, max_noops=0), training=False
    )
    assert env.action_space.n == oracle.single_action_space.n
    expected, _ = oracle.reset(seed=0)
    observation, _ = env.reset()
    np.testing.assert_array_equal(observation[:, :, 0], expected[0, 0])
    total = 0.0
    for action in np.random.default_rng(0).integers(env.action_space.n, size=150):
        expected, expected_reward, *_, expected_info = oracle.step(np.array([action]))
        observation, reward, terminated, truncated, info = env.step(action)
        np.testing.assert_array_equal(observation[:, :, 0], expected[0, 0])
        assert (reward, info["lives"]) == (expected_reward[0], expected_info["lives"][0])
        assert not (terminated or truncated)
        total += abs(reward)
    oracle.close()
    assert total > 0


@pytest.mark.parametrize(("max_pool_frames", "brightest"), [(1, 10), (2, 30), (3, 30), (4, 90)])
def test_pools_the_last_frames_of_the_repeat_only(scripted, max_pool_frames, brightest):
    class Bright(ScriptedEmulator):
        grey = (255, 90, 20, 30, 10)

    env = scripted(emulator=Bright, max_pool_frames=max_pool_frames)
    env.reset(seed=0)
    observation, reward, *_ = env.step(1)
    assert (observation == brightest).all()
    assert reward == 4.0


@pytest.mark.parametrize(("max_pool_frames", "brightest"), [(4, 90), (2, 20), (1, 20)])
def test_repeat_stops_at_the_frame_that_ends_the_game(scripted, max_pool_frames, brightest):
    class Short(ScriptedEmulator):
        grey, game_frames = (255, 90, 20, 255, 255), 2

    env = scripted(emulator=Short, max_pool_frames=max_pool_frames)
    env.reset(seed=0)
    observation, reward, terminated, truncated, info = env.step(1)
    assert (observation == brightest).all()
    assert (reward, terminated, truncated, info["episode_frames"]) == (2.0, True, False, 2)


def test_a_game_that_ends_during_the_noops_is_reset_again(scripted):
    class Short(ScriptedEmulator):
        grey, game_frames = (0,) * 10_000, 3

    env = scripted(emulator=Short, max_noops=30)
    starts = {env.reset()[1]["episode_frames"] for _ in range(100)}
    assert starts == {0, 1, 2}
    assert env.emulator.resets > 100


def test_starts_draw_zero_to_max_noops_inclusive_and_uniformly(scripted):
    class Long(ScriptedEmulator):
        grey = (0,) * 100_000

    env = scripted(emulator=Long, max_noops=30)
    env.reset(seed=0)
    counts = np.bincount([env.reset()[1]["episode_frames"] for _ in range(3100)], minlength=32)
    assert counts[31:].sum() == 0
    assert counts[:31].min() > 60 and counts[:31].max() < 150


def test_life_loss_is_signalled_once_in_training_only(scripted):
    class Lives(ScriptedEmulator):
        lives_at = MappingProxyType({6: 2, 9: 3, 16: 1})

    lost = {}
    for key, settings in {"training": {}, "ignored": {"terminate_on_life_loss": False}}.items():
        env = scripted(emulator=Lives, **settings)
        env.reset(seed=0)
        steps = [env.step(0) for _ in range(5)]
        assert not any(terminated or truncated for _, _, terminated, truncated, _ in steps)
        lost[key] = [info["life_lost"] for *_, info in steps]
    assert lost == {"training": [False, True, False, True, False], "ignored": [False] * 5}


def breakout_until_the_end(**settings):
    env = make_environment(EnvConfig("breakout", max_noops=0), **settings)
    env.reset()
    steps = [env.step(FIRE if t % 10 == 0 else NOOP) for t in range(400)]
    return steps[: 1 + [terminated for _, _, terminated, _, _ in steps].index(True)]


def test_losing_lives_does_not_reset_breakout():
    training, evaluation = (
        breakout_until_the_end(training=True),
        breakout_until_the_end(training=False),
    )
    assert [info["lives"] for *_, info in training if info["life_lost"]] == [4, 3, 2, 1, 0]
    assert not any(info["life_lost"] for *_, info in evaluation)
    assert len(training) == len(evaluation) > 100
    for (observation, *_), (same, *_) in zip(training, evaluation, strict=True):
        np.testing.assert_array_equal(observation, same)
    frames = [info["episode_frames"] for *_, info in training]
    assert frames[:-1] == list(range(4, 4 * len(frames), 4))


def test_truncated_at_exactly_max_episode_frames():
    env = make_environment(EnvConfig("pong", max_noops=0, max_episode_frames=102), training=True)
    env.reset()
    steps = [env.step(0) for _ in range(26)]
    assert [truncated for *_, truncated, _ in steps] == [False] * 25 + [True]
    assert not any(terminated for _, _, terminated, _, _ in steps)
    assert steps[-1][-1]["episode_frames"] == 102
    assert env.reset()[1]["episode_frames"] == 0


def test_the_paper_settings_reach_the_emulator(scripted):
    settings = scripted().emulator.settings
    assert (settings["repeat_action_probability"], settings["max_num_frames_per_episode"]) == (
        0.0,
        108_000,
    )
    assert scripted(sticky_action_prob=0.25).emulator.settings["repeat_action_probability"] == 0.25


def play(env, seed, num_steps=40):
    actions = np.random.default_rng(0).integers(env.action_space.n, size=num_steps)
    first, info = env.reset(seed=seed)
    return info["episode_frames"], np.stack([first] + [env.step(action)[0] for action in actions])


def test_seeds_reproduce_noops_and_sticky_actions():
    env = make_environment(EnvConfig("breakout", sticky_action_prob=0.25), training=True)
    noops, screens = play(env, seed=3)
    env.reset()
    noops_again, screens_again = play(env, seed=3)
    assert noops == noops_again
    np.testing.assert_array_equal(screens, screens_again)
    sticky = make_environment(
        EnvConfig("breakout", sticky_action_prob=0.25, max_noops=0), training=True
    )
    assert (play(sticky, seed=3)[1] != play(sticky, seed=4)[1]).any()


def test_an_action_out_of_range_raises():
    env = make_environment(EnvConfig("breakout"), training=True)
    env.reset()
    with pytest.raises(ValueError, match="action is -1, allowed: 0 to 3"):
        env.step(-1)
    with pytest.raises(ValueError, match="action is 4, allowed: 0 to 3"):
        env.step(4)


@pytest.mark.parametrize("max_pool_frames", [0, 5])
def test_a_maximum_over_frames_that_are_not_played_raises(max_pool_frames):
    with pytest.raises(ValueError, match="max_pool_frames"):
        make_environment(EnvConfig("breakout", max_pool_frames=max_pool_frames), training=True)


def test_observations_are_never_overwritten():
    env = make_environment(EnvConfig("breakout"), training=True)
    observations = [env.reset()[0]] + [env.step(FIRE)[0] for _ in range(20)]
    copies = [observation.copy() for observation in observations]
    for _ in range(20):
        env.step(RIGHT)
    for observation, copy in zip(observations, copies, strict=True):
        np.testing.assert_array_equal(observation, copy)
    assert not np.shares_memory(observations[0], observations[1])


def test_render_shows_the_emulator_in_colour():
    env = make_environment(EnvConfig("breakout"), training=False, render=True)
    env.reset()
    frame = env.render()
    assert (frame.shape, frame.dtype, env.metadata["render_fps"]) == ((210, 160, 3), np.uint8, 15.0)
    assert (frame[..., 0] != frame[..., 2]).any()
    with pytest.raises(ValueError, match="render=False"):
        make_environment(EnvConfig("breakout"), training=False).render()


def test_the_emulator_is_silent(capfd):
    make_environment(EnvConfig("breakout"), training=True).reset(seed=0)
    assert capfd.readouterr() == ("", "")


def test_human_normalised_scores():
    assert scores.human_normalised("ALE/Breakout-v5", 30.5) == 1.0
    assert scores.human_normalised("breakout", 1.7) == 0.0
    assert scores.human_normalised("Pong", 14.6 + 35.3) == pytest.approx(2.0)
    assert scores.human_normalised("Skiing", -17098.1) == 0.0
    unlisted = ("CartPole-v1", "MinAtar/Breakout-v1", "tetris")
    assert [scores.human_normalised(name, 1.0) for name in unlisted] == [None, None, None]
