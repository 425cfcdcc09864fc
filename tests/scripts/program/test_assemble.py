"""From settings to the parts of a run: mocks stand for the builders,
and no two settings are equal.
"""

import dataclasses
import sys
from types import SimpleNamespace
from unittest import mock

import jax
import pytest

from actors.environments import EnvironmentSpec
from configs.schema import (
    ActorsConfig,
    Config,
    EnvConfig,
    LearnerConfig,
    LossConfig,
    NetworkConfig,
    ReplayConfig,
    SearchConfig,
    ValueBufferConfig,
)
from learner.loop import Counters
from learner.replay import ReplaySettings
from scripts.playing import evaluation
from scripts.program import assemble

SPEC = EnvironmentSpec((48, 48, 1), "uint8", num_actions=6, frames_per_step=4)
CONFIG = Config(
    env=EnvConfig(name="pong", frame_size=48, sticky_action_prob=0.25, reward_clip=1.5),
    network=NetworkConfig(history_length=5),
    search=SearchConfig(num_simulations=14, floor=0.3),
    loss=LossConfig(discount_factor=0.98, past_weight=0.7),
    value_buffer=ValueBufferConfig(size=7, push_interval=11, chunk_size=3),
    actors=ActorsConfig(
        environments_per_worker=2, sequence_length=9, sequence_overlap=2, start_spread=21
    ),
    learner=LearnerConfig(
        batch_size=12,
        num_processes=2,
        collect_ahead=False,
        max_lag=13,
        num_passes=4,
        num_minibatches=5,
        num_devices=1,
        search_average_rate=0.25,
        target_average_rate=0.5,
        publish_interval=10,
        max_skipped_in_row=8,
    ),
    seed=17,
)


@pytest.fixture
def spy(monkeypatch):
    """Returns `spy(name, returned) -> mock`, which takes the place of a builder that assemble.py
    calls.
    """

    def replace(name, returned=None):
        build = mock.Mock(return_value=returned)
        monkeypatch.setattr(assemble, name, build)
        return build

    return replace


def chosen(call, *names):
    return {name: call.kwargs[name] for name in names}


def test_settings_of_the_learner(spy):
    loss, optimiser, mesh, update, state = (
        spy(name, returned)
        for name, returned in [
            ("Loss", "loss"),
            ("make_optimiser", ("optimiser", "schedule")),
            ("make_mesh", "mesh"),
            ("make_update", "programs"),
            ("init_state", "state"),
        ]
    )
    place = spy("place", "placed")
    assert assemble.build_learner(CONFIG, SPEC) == ("placed", "programs", "mesh")
    assert loss.call_args.args[2] is CONFIG.loss
    assert loss.call_args.kwargs == dict(num_actions=6, num_starts=7, chunk_size=3)
    assert optimiser.call_args == mock.call(CONFIG.optimiser)
    assert update.call_args == mock.call(
        "loss", "optimiser", "schedule", "mesh", CONFIG.learner, push_interval=11
    )
    assert state.call_args.kwargs == dict(
        value_buffer_size=7, statistics=None, rng_key=jax.random.key(17)
    )
    assert (mesh.call_args, place.call_args) == (mock.call(1), mock.call("state", "mesh"))


def test_settings_of_the_feed(spy):
    feed = spy("BatchFeed")
    counters = Counters(num_updates=19, num_batches=3, num_skipped=1)
    assemble.build_feed(CONFIG, "next rollout", "passes", counters, num_skipped="skipped")
    assert feed.call_args == mock.call(
        "next rollout",
        "passes",
        CONFIG.learner,
        num_batches=3,
        first_update=19,
        num_skipped="skipped",
    )


def test_settings_of_what_is_learned_from_what_has_just_been_played(spy):
    dealt = spy("DealtPasses", "passes")
    assert assemble.build_passes(CONFIG, SPEC, "put", Counters(), process=1) == "passes"
    assert dealt.call_args == mock.call("put", CONFIG.learner, num_starts=7, seed=17)


