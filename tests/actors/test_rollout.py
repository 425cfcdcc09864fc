"""One worker's rollout: which number belongs to which moment, and that nothing is lost between
sequences.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs.schema import Config, EnvConfig, LossConfig, NetworkConfig, SearchConfig, SupportConfig
from muzero.observation import stack_history, stack_trajectory
from muzero.types import Episode, PublishedParams, Trajectory
from scripts.program import assemble
from tests.actors.rollouts import (
    ENDLESS,
    LENGTH,
    LOST_LIFE,
    NUM_ACTIONS,
    OVERLAP,
    PER_DECISION,
    PER_STATE,
    PLAIN,
    REWARDED,
    TERMINATED,
    TRUNCATED,
    Numbered,
    Search,
    make_rollout,
    numbers,
    published,
    row,
    sampling_search,
)


def test_first_sequence_begins_at_the_reset_and_has_the_lengths_that_carry_the_alignment():
    search = Search()
    result = make_rollout(
        [Numbered([ENDLESS]), Numbered([ENDLESS], name=1)], search, history=4
    ).run(published(3, 0.5))
    trajectory = result.trajectory
    for n in (0, 1):
        assert numbers(trajectory, n) == [0, 1, 2, 3, 4, 5]
    assert trajectory.observation[:, :, 1].tolist() == [[0] * 6, [100] * 6]
    assert trajectory.is_first.tolist() == [[True] + [False] * 5] * 2
    assert trajectory.search_value[0].tolist() == [0.5, 1.5, 2.5, 3.5, 4.5, 5.5]
    assert trajectory.params_version.tolist() == [[3] * 6] * 2
    assert trajectory.action[0].tolist() == [0, 1, 2, 0, 1]
    np.testing.assert_allclose(trajectory.behaviour_prob[0], [0.2, 0.4, 0.6, 0.8, 0.2])
    np.testing.assert_allclose(trajectory.search_policy[0, 1], [0.1, 0.1, 0.8])
    assert (
        trajectory.history_observation.shape == (2, 3, 2)
        and not trajectory.history_observation.any()
    )
    assert trajectory.history_action.tolist() == [[0, 0, 0]] * 2
    assert trajectory.history_is_first.tolist() == [[False] * 3] * 2
    assert search.states() == [0, 1, 2, 3, 4, 5]
    assert (result.num_steps, result.num_frames) == (10, 10)
    assert result.search_stats == {"state": 2.5}


def test_fields_have_the_types_that_the_learner_is_compiled_for():
    trajectory = (
        make_rollout([Numbered([ENDLESS])], Search(), history=2).run(published()).trajectory
    )
    found = {name: str(getattr(trajectory, name).dtype) for name in Trajectory._fields}
    assert found == {
        "observation": "float32",
        "is_first": "bool",
        "search_policy": "float32",
        "search_value": "float32",
        "params_version": "int32",
        "action": "int32",
        "reward": "float32",
        "discount": "float32",
        "behaviour_prob": "float32",
        "history_observation": "float32",
        "history_action": "int32",
        "history_is_first": "bool",
    }


@pytest.mark.parametrize("history", [1, 4, 8])
def test_neighbouring_sequences_share_their_overlap_exactly(history):
    games = [[PLAIN, REWARDED, PLAIN, TERMINATED], [LOST_LIFE, PLAIN, TRUNCATED]]
    rollout = make_rollout(
        [Numbered(games), Numbered(games[::-1], name=1)], Search(), history=history
    )
    results = [rollout.run(published(version, version / 10)).trajectory for version in range(6)]
    for before, after in zip(results, results[1:], strict=False):
        for field in PER_STATE:
            left, right = getattr(before, field)[:, -OVERLAP:], getattr(after, field)[:, :OVERLAP]
            assert left.shape[1] == 3
            np.testing.assert_array_equal(left, right, err_msg=field)
        for field in PER_DECISION:  # the decision of the last shared state is the first new one
            left, right = (
                getattr(before, field)[:, -(OVERLAP - 1) :],
                getattr(after, field)[:, : OVERLAP - 1],
            )
            assert left.shape[1] == 2
            np.testing.assert_array_equal(left, right, err_msg=field)
    assert [numbers(result) for result in results[:3]] == [
        [0, 1, 2, 3, 4, 5],
        [3, 4, 5, 6, 7, 8],
        [6, 7, 8, 9, 10, 11],
    ]


def test_every_state_is_searched_once_and_overlapped_states_keep_their_older_search():
    search = Search()
    rollout = make_rollout([Numbered([ENDLESS])], search)
    rollout.run(published(0, 0.25))
    assert search.states() == [0, 1, 2, 3, 4, 5]
    second = rollout.run(published(7, 0.5))
    assert search.states()[6:] == [6, 7, 8]
    third = rollout.run(published(9, 0.75))
    assert search.states() == list(range(12))
    assert second.trajectory.params_version.tolist() == [[0, 0, 0, 7, 7, 7]]
    assert second.trajectory.search_value.tolist() == [[3.25, 4.25, 5.25, 6.5, 7.5, 8.5]]
    assert third.trajectory.params_version.tolist() == [[7, 7, 7, 9, 9, 9]]
    assert third.trajectory.search_value.tolist() == [[6.5, 7.5, 8.5, 9.75, 10.75, 11.75]]
    assert second.search_stats == {"state": 7.0}  # of the new searches alone


def test_the_next_sequence_takes_the_decision_of_the_last_state_from_the_search_that_was_kept():
    env, search = Numbered([ENDLESS]), Search()
    rollout = make_rollout([env], search)
    rollout.run(published())
    assert sorted(env.actions) == [0, 1, 2, 3, 4]
    second = rollout.run(published(1)).trajectory
    assert sorted(env.actions) == [0, 1, 2, 3, 4, 5, 6, 7]
    assert (
        second.action[0].tolist()
        == [env.actions[state] for state in (3, 4, 5, 6, 7)]
        == [0, 1, 2, 0, 1]
    )
    np.testing.assert_allclose(second.behaviour_prob[0], [0.8, 0.2, 0.4, 0.6, 0.8])


def test_context_holds_what_came_before_state_0_across_more_than_one_sequence():
    rollout = make_rollout([Numbered([ENDLESS])], Search(), history=6)
    rollout.run(published())
    second, third = rollout.run(published()).trajectory, rollout.run(published()).trajectory
    # Two that never were, states 0, 1, 2
    assert second.history_observation[0, :, 0].tolist() == [
        0,
        0,
        0,
        1,
        2,
    ]
    assert second.history_is_first[0].tolist() == [False, False, True, False, False]
    assert numbers(third)[0] == 6
    assert third.history_observation[0, :, 0].tolist() == [1, 2, 3, 4, 5]
    assert third.history_action[0].tolist() == [1, 2, 0, 1, 2]
    assert not third.history_is_first.any()


@pytest.mark.parametrize(
    "games, reward, discount, is_first, fake",
    [  # markers: decision 3 of game 0, with 7 states; `fake` is the decision that only resets
        ([[PLAIN, PLAIN, PLAIN, REWARDED, *ENDLESS]], [0, 0, 0, 7, 0, 0], [1] * 6, [0], None),
        ([[PLAIN, PLAIN, PLAIN, LOST_LIFE, *ENDLESS]], [0] * 6, [1, 1, 1, 0, 1, 1], [0], None),
        ([[PLAIN, PLAIN, PLAIN, TERMINATED], ENDLESS], [0] * 6, [1, 1, 1, 0, 1, 1], [0, 5], 4),
        ([[PLAIN, PLAIN, PLAIN, TRUNCATED], ENDLESS], [0] * 6, [1] * 6, [0, 5], 4),
        (
            [[PLAIN, PLAIN, PLAIN, (7.0, True, False, True)], ENDLESS],
            [0, 0, 0, 7, 0, 0],
            [1, 1, 1, 0, 1, 1],
            [0, 5],
            4,
        ),
    ],
    ids=["reward", "life loss", "termination", "truncation", "reward of the last decision"],
)
def test_markers_land_on_their_decision(games, reward, discount, is_first, fake):
    env = Numbered(games)
    result = make_rollout([env], Search(), length=7).run(published())
    trajectory = result.trajectory
    # The final observation is a state, and so is the reset
    assert numbers(trajectory) == [
        0,
        1,
        2,
        3,
        4,
        5,
        6,
    ]
    assert trajectory.reward[0].tolist() == reward
    assert trajectory.discount[0].tolist() == discount
    assert np.flatnonzero(trajectory.is_first[0]).tolist() == is_first
    assert sorted(env.actions) == [t for t in range(6) if t != fake]
    assert result.num_steps == 6 - (fake is not None)
    real = [t for t in range(6) if t != fake]
    np.testing.assert_allclose(
        trajectory.behaviour_prob[0, real], [(1 + t % 4) / 5 for t in real], rtol=1e-6
    )
    assert trajectory.action[0, real].tolist() == [t % 3 for t in real]
    if fake is not None:
        assert trajectory.behaviour_prob[0, fake] == np.float32(1 / 3)
        assert trajectory.search_value[0, fake] == fake  # searched for its value all the same


def test_decisions_that_only_reset_draw_their_action_uniformly_and_independently():
    search = Search()
    games = [[TERMINATED]]  # states 0, 2, 4, ... are resets, 1, 3, 5, ... final
    trajectory = (
        make_rollout([Numbered(games), Numbered(games)], search, length=801)
        .run(published())
        .trajectory
    )
    fake = trajectory.is_first[:, 1:]
    assert fake.sum(axis=1).tolist() == [400, 400]
    assert (trajectory.behaviour_prob[fake] == np.float32(1 / 3)).all()
    assert (trajectory.behaviour_prob[~fake] > 0).all()
    first, second = trajectory.action[fake].reshape(2, 400)
    joint = np.bincount(3 * first + second, minlength=9)
    assert len(joint) == 9 and 20 < joint.min() and joint.max() < 70  # expected 44 ± 6


def test_steps_and_frames_count_each_real_decision_once():
    games = [
        [PLAIN, PLAIN, TERMINATED],
        [PLAIN, TRUNCATED],
        [LOST_LIFE, PLAIN, PLAIN, PLAIN, TERMINATED],
    ]
    envs = [Numbered(games), Numbered(games[1:], name=1), Numbered([ENDLESS], name=2)]
    rollout = make_rollout(envs, Search())
    for stream in rollout._streams:
        stream.spec = stream.spec._replace(frames_per_step=4)
    results = [rollout.run(published()) for _ in range(8)]
    taken = sum(len(env.actions) for env in envs)
    assert sum(result.num_steps for result in results) == taken
    assert sum(result.num_frames for result in results) == 4 * taken
    # states 0 to 26 of a stream are 26 decisions; environment 2 takes all of them, the others reset
    # as well
    assert len(envs[2].actions) == 26 and len(envs[0].actions) < 24
    # Decision 3 of environment 0 and decision 2 of environment 1 reset
    assert results[0].num_steps == 4 + 4 + 5


def test_whole_games_are_reported_once_by_the_sequence_in_which_they_end():
    games = [[REWARDED, PLAIN, TERMINATED], [PLAIN] * 5 + [(2.0, False, True, False)], ENDLESS]
    rollout = make_rollout([Numbered(games)], Search())
    episodes = [rollout.run(published()).episodes for _ in range(4)]
    # states 0 1 2 3 | 4 5 6 7 8 9 10 | 11 ...: game 0 ends in state 3, game 1 in state 10
    assert episodes == [[Episode(7.0, 3, 3)], [], [Episode(2.0, 6, 6)], []]


def test_a_spread_sets_environments_apart_and_nothing_of_it_is_counted_or_stored():
    games = [[REWARDED] * 29 + [TERMINATED], [PLAIN] * 7 + [TERMINATED], ENDLESS]
    envs, others = ([Numbered(games, name) for name in range(40)] for _ in range(2))
    apart, together = (
        make_rollout(envs, Search(), history=4, spread=20),
        make_rollout(others, Search(), history=4),
    )
    results, plain = (
        [rollout.run(published()) for _ in range(12)] for rollout in (apart, together)
    )
    first = results[0].trajectory
    # Steps since the reset: all are in their first game
    starts = [numbers(first, n)[0] for n in range(40)]
    assert len(set(starts)) > 12 and min(starts) < 3 and max(starts) > 17
    assert [numbers(first, n) for n in range(40)] == [
        list(range(start, start + LENGTH)) for start in starts
    ]
    assert first.is_first.tolist() == [[True] + [False] * 5] * 40  # before it there is no history
    assert not first.history_observation.any() and not first.history_action.any()
    assert (
        (results[0].num_steps, results[0].num_frames)
        == (plain[0].num_steps, plain[0].num_frames)
        == (200, 200)
    )
    assert sum(result.num_steps for result in results) == sum(
        len(env.actions) for env in envs
    ) - sum(starts)
    episodes = [episode for result in results for episode in result.episodes]
    whole = starts.count(0)
    # Of the others nobody has seen the start
    assert whole > 0 and episodes.count(Episode(7.0 * 29, 30, 30)) == whole
    assert len(episodes) == whole + episodes.count(Episode(0.0, 8, 8)) > whole
    assert [e for result in plain for e in result.episodes] == [Episode(7.0 * 29, 30, 30)] * 40


@pytest.mark.parametrize("history", [1, 4, 9])
def test_the_learner_rebuilds_the_very_stack_that_the_search_saw(history):
    games = [[PLAIN] * 4 + [TERMINATED], [PLAIN, TRUNCATED], [TERMINATED], ENDLESS]
    search = Search()
    rollout = make_rollout(
        [Numbered(games), Numbered(games[::-1], name=1)], search, history=history
    )
    trajectories = [rollout.run(published()).trajectory for _ in range(7)]
    jax.effects_barrier()
    stack = jax.jit(lambda *inputs: stack_history(*inputs, NUM_ACTIONS))
    rebuild = jax.jit(lambda sequence: stack_trajectory(sequence, NUM_ACTIONS, jnp.arange(LENGTH)))
    compared = 0
    for n in (0, 1):
        seen = {
            int(frames[n, -1, 0]): stack(frames[n], a[n], first[n])
            for frames, a, first in search.asked
        }
        assert len(seen) == len(search.asked)
        for trajectory in trajectories:
            for state, rebuilt in zip(
                numbers(trajectory, n), rebuild(row(trajectory, n)), strict=True
            ):
                np.testing.assert_array_equal(rebuilt, seen[state], err_msg=f"state {state}")
                compared += 1
    assert compared == 2 * 7 * LENGTH


def test_stacks_hold_frames_and_actions_of_the_present_game_only():
    search = Search()
    env = Numbered([[PLAIN, TERMINATED], ENDLESS])  # states 0 1 2 | 3 4 5
    make_rollout([env], search, history=3).run(published())
    jax.effects_barrier()
    frames, actions, is_first = search.asked[4]  # state 4, the second of game 1
    assert frames[0, :, 0].tolist() == [2, 3, 4] and is_first[0].tolist() == [False, True, False]
    stack = stack_history(frames[0], actions[0], is_first[0], NUM_ACTIONS)
    # frame of state 2 zeroed, frames of 3 and 4; action of state 2 zeroed, action 0 of state 3 as
    # (0 + 1) / 3
    np.testing.assert_allclose(stack, [0, 0, 3, 0, 4, 0, 0, 1 / 3], rtol=1e-6)


def test_same_seed_repeats_every_number_and_another_seed_does_not():
    games = [[PLAIN, PLAIN, TERMINATED]]

    def play(seed):
        rollout = make_rollout(
            [Numbered(games), Numbered(games)], sampling_search, seed=seed, length=30
        )
        return [rollout.run(published()).trajectory for _ in range(2)]

    once, again, other = play(4), play(4), play(5)
    for left, right in zip(jax.tree.leaves(once), jax.tree.leaves(again), strict=True):
        np.testing.assert_array_equal(left, right)
    assert (once[0].search_value != other[0].search_value).all()
    assert (once[0].action != other[0].action)[
        once[0].is_first[:, 1:]
    ].any()  # drawn where no search decides
    values = np.concatenate(
        [once[0].search_value.ravel(), once[1].search_value[:, OVERLAP:].ravel()]
    )
    # Every search of every environment has its own key
    assert len(set(values.tolist())) == len(values)


def test_a_result_is_not_written_to_by_the_next_rollout():
    rollout = make_rollout([Numbered([ENDLESS])], Search(), history=3)
    first = rollout.run(published()).trajectory
    copies = jax.tree.map(np.copy, first)
    rollout.run(published(1, 0.5))
    for kept, copy in zip(first, copies, strict=True):
        np.testing.assert_array_equal(kept, copy)


def test_close_closes_every_environment():
    envs = [Numbered([ENDLESS]), Numbered([ENDLESS])]
    make_rollout(envs, Search()).close()
    assert [env.closed for env in envs] == [True, True]


@pytest.fixture(scope="module")
def cartpole():
    """Three sequences of the real thing: real search, real environments,
    as a worker builds them.
    """
    config = Config(
        env=EnvConfig(name="CartPole-v1"),
        network=NetworkConfig(
            latent="vector", encoder="light", history_length=2, latent_size=8, hidden_size=8
        ),
        support=SupportConfig(min_value=-10.0, max_value=10.0, num_bins=21),
        search=SearchConfig(num_simulations=4, temperature=0.7),
        loss=LossConfig(num_unroll_steps=2),
    )
    rollout = assemble.rollout_builder(config)(11)
    model, _ = assemble.build_model(config, assemble.env_spec(config.env))
    params = jax.device_get(model.init(jax.random.key(0)))
    results = [rollout.run(PublishedParams(version, params)) for version in range(3)]
    rollout.close()
    return results


def test_real_search_on_cartpole_keeps_the_contract(cartpole):
    assert all(isinstance(leaf, np.ndarray) for leaf in jax.tree.leaves(cartpole[0].trajectory))
    for result in cartpole:
        trajectory = result.trajectory
        shapes = {
            name: getattr(trajectory, name).shape
            for name in ("observation", "search_policy", "action")
        }
        assert shapes == {"observation": (8, 30, 4), "search_policy": (8, 30, 2), "action": (8, 29)}
        np.testing.assert_allclose(trajectory.search_policy.sum(-1), 1.0, rtol=1e-5)
        assert set(np.unique(trajectory.action)) == {0, 1}
        assert np.isfinite(trajectory.search_value).all()
        real = ~trajectory.is_first[:, 1:]
        assert (trajectory.reward[real] == 1.0).all() and (trajectory.reward[~real] == 0.0).all()
        assert set(result.search_stats) == {
            "policy_entropy", "depth", "q_range", "unvisited_fraction",
            "root_value_minus_network_value",
        }  # fmt: skip


def test_real_search_stores_the_exact_law_of_its_actions(cartpole):
    trajectory = cartpole[-1].trajectory
    real = ~trajectory.is_first[:, 1:]
    assert 200 < real.sum() < 232  # 8 × 29 decisions, some of them resets
    visits = trajectory.search_policy[:, :-1].astype(np.float64)
    sharpened = visits ** (1 / 0.7)
    law = sharpened / sharpened.sum(-1, keepdims=True)
    taken = np.take_along_axis(law, trajectory.action[..., None].astype(int), -1)[..., 0]
    assert (taken[real] > 0).all()
    np.testing.assert_allclose(trajectory.behaviour_prob[real], taken[real], rtol=1e-4)
    np.testing.assert_array_equal(trajectory.behaviour_prob[~real], np.float32(0.5))


def test_cartpole_games_end_in_states_that_are_kept(cartpole):
    first, second = cartpole[0], cartpole[1]
    terminations = first.trajectory.discount == 0
    assert terminations.any() and cartpole[0].episodes
    assert len(first.episodes) == terminations.sum()
    ends = np.argwhere(terminations[:, :-1])
    assert first.trajectory.is_first[ends[:, 0], ends[:, 1] + 2].all()  # t final + 1, reset + 2
    np.testing.assert_array_equal(
        first.trajectory.observation[:, -10:], second.trajectory.observation[:, :10]
    )
    assert second.trajectory.params_version[0].tolist() == [0] * 10 + [1] * 20
    assert first.num_steps == (~first.trajectory.is_first[:, 1:]).sum()
