"""Names, conversions and the stream of states, against scripted environments with a known tape."""

import sys

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces

from actors import states
from actors.environments import (
    LONGEST_SCORED_GAME,
    EnvironmentSpec,
    Step,
    Stream,
    environment_spec,
    make_environment,
    resolve_name,
)
from configs.schema import EnvConfig
from muzero.types import Episode


class Scripted(gymnasium.Env):
    """Game g, state t is observed as [g, t]; decision t of every game replays `script[t]`."""

    observation_space = spaces.Box(0.0, np.inf, (2,), np.float32)
    action_space = spaces.Discrete(3)

    def __init__(self, script):
        self.script, self.game, self.tape = script, -1, []

    def reset(self, *, seed=None, options=None):
        self.tape.append(("reset", seed))
        self.game, self.time = self.game + 1, 0
        return np.array([self.game, 0], np.float32), {}

    def step(self, action):
        self.tape.append(("step", action))
        reward, terminated, truncated, info = self.script[self.time]
        self.time += 1
        return np.array([self.game, self.time], np.float32), reward, terminated, truncated, info

    def close(self):
        self.tape.append(("close", None))


class Spaced(gymnasium.Env):
    """Returns one given observation for ever, from one and the same array."""

    def __init__(self, observation_space, observation=None, action_space=None):
        self.observation_space, self.returned = observation_space, observation
        self.action_space = action_space or spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        return self.returned, {}

    def step(self, action):
        return self.returned, 0.0, False, False, {}


@pytest.fixture
def registered():
    """Registers an environment under test/Spaced-v0 for `make_environment`."""

    def register(*args, **kwargs):
        gymnasium.registry.pop("test/Spaced-v0", None)
        gymnasium.register("test/Spaced-v0", entry_point=lambda **_: Spaced(*args, **kwargs))
        return make_environment(EnvConfig("test/Spaced-v0"), training=True)

    yield register
    gymnasium.registry.pop("test/Spaced-v0", None)


def rows(stream, actions):
    """Returns the steps with observations as tuples, so that they compare."""
    steps = [stream.step(action) for action in actions]
    return [step._replace(observation=tuple(step.observation.tolist())) for step in steps]


def test_tape_of_a_terminated_game_and_the_next_one():
    env = Scripted([(1.0, False, False, {}), (2.0, True, False, {})])
    stream = Stream(env, seed=7, reward_clip=None)
    assert stream.reset().tolist() == [0, 0]
    game = Episode(episode_return=3.0, num_steps=2, num_frames=2)
    assert rows(stream, [0, 1, 2, 1, 0, 2]) == [
        Step((0, 1), 1.0, 1.0, False, None),
        Step((0, 2), 2.0, 0.0, False, game),
        Step((1, 0), 0.0, 1.0, True, None),
        Step((1, 1), 1.0, 1.0, False, None),
        Step((1, 2), 2.0, 0.0, False, game),
        Step((2, 0), 0.0, 1.0, True, None),
    ]
    stream.close()
    resets = [("reset", 7), ("reset", None), ("reset", None)]
    steps = [[("step", 0), ("step", 1)], [("step", 1), ("step", 0)]]
    assert env.tape == [resets[0], *steps[0], resets[1], *steps[1], resets[2], ("close", None)]


def test_tape_of_a_truncated_game():
    stream = Stream(
        Scripted([(1.0, False, False, {}), (1.0, False, True, {})]), seed=0, reward_clip=None
    )
    stream.reset()
    assert rows(stream, [0, 0, 0, 0]) == [
        Step((0, 1), 1.0, 1.0, False, None),
        Step((0, 2), 1.0, 1.0, False, Episode(2.0, 2, 2)),
        Step((1, 0), 0.0, 1.0, True, None),
        Step((1, 1), 1.0, 1.0, False, None),
    ]


def test_termination_and_truncation_at_once_is_a_termination():
    stream = Stream(Scripted([(1.0, True, True, {})]), seed=0, reward_clip=None)
    stream.reset()
    assert rows(stream, [0, 0]) == [
        Step((0, 1), 1.0, 0.0, False, Episode(1.0, 1, 1)),
        Step((1, 0), 0.0, 1.0, True, None),
    ]


