"""PPO's environments against a scripted game, and the whole program on a tiny budget, where the
extra is installed.
"""

import json
import sys

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces

import scripts.benchmarks
from actors.environments import Stream
from configs.schema import ConfigError
from muzero.types import Episode
from scripts import ppo as program
from scripts.experiments import results

OPTIONS = [
    "--preset",
    "smoke",
    "--games",
    "breakout",
    "--decisions",
    "1100",
    "--episodes",
    "2",
    "--max-decisions",
    "9",
]
PLAIN, LOST_LIFE = (1.0, False, False, False), (0.0, False, False, True)
OVER, CUT = (5.0, True, False, False), (0.0, False, True, False)


class Scripted(gymnasium.Env):
    """Decision t of every game replays `script[t]`; all pixels of state s, counted over all games,
    are s.
    """

    observation_space = spaces.Box(0, 255, (36, 36, 1), np.uint8)
    action_space = spaces.Discrete(3)

    def __init__(self, script):
        self.script, self.state = script, -1

    def reset(self, *, seed=None, options=None):
        self.time = 0
        return self._next(), {}

    def step(self, action):
        reward, terminated, truncated, life_lost = self.script[self.time]
        self.time += 1
        return self._next(), reward, terminated, truncated, {"life_lost": life_lost}

    def _next(self):
        self.state += 1
        return np.full((36, 36, 1), self.state, np.uint8)


@pytest.fixture
def ppo():
    """Returns the module; skips where stable-baselines3 is not installed."""
    pytest.importorskip("stable_baselines3")
    from scripts.benchmarks import ppo as module

    return module


def test_games_start_anew_at_once_and_lost_lives_end_episodes(ppo):
    from stable_baselines3.common.vec_env import VecFrameStack

    scripts_of = ([PLAIN, LOST_LIFE, PLAIN, OVER], [CUT])
    streams = [Stream(Scripted(script), seed=0, reward_clip=1.0) for script in scripts_of]
    environments = ppo.StreamVecEnv(streams)
    stacked = VecFrameStack(environments, 2)
    assert stacked.reset()[:, 0, 0].tolist() == [[0, 0], [0, 0]]
    steps = [stacked.step(np.array([1, 2])) for _ in range(4)]
    # Stacks of two frames. The first game: states 0 to 4, then 5; the second: 0 and 1, 2 and 3, ...
    assert [step[0][0, 0, 0].tolist() for step in steps] == [[0, 1], [0, 2], [2, 3], [0, 5]]
    assert [step[0][1, 0, 0].tolist() for step in steps] == [[0, 2], [0, 4], [0, 6], [0, 8]]
    assert [step[1].tolist() for step in steps] == [[1, 0], [0, 0], [1, 0], [1, 0]]  # clipped
    assert [step[2].tolist() for step in steps] == [
        [False, True],
        [True, True],
        [False, True],
        [True, True],
    ]
    last = [info["terminal_observation"][0, 0].tolist() for info in steps[3][3]]
    assert last == [[3, 4], [6, 7]]  # the stack of the final observation
    assert [info["TimeLimit.truncated"] for info in steps[3][3]] == [False, True]
    assert environments.num_frames == 8  # 2 environments, 4 decisions of a frame
    assert environments.episodes == [
        *((frames, Episode(0.0, 1, 1)) for frames in (2, 4, 6)), (8, Episode(7.0, 4, 4)),
        (8, Episode(0.0, 1, 1)),
    ]  # fmt: skip


def test_an_agent_sees_the_frames_of_the_present_game_only(ppo):
    seen = []

    class Model:
        def predict(self, stack, deterministic):
            seen.append((stack[:, 0, 0].tolist(), deterministic))
            return np.zeros(len(stack), int), None

    agent = ppo.PpoAgent(Model(), 3, is_greedy=True)

    def frames(*values):
        return np.array(values, np.uint8)[:, None, None, None]

    agent.decide(frames(1, 5), np.array([True, True]))
    agent.decide(frames(2, 6), np.array([False, True]))
    agent.decide(frames(3, 7), np.array([False, False]))
    stacks = [[[0, 0, 1], [0, 0, 5]], [[0, 1, 2], [0, 0, 6]], [[1, 2, 3], [0, 6, 7]]]
    assert seen == [(stack, True) for stack in stacks]


def test_the_program_writes_results_that_a_report_reads_and_adds_to_them(ppo, tmp_path, capsys):
    assert program.main([*OPTIONS, "--seeds", "3", "--out", str(tmp_path)]) == 0
    found = results.read(tmp_path / "results.csv")
    rows = {row.kind: row for row in found.rows if row.kind != results.CURVE}
    assert set(rows) == {
        "last-10-percent",
        "training-final-200",
        "sampled",
        "greedy",
        "constant",
        "random",
    }
    assert {(row.arm, row.game, row.seed, row.frames) for row in rows.values()} == {
        ("ppo", "breakout", 3, 4 * 1024)
    }
    assert [rows[kind].episodes for kind in ("sampled", "greedy", "constant", "random")] == [2] * 4
    assert rows["training-final-200"].episodes >= 60  # games are truncated after 15 decisions
    assert json.loads(found.comments[0].removeprefix("ppo: ").split(";")[0])["decisions"] == 1024
    capsys.readouterr()
    # Nothing is left to do
    assert program.main([*OPTIONS, "--seeds", "3", "--out", str(tmp_path)]) == 0
    assert capsys.readouterr().out == f"results: {tmp_path / 'results.csv'}\n"
    with pytest.raises(ConfigError, match="of other options"):
        program.main([*OPTIONS, "--seeds", "4", "--no-baselines", "--out", str(tmp_path)])


@pytest.mark.parametrize(
    "options, message",
    [
        (["--games", "CartPole-v1"], "--games CartPole-v1: observations float32"),
        (["--games", "asault"], "env.name = asault: unknown environment"),
        (["--decisions", "1023"], "--decisions: must be at least 1024"),
        (["--preset", "none"], "--preset none: must be one of"),
        (["--episodes", "0"], "--episodes: must be at least 1"),
    ],
)
def test_what_cannot_be_trained_on_is_refused(ppo, tmp_path, options, message):
    with pytest.raises(ConfigError, match=message):
        program.main([*OPTIONS, *options, "--out", str(tmp_path)])
    assert list(tmp_path.iterdir()) == []


def test_without_the_extra_it_says_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "stable_baselines3", None)
    monkeypatch.delitem(sys.modules, "scripts.benchmarks.ppo", raising=False)
    monkeypatch.delattr(scripts.benchmarks, "ppo", raising=False)
    with pytest.raises(ConfigError, match=r"PPO needs the extra `ppo`: pip install '\.\[ppo\]'"):
        program.main([*OPTIONS, "--out", str(tmp_path)])
