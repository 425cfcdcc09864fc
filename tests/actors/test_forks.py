"""Forks: a stream goes on from an earlier state, by new chances, and no time limit ends it."""

import pytest

from actors.atari import AtariGame
from actors.environments import make_environment
from actors.forks import ForkableStream, why_not_forked
from configs.schema import EnvConfig


def stream(name, seed=1, **settings):
    env = make_environment(EnvConfig(name, **({"frame_size": 24} | settings)), training=True)
    return ForkableStream(env, seed=seed, reward_clip=None)


def play(stream, actions):
    return [(step.observation.tobytes(), *step[1:]) for step in map(stream.step, actions)]


@pytest.mark.parametrize("name", ["breakout", "CartPole-v1", "MinAtar/Asterix-v1"])
def test_a_fork_repeats_itself_as_often_as_wanted_and_leaves_the_original_alone(name):
    original, other = stream(name), stream(name, seed=9)
    original.reset()
    play(original, [0, 1] * 3)
    frozen, actions = original.freeze(), [1, 0, 1] * 5
    futures = []
    for seed in (3, 3):
        other.thaw(frozen, seed)
        futures.append(play(other, actions[:10]))
    assert futures[0] == futures[1]
    if name != "MinAtar/Asterix-v1":  # nothing is random within a game
        assert play(original, actions[:10]) == futures[0]


def test_a_fork_loads_no_rom(monkeypatch):
    """Why: it takes some 25 times as long as a reset without, and an audit forks thousands of
    times.
    """
    original, other, loads = stream("breakout"), stream("breakout"), []
    original.reset()
    monkeypatch.setattr(AtariGame, "_load_rom", loads.append)
    other.thaw(original.freeze(), 0)
    assert loads == []


def test_what_is_random_in_a_game_is_drawn_anew():
    original, other = stream("MinAtar/Asterix-v1"), stream("MinAtar/Asterix-v1")
    original.reset()
    play(original, [0] * 12)
    frozen, futures = original.freeze(), set()
    for seed in range(4):
        other.thaw(frozen, seed)
        futures.add(str(play(other, [0] * 20)))
    assert len(futures) == 4
    other.thaw(frozen, 0)
    first, again = play(other, [0] * 5), stream("MinAtar/Asterix-v1")
    again.thaw(original.freeze(), 0)  # the original has not moved
    assert play(again, [0] * 5) == first


def test_time_limits_end_no_fork():
    original, endless = (
        stream("breakout", max_episode_frames=80, max_noops=0),
        stream("breakout", max_episode_frames=0),
    )
    original.reset()
    play(original, [0] * 15)
    endless.thaw(original.freeze(), 0)
    assert any(step[4] is not None for step in play(original, [0] * 10))
    assert all(step[4] is None for step in play(endless, [0] * 40))  # nobody fires: no ball, no end
    pole = stream("CartPole-v1")
    pole.reset()
    frozen = pole.freeze()
    frozen["env/elapsed_steps"][:] = 10_000
    pole.thaw(frozen, 0)
    assert all(step[4] is None for step in play(pole, [0, 1, 0]))


def test_what_cannot_be_forked_is_refused_by_name():
    assert "AcrobotEnv has no state that can be saved" in why_not_forked(
        make_environment(EnvConfig("Acrobot-v1"), training=True)
    )
    with pytest.raises(ValueError, match="AcrobotEnv has no state"):
        stream("Acrobot-v1")
