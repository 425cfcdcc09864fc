"""States of environments: what is saved goes on bit for bit elsewhere, what cannot be saved is
refused by name.
"""

import itertools

import gymnasium
import numpy as np
import pytest

from actors import states
from actors.environments import Stream, make_environment
from configs.schema import EnvConfig

SETTINGS = dict(frame_size=24, max_noops=30, max_episode_frames=700)


def stream(name, seed, **settings):
    return Stream(
        make_environment(EnvConfig(name, **(SETTINGS | settings)), training=True),
        seed=seed,
        reward_clip=None,
    )


def play(stream, rng, num_steps):
    """Returns everything that `num_steps` random decisions lead to."""
    steps = [stream.step(int(rng.integers(stream.spec.num_actions))) for _ in range(num_steps)]
    return [(step.observation.tobytes(), *step[1:]) for step in steps]


@pytest.mark.parametrize("name", ["breakout", "pong", "CartPole-v1"])
@pytest.mark.parametrize("used", [False, True])
def test_a_stream_goes_on_in_another_instance_as_it_would_have(name, used):
    original, rng = stream(name, seed=1), np.random.default_rng(0)
    original.reset()
    for _ in range(3):  # at a game's first state, in the middle, wherever it comes
        play(original, rng, 60)
        saved = {key: array.copy() for key, array in original.save().items()}
        other, same_rng = stream(name, seed=99), states.load_generator(states.save_generator(rng))
        if used:
            other.reset()
            play(other, np.random.default_rng(7), 90)
        other.load(saved)
        expected, found = play(original, rng, 250), play(other, same_rng, 250)
        assert found == expected
        assert sum(step[3] for step in expected) >= 1, (
            "a game has to start, or its generator is not tested"
        )
        other.close()


@pytest.mark.parametrize("num_played, num_played_elsewhere", [(75, 0), (0, 75), (0, 0)])
def test_a_state_lacks_whether_a_frame_was_played(num_played, num_played_elsewhere):
    """Q*bert went on with other RAM and another screen where the two differed in that."""
    original, other = (stream("qbert", seed, max_noops=0) for seed in (1, 2))
    for one, number in ((original, num_played), (other, num_played_elsewhere)):
        one.reset()
        play(one, np.random.default_rng(0), number)
    other.load(original.save())
    assert play(original, np.random.default_rng(3), 30) == play(other, np.random.default_rng(3), 30)


def test_a_stream_saved_in_a_final_state_resets_next():
    original = stream("CartPole-v1", seed=3)
    original.reset()
    next(n for n in itertools.count() if original.step(1).episode is not None)
    other = stream("CartPole-v1", seed=4)
    other.load(original.save())
    ours, theirs = original.step(0), other.step(0)
    assert ours.is_first and theirs.is_first
    np.testing.assert_array_equal(ours.observation, theirs.observation)


def test_a_state_is_bytes_and_numbers():
    game = stream("breakout", seed=1)
    game.reset()
    arrays = game.save()
    assert arrays["env/emulator"].dtype == np.uint8 and len(arrays["env/emulator"]) > 1000
    assert not any(array.dtype.hasobject for array in arrays.values())


def test_a_generator_goes_on_with_the_half_word_it_has_left():
    rng = np.random.default_rng(5)
    rng.integers(2**31, size=3, dtype=np.uint32)  # an odd number of 32-bit draws keeps half a word
    other = states.load_generator(states.save_generator(rng))
    assert rng.bit_generator.state["has_uint32"] == 1

    def draws(g):
        return (g.integers(2**31, size=5, dtype=np.uint32).tolist(), g.random(3).tolist())

    assert draws(rng) == draws(other)


@pytest.mark.parametrize(
    "name, reason",
    [
        ("yars_revenge", "may show another screen after a restore"),
        ("Acrobot-v1", "AcrobotEnv has no state that"),
    ],
)
def test_what_cannot_be_saved_is_refused_with_its_reason(name, reason):
    env = make_environment(EnvConfig(name), training=True)
    assert reason in states.why_not_saved(env)
    with pytest.raises(ValueError, match=reason):
        states.save_environment(env)
    with pytest.raises(ValueError, match=reason):
        states.load_environment(env, {})


def test_a_sticky_action_is_lost_with_its_emulator():
    """Why: the action that was performed last is in no state of the emulator, and the next frame
    may repeat it.
    """
    env = make_environment(EnvConfig("breakout", sticky_action_prob=0.25), training=True)
    assert "does not save the action" in states.why_not_saved(env)


def test_a_subclass_of_cartpole_may_have_more_to_save():
    class Other(type(gymnasium.make("CartPole-v1").unwrapped)):
        pass

    assert "Other has no state" in states.why_not_saved(Other())
