"""The agent and the games it is scored on, against scripted games whose states carry their own
number.
"""

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.wrappers import TimeLimit

from actors.agent import Agent, greedy, most_probable, sampled
from actors.environments import EnvironmentSpec, Stream
from actors.evaluator import Game, play, play_blindly, play_randomly
from actors.rollout import Rollout
from configs.schema import ActorsConfig
from muzero.observation import stack_history
from muzero.types import Episode, PublishedParams, SearchOutput

NUM_ACTIONS = 3
SPEC = EnvironmentSpec(
    observation_shape=(1,), observation_dtype="float32", num_actions=NUM_ACTIONS, frames_per_step=1
)


class Numbered(gymnasium.Env):
    """State s (over all games, from `start`) is observed as [s]; game g lasts `lengths[g]`
    decisions of reward 5.
    """

    observation_space = spaces.Box(0.0, np.inf, (1,), np.float32)
    action_space = spaces.Discrete(NUM_ACTIONS)

    def __init__(self, lengths, *, start=0, truncate=False):
        self.lengths, self.state, self.game, self.truncate, self.actions = (
            list(lengths),
            start - 1,
            -1,
            truncate,
            [],
        )

    def reset(self, *, seed=None, options=None):
        self.game, self.time = self.game + 1, 0
        return self._next(), {}

    def step(self, action):
        self.actions.append(action)
        self.time += 1
        over = self.time == self.lengths[min(self.game, len(self.lengths) - 1)]
        return self._next(), 5.0, over and not self.truncate, over and self.truncate, {}

    def _next(self):
        self.state += 1
        return np.array([self.state], np.float32)


class Search:
    """Visits action s mod 3 most in state s, and would *sample* another one; remembers what it was
    asked.
    """

    def __init__(self):
        self.asked = []

    def __call__(self, params, rng_key, frames, actions, is_first):
        jax.debug.callback(
            lambda *inputs: self.asked.append(tuple(map(np.array, inputs))),
            frames,
            actions,
            is_first,
        )
        state = frames[:, -1, 0].astype(jnp.int32)
        best = state % NUM_ACTIONS
        return SearchOutput(
            action=jnp.where(params > 0, best, (best + 1) % NUM_ACTIONS),
            behaviour_prob=jnp.full(state.shape, 0.5),
            policy=0.2 + 0.4 * jax.nn.one_hot(best, NUM_ACTIONS),
            value=state * 1.0,
            stats={"zero": state * 0.0},
        )

    def stacks(self, n=0):
        """Returns state number → the stacked observation that environment `n` was searched with."""
        jax.effects_barrier()
        rows = [(frames[n], actions[n], is_first[n]) for frames, actions, is_first in self.asked]
        return {
            int(frames[-1, 0]): stack_history(frames, a, first, NUM_ACTIONS)
            for frames, a, first in rows
        }


def make_agent(search, *, history=1, num_environments=1, params=0.0, choose=greedy):
    return Agent(
        search,
        np.float32(params),
        spec=SPEC,
        history_length=history,
        num_environments=num_environments,
        seed=3,
        choose=choose,
    )


def make_stream(env, **kwargs):
    return Stream(env, seed=1, **({"reward_clip": None} | kwargs))


@pytest.mark.parametrize("history", [1, 2, 5])
def test_agent_sees_the_stacks_that_the_rollout_sees(history):
    lengths = [3, 1, 1, 6, 2, 4, 100]
    acting, playing = Search(), Search()
    rollout = Rollout(
        [make_stream(Numbered(lengths))],
        acting,
        ActorsConfig(sequence_length=8, sequence_overlap=3),
        num_actions=NUM_ACTIONS,
        history_length=history,
        seed=0,
    )
    for _ in range(4):
        # Its search samples the most probable action
        rollout.run(PublishedParams(0, np.float32(1.0)))
    agent, stream = make_agent(playing, history=history), make_stream(Numbered(lengths))
    observation, is_first = stream.reset(), True
    for _ in range(23):
        step = stream.step(agent.decide(observation[None], np.array([is_first])).action[0])
        observation, is_first = step.observation, step.is_first
    expected, found = acting.stacks(), playing.stacks()
    assert sorted(expected) == sorted(found) == list(range(23))
    for state in expected:
        np.testing.assert_array_equal(found[state], expected[state], err_msg=f"state {state}")


def test_act_takes_the_most_probable_action_and_remembers_the_game_until_reset():
    search = Search()
    agent = make_agent(search, history=3)
    observations = [np.array([float(state)], np.float32) for state in range(7)]
    assert [agent.act(observation) for observation in observations[:4]] == [0, 1, 2, 0]
    assert isinstance(agent.act(observations[4]), int)
    agent.reset()
    assert [agent.act(observation) for observation in observations[5:]] == [2, 0]
    jax.effects_barrier()
    frames, actions, is_first = search.asked[4]
    assert (frames[0, :, 0].tolist(), actions[0].tolist()) == ([2, 3, 4], [2, 0])
    assert [asked[2][0, -1] for asked in search.asked] == [
        True,
        False,
        False,
        False,
        False,
        True,
        False,
    ]
    # Nothing of the game before the reset
    np.testing.assert_allclose(search.stacks()[5], [0, 0, 5, 0, 0])
    # Action 2 of state 5 as (2 + 1) / 3
    np.testing.assert_allclose(search.stacks()[6], [0, 5, 6, 0, 1])