def test_a_life_loss_has_discount_zero_and_does_not_reset_the_game():
    lost, alive = {"life_lost": True}, {"life_lost": False}
    script = [
        (1.0, False, False, lost),
        (4.0, False, False, alive),
        (1.0, True, False, {**lost, "episode_frames": 23}),
    ]
    env = Scripted(script)
    stream = Stream(env, seed=0, reward_clip=None)
    stream.reset()
    assert rows(stream, [0, 0, 0]) == [
        Step((0, 1), 1.0, 0.0, False, None),
        Step((0, 2), 4.0, 1.0, False, None),
        Step((0, 3), 1.0, 0.0, False, Episode(episode_return=6.0, num_steps=3, num_frames=23)),
    ]
    assert [call for call, _ in env.tape] == ["reset", "step", "step", "step"]


def test_rewards_are_clipped_and_the_episode_return_is_not():
    script = [
        (9.0, False, False, {}),
        (-5, False, False, {}),
        (0.25, False, False, {}),
        (1.0, True, False, {}),
    ]
    stream = Stream(Scripted(script), seed=0, reward_clip=0.5)
    stream.reset()
    steps = rows(stream, [0, 0, 0, 0])
    assert [step.reward for step in steps] == [0.5, -0.5, 0.25, 0.5]
    assert steps[-1].episode == Episode(episode_return=5.25, num_steps=4, num_frames=4)


def test_resetting_a_stream_starts_it_anew():
    env = Scripted([(1.0, False, False, {}), (2.0, True, False, {})])
    stream = Stream(env, seed=5, reward_clip=None)
    for _ in range(2):
        stream.reset()
        assert stream.step(0).episode is None
    assert stream.step(0).episode == Episode(3.0, 2, 2)
    assert [seed for call, seed in env.tape if call == "reset"] == [5, 5]


ENDLESS = [(1.0, False, False, {})] * 1000


def spread_stream(env, seed, most):
    stream = Stream(env, seed=seed, reward_clip=None, start_spread=most)
    return stream, stream.reset()


def test_a_spread_starts_streams_at_uniformly_random_times_of_their_games():
    envs = [Scripted(ENDLESS) for _ in range(400)]
    times = np.array([spread_stream(env, seed, 40)[1][1] for seed, env in enumerate(envs)])
    assert times.min() == 0 and times.max() == 40  # both ends belong to it
    # uniform: 20 and 11.8
    assert abs(times.mean() - 20) < 4 * 11.8 / 20 and abs(times.std() - 11.8) < 1.5
    taken = [action for env in envs for call, action in env.tape if call == "step"]
    assert len(taken) == times.sum() and (abs(np.bincount(taken) / len(taken) - 1 / 3) < 0.03).all()
    again = [spread_stream(Scripted(ENDLESS), seed, 40)[1][1] for seed in range(400)]
    assert again == times.tolist()


def test_without_a_spread_all_streams_start_at_a_reset():
    env = Scripted(ENDLESS)
    stream, observation = spread_stream(env, 3, 0)
    assert observation.tolist() == [0, 0] and env.tape == [("reset", 3)] and stream.is_whole


def test_a_game_whose_start_was_hidden_is_not_whole_and_the_next_one_is():
    script = [*ENDLESS[:99], (1.0, True, False, {})]
    starts = [spread_stream(Scripted(script), seed, 30) for seed in range(20)]
    assert sum(time > 0 for _, (_, time) in starts) > 10
    for stream, (_, time) in starts:
        assert stream.is_whole == (time == 0)
        steps = [stream.step(0) for _ in range(int(100 - time))]
        # Still of the game that has ended
        assert steps[-1].episode is not None and stream.is_whole == (time == 0)
        assert stream.step(0).is_first and stream.is_whole


def test_a_spread_that_ends_with_a_game_starts_the_next_one():
    """Games of one decision: the state after an odd number of decisions would be final."""
    for seed in range(10):
        env = Scripted([(1.0, True, False, {})])
        stream, (_, time) = spread_stream(env, seed, 9)
        assert (
            time == 0
            and stream.is_whole
            and env.tape[-1] == ("reset", seed if env.game == 0 else None)
        )
        assert not stream.step(0).is_first


@pytest.mark.parametrize("seed", [-1, 2**32])
def test_a_seed_that_an_environment_could_not_take_raises(seed):
    with pytest.raises(ValueError, match="seed is"):
        Stream(Scripted([]), seed=seed, reward_clip=None)


def test_cartpole_truncated_at_500_keeps_discount_1():
    stream = Stream(
        make_environment(EnvConfig("CartPole-v1"), training=True), seed=0, reward_clip=1.0
    )
    assert stream.spec == EnvironmentSpec((4,), "float32", 2, 1)
    observation, steps = stream.reset(), []
    for _ in range(502):
        balancing = int(observation @ (0.05, 0.1, 1.0, 0.5) > 0)
        steps.append(stream.step(balancing))
        observation = steps[-1].observation
    assert [step.discount for step in steps] == [1.0] * 502
    assert [t for t, step in enumerate(steps) if step.is_first] == [500]
    assert [step.episode for step in steps if step.episode] == [Episode(500.0, 500, 500)]
    assert steps[499].episode is not None