def test_settings_of_what_is_learned_from_a_replay(spy):
    replay, drawn = spy("Replay", "ring"), spy("DrawnPasses", "passes")
    settings = ReplayConfig(capacity=999, ratio=2.5, batch_size=34, tail_steps=8, min_decisions=77)
    config = dataclasses.replace(
        CONFIG, replay=settings, actors=dataclasses.replace(CONFIG.actors, num_workers=3)
    )
    counters = Counters(num_updates=19, num_skipped=2)
    assert assemble.build_passes(config, SPEC, "put", counters, process=1) == "passes"
    assert drawn.call_args == mock.call(
        "ring",
        "put",
        settings,
        num_processes=2,
        seed=(17, 1),
        num_updates=21,
    )
    assert replay.call_args.args[0] == ReplaySettings(
        num_workers=3,
        environments_per_worker=2,
        capacity=499,  # of one of two processes
        observation_shape=(48, 48, 1),
        observation_dtype="uint8",
        num_actions=6,
        history_length=5,
        sequence_length=9,
        sequence_overlap=2,
        window_length=5 + 8,
    )
    assert assemble.num_starts(config) == 1


def test_settings_of_the_loop(spy):
    loop = spy("LearnerLoop")
    assemble.build_loop(CONFIG, "state", "counters", "programs", "publish")
    assert loop.call_args == mock.call(
        "state", "counters", CONFIG.learner, update_fns="programs", publish="publish"
    )


def test_a_worker_plays_as_training_plays_and_every_game_has_a_seed_of_its_own(spy):
    environment = spy("make_environment", "environment")
    stream = spy("Stream", SimpleNamespace(spec=SPEC))
    search, rollout = spy("build_search", "search"), spy("Rollout", "rollout")
    assert assemble.rollout_builder(CONFIG)(2**31 - 19) == "rollout"
    assert environment.call_args_list == [mock.call(CONFIG.env, training=True)] * 2
    assert stream.call_args_list == [
        mock.call("environment", seed=2**30 - 19, reward_clip=1.5, start_spread=21),
        # 7919 more, below 2**30
        mock.call("environment", seed=7900, reward_clip=1.5, start_spread=21),
    ]
    assert search.call_args == mock.call(CONFIG, SPEC)
    assert rollout.call_args == mock.call(
        [stream.return_value] * 2,
        "search",
        CONFIG.actors,
        num_actions=6,
        history_length=5,
        seed=2_147_483_629,
        num_groups=1,
    )


@pytest.mark.parametrize(
    "device, environments, groups", [("cpu", 2, 1), ("gpu", 2, 2), ("gpu", 1, 1)]
)
def test_groups_take_turns_on_a_device_and_none_is_empty(spy, device, environments, groups):
    for name in ("make_environment", "build_search"):
        spy(name)
    spy("Stream", SimpleNamespace(spec=SPEC))
    rollout = spy("Rollout")
    actors = dataclasses.replace(CONFIG.actors, device=device, environments_per_worker=environments)
    assemble.build_rollout(dataclasses.replace(CONFIG, actors=actors), seed=0)
    assert rollout.call_args.kwargs["num_groups"] == groups


def test_the_search_is_noisy_in_training_and_quiet_in_scored_games(spy, monkeypatch):
    monkeypatch.setattr(evaluation, "env_spec", lambda env: SPEC)
    evaluation._scored_search.cache_clear()
    search = spy("make_search", lambda: None)
    assemble.build_search(CONFIG, SPEC)
    for _ in range(2):  # every evaluation of a run plays with one search, compiled once
        evaluation.make_agent(CONFIG, {}, num_environments=1, seed=0)
    calls = search.call_args_list
    assert [call.kwargs["root_noise"] for call in calls] == [True, False]
    for call in calls:
        assert call.args[2] is CONFIG.search
        assert chosen(call, "num_actions", "discount_factor") == dict(
            num_actions=6, discount_factor=0.98
        )


def test_workers_import_from_the_directory_of_the_driver(monkeypatch, tmp_path):
    """Ray starts them elsewhere; the module of a user's environment is often just here."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(assemble, "build_rollout", lambda config, seed: list(sys.path))
    build = assemble.rollout_builder(CONFIG)
    monkeypatch.chdir("/")
    monkeypatch.setattr(sys, "path", ["ours"])
    assert build(3) == build(3) == ["ours", str(tmp_path)]