def test_decide_returns_what_the_search_thought_of_each_environment():
    decision = make_agent(Search(), num_environments=2).decide(
        np.array([[4.0], [8.0]], np.float32), np.ones(2, bool)
    )
    assert decision.action.tolist() == [1, 2] and decision.action.dtype == np.int32
    assert decision.value.tolist() == [4.0, 8.0]
    np.testing.assert_allclose(decision.policy, [[0.2, 0.6, 0.2], [0.2, 0.2, 0.6]], rtol=1e-6)


def test_equally_visited_actions_are_equally_likely():
    visits = np.tile(np.array([3, 5, 0, 5, 3], np.float32) / 16, (4000, 1))
    counts = np.bincount(most_probable(visits, np.random.default_rng(0)), minlength=5)
    assert counts[[0, 2, 4]].tolist() == [0, 0, 0]
    assert abs(counts[1] - 2000) < 4 * np.sqrt(4000 / 4)  # four standard errors


def test_the_agent_does_not_write_into_the_observations_it_is_given():
    agent, observation = make_agent(Search(), history=2), np.array([[1.0]], np.float32)
    agent.decide(observation, np.array([True]))
    observation[:] = 2.0
    agent.decide(observation, np.array([False]))
    assert agent._history.inputs()[0][0, :, 0].tolist() == [1.0, 2.0]


def test_play_gives_every_stream_the_same_number_of_games_in_rounds():
    envs = [Numbered([9, 8, 7]), Numbered([1, 2, 3, 99]), Numbered([2, 1, 2, 99])]
    agent = make_agent(Search(), num_environments=3)
    games = play(agent, [make_stream(env) for env in envs], num_episodes=9)
    assert [game.episode.num_steps for game in games] == [9, 1, 2, 8, 2, 1, 7, 3, 2]
    assert [len(env.actions) for env in envs] == [24, 6, 5]  # a stream that is done is left alone
    assert games[0] == Game(
        Episode(episode_return=45.0, num_steps=9, num_frames=9), is_finished=True
    )


def test_play_drops_surplus_games_from_the_last_streams():
    envs = [Numbered([4, 3]), Numbered([1, 2]), Numbered([5, 6])]
    agent = make_agent(Search(), num_environments=3)
    games = play(agent, [make_stream(env) for env in envs], num_episodes=4)
    assert [game.episode.num_steps for game in games] == [4, 1, 5, 3]


def test_play_takes_the_most_probable_action_of_each_environment_and_scores_unclipped():
    envs = [Numbered([4], truncate=True), Numbered([3], start=100)]
    seen = []
    agent = make_agent(Search(), num_environments=2)
    streams = [make_stream(env, reward_clip=1.0) for env in envs]
    games = play(agent, streams, num_episodes=2, on_decision=seen.append)
    assert [env.actions for env in envs] == [[0, 1, 2, 0], [1, 2, 0]]  # state mod 3
    assert [game.episode.episode_return for game in games] == [20.0, 15.0]
    assert [game.is_finished for game in games] == [False, True]  # the first was truncated
    assert [decision.value[0] for decision in seen] == [0.0, 1.0, 2.0, 3.0]


def test_play_of_a_sampling_agent_takes_the_actions_that_the_search_drew_and_remembers_them():
    env, search = Numbered([4]), Search()
    agent = make_agent(search, history=2, choose=sampled)
    play(agent, [make_stream(env)], num_episodes=1)
    assert env.actions == [1, 2, 0, 1]  # state mod 3, and one more
    jax.effects_barrier()
    assert [actions[0, -1] for _, actions, _ in search.asked[1:]] == [1, 2, 0]


def test_play_blindly_holds_a_button_until_a_limit_ends_the_game():
    env = TimeLimit(Numbered([9, 3, 9]), 5)
    games = play_blindly(make_stream(env), lambda: 2, num_episodes=3)
    assert [game.episode.num_steps for game in games] == [5, 3, 5]
    assert [game.is_finished for game in games] == [False, True, False]
    assert env.unwrapped.actions == [2] * 13


def test_play_begins_each_game_with_an_empty_history():
    search = Search()
    envs = [Numbered([2, 3])]
    play(make_agent(search, history=2), [make_stream(env) for env in envs], num_episodes=2)
    stacks = search.stacks()
    # Final observation, action 1 before it
    np.testing.assert_allclose(stacks[2], [1, 2, 2 / 3], rtol=1e-6)
    np.testing.assert_allclose(stacks[3], [0, 3, 0])
    np.testing.assert_allclose(stacks[4], [3, 4, 1 / 3], rtol=1e-6)


def test_play_randomly_is_uniform_and_repeatable():
    envs = [Numbered([1000]), Numbered([1000]), Numbered([1000])]
    games = [
        play_randomly(make_stream(env), num_episodes=2, seed=seed)
        for env, seed in zip(envs, (7, 7, 8), strict=True)
    ]
    assert games[0] == [Game(Episode(5000.0, 1000, 1000), is_finished=True)] * 2
    assert envs[0].actions == envs[1].actions != envs[2].actions
    counts = np.bincount(envs[0].actions)
    assert counts.sum() == 2000 and (abs(counts - 2000 / 3) < 100).all()  # standard deviation 21