def test_cartpole_that_falls_has_discount_0():
    stream = Stream(
        make_environment(EnvConfig("CartPole-v1"), training=True), seed=0, reward_clip=None
    )
    stream.reset()
    steps = [stream.step(1) for _ in range(30)]
    ends = [t for t, step in enumerate(steps) if step.episode]
    assert len(ends) >= 2
    assert [t for t, step in enumerate(steps) if step.discount == 0.0] == ends
    assert [t for t, step in enumerate(steps) if step.is_first] == [
        end + 1 for end in ends if end < 29
    ]


@pytest.mark.parametrize("name", ["CartPole-v1", "MinAtar/Breakout-v1", "MinAtar/Asterix-v1"])
def test_seeds_reproduce_streams(name):
    def tape(seed):
        stream = Stream(
            make_environment(EnvConfig(name), training=True), seed=seed, reward_clip=None
        )
        actions = np.random.default_rng(0).integers(stream.spec.num_actions, size=60)
        return np.stack([stream.reset(), *(stream.step(action).observation for action in actions)])

    first, again, other = tape(3), tape(3), tape(4)
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


@pytest.mark.parametrize(
    ("name", "shape", "num_actions"),
    [
        ("MinAtar/Asterix-v1", (10, 10, 4), 5),
        ("MinAtar/Breakout-v1", (10, 10, 4), 3),
        ("MinAtar/Freeway-v1", (10, 10, 7), 3),
        ("MinAtar/Seaquest-v1", (10, 10, 10), 6),
        ("MinAtar/SpaceInvaders-v1", (10, 10, 6), 4),
        ("MinAtar/Breakout-v0", (10, 10, 4), 6),
    ],
)
@pytest.mark.filterwarnings("ignore:.*out of date:DeprecationWarning")
def test_minatar_games_have_bool_planes_and_v1_the_minimal_actions(name, shape, num_actions):
    stream = Stream(make_environment(EnvConfig(name), training=True), seed=0, reward_clip=None)
    assert stream.spec == EnvironmentSpec(shape, "bool", num_actions, 1)
    observations = [stream.reset(), stream.step(num_actions - 1).observation]
    assert [(o.dtype, o.shape) for o in observations] == [(np.bool_, shape)] * 2


def test_minatar_renders_frames_that_a_video_can_show():
    env = make_environment(EnvConfig("MinAtar/Breakout-v1"), training=False, render=True)
    env.reset(seed=0)
    frame = env.render()
    assert (frame.shape, frame.dtype) == ((160, 160, 3), np.uint8)
    assert frame.max() > 100 and (frame[:16, :16] == frame[0, 0]).all()
    with pytest.raises(ValueError, match="render=False"):
        make_environment(EnvConfig("MinAtar/Breakout-v1"), training=False).render()


def test_missing_minatar_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "minatar", None)
    with pytest.raises(ImportError, match=r"pip install \.\[minatar\]"):
        make_environment(EnvConfig("MinAtar/Breakout-v1"), training=True)


def test_a_game_without_a_limit_has_one_where_it_is_scored():
    """A greedy policy may run into a wall for ever."""

    def made(name, training):
        return make_environment(EnvConfig(name), training=training)

    def limits(*arguments):
        return [limit._max_episode_steps for limit in states.time_limits(made(*arguments))]

    assert limits("CliffWalking-v1", True) == [] and limits("CliffWalking-v1", False) == [
        LONGEST_SCORED_GAME
    ]
    assert limits("gymnasium.envs.toy_text:CliffWalking-v1", False) == [LONGEST_SCORED_GAME]
    assert limits("CartPole-v1", True) == limits("CartPole-v1", False) == [500]


@pytest.mark.parametrize(
    ("name", "canonical"),
    [
        ("CartPole-v1", "CartPole-v1"),
        ("CartPole", "CartPole-v1"),
        ("gymnasium.envs.classic_control:Acrobot-v1", "gymnasium.envs.classic_control:Acrobot-v1"),
        ("gymnasium.envs.classic_control:Acrobot", "gymnasium.envs.classic_control:Acrobot-v1"),
        ("MinAtar/SpaceInvaders", "MinAtar/SpaceInvaders-v1"),
        ("Blackjack-v1", "Blackjack-v1"),
        ("ALE/Blackjack-v5", "ALE/Blackjack-v5"),
    ],
)
def test_gymnasium_names(name, canonical):
    assert resolve_name(name) == canonical


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("Ms_Packman", "did you mean ALE/MsPacman-v5"),
        ("Brekout", "did you mean ALE/Breakout-v5"),
        ("CartPoll-v1", "did you mean CartPole-v1"),
        ("minatar/brekout", "did you mean .*MinAtar/Breakout-v1"),
        ("CartPole-v7", "did you mean CartPole-v1"),
        ("no such thing ???", "unknown environment 'no such thing ???'"),
        ("no_such_module:Game-v0", "no_such_module"),
    ],
)
def test_unknown_names_suggest_near_ones(name, near):
    with pytest.raises(ValueError, match=near.replace("?", r"\?")):
        make_environment(EnvConfig(name), training=True)


@pytest.mark.parametrize(
    ("space", "returned", "shape", "dtype", "expected"),
    [
        (
            spaces.Box(-1, 1, (2,), np.float64),
            np.array([0.1, 1.0]),
            (2,),
            "float32",
            np.float32([0.1, 1.0]),
        ),
        (
            spaces.Box(0, 1, (2, 1, 1), np.bool_),
            np.array([[[True]], [[False]]]),
            (2, 1, 1),
            "bool",
            None,
        ),
        (
            spaces.Box(0, 255, (2, 1, 1), np.uint8),
            np.array([[[255]], [[1]]], np.uint8),
            (2, 1, 1),
            "uint8",
            None,
        ),
        (
            spaces.Box(0, 255, (1, 2), np.uint8),
            np.array([[255, 1]], np.uint8),
            (1, 2, 1),
            "uint8",
            None,
        ),
        (spaces.Box(0, 9, (2,), np.int64), np.array([9, 1]), (2,), "float32", None),
        (spaces.Discrete(3, start=5), 6, (3,), "float32", np.float32([0, 1, 0])),
    ],
)
def test_observations_become_arrays(registered, space, returned, shape, dtype, expected):
    env = registered(space, returned)
    assert environment_spec(env) == EnvironmentSpec(shape, dtype, 2, 1)
    expected = np.asarray(returned).reshape(shape) if expected is None else expected
    for observation in (env.reset(seed=0)[0], env.step(0)[0]):
        assert (observation.shape, observation.dtype) == (shape, np.dtype(dtype))
        np.testing.assert_array_equal(observation, expected)
        assert observation in env.observation_space
        assert not np.shares_memory(observation, np.asarray(returned))


@pytest.mark.parametrize(
    ("observation_space", "action_space", "message"),
    [
        (spaces.Tuple([spaces.Discrete(2)]), spaces.Discrete(2), "observation space Tuple"),
        (spaces.Dict({"x": spaces.Discrete(2)}), spaces.Discrete(2), "observation space Dict"),
        (spaces.Box(0, 1, (), np.float32), spaces.Discrete(2), "observation space Box"),
        (spaces.Box(0, 1, (2, 2, 2, 2), np.float32), spaces.Discrete(2), "observation space Box"),
        (
            spaces.Box(0, 1, (2,), np.float32),
            spaces.Box(0, 1, (1,), np.float32),
            "action space Box",
        ),
        (
            spaces.Box(0, 1, (2,), np.float32),
            spaces.MultiDiscrete([2, 2]),
            "action space MultiDiscrete",
        ),
        (spaces.Box(0, 1, (2,), np.float32), spaces.Discrete(2, start=1), "action space Discrete"),
    ],
)
def test_unsupported_spaces_are_refused(registered, observation_space, action_space, message):
    with pytest.raises(ValueError, match=message):
        registered(observation_space, action_space=action_space)


def test_an_environment_without_render_mode_is_made(registered):
    gymnasium.registry.pop("test/Spaced-v0", None)
    gymnasium.register(
        "test/Spaced-v0",
        entry_point=lambda: Spaced(spaces.Box(-1, 1, (2,), np.float32), np.zeros(2)),
    )
    env = make_environment(EnvConfig("test/Spaced-v0"), training=True)
    assert env.reset(seed=0)[0].tolist() == [0, 0]
    with pytest.raises((TypeError, gymnasium.error.Error)):
        make_environment(EnvConfig("test/Spaced-v0"), training=True, render=True)


def test_a_stream_refuses_an_environment_without_the_conversion():
    with pytest.raises(ValueError, match="make_environment"):
        Stream(Spaced(spaces.Discrete(3), 0), seed=0, reward_clip=None)
