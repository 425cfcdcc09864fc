"""Preset atari-paper: every value of the paper's tables, the size of its network, and one real
update of it.
"""

import dataclasses
import operator
import re

import jax
import numpy as np
import pytest

from actors.environments import EnvironmentSpec
from configs.checks import check
from configs.presets import DESCRIPTIONS, PRESETS
from learner.update import Minibatch
from muzero.types import Trajectory
from scripts.program.assemble import build_learner, build_model, num_starts
from tests import reference

PAPER = PRESETS["atari-paper"]

# Grimm et al., "Proper Value Equivalence", NeurIPS 2021, appendix A.4.
TABLE_1 = {  # environment
    "env.max_noops": 30,  # "no-op start", 0 to 30
    "env.terminate_on_life_loss": True,  # in training
    "env.sticky_action_prob": 0.0,
    "env.max_episode_frames": 108_000,  # 30 minutes of play
    "env.frame_size": 96,  # grey, 96 × 96
    "env.action_repeat": 4,
    "env.max_pool_frames": 4,
    "env.reward_clip": None,
    "stop.num_frames": 500_000_000,  # skipped ones included
}
TABLE_2 = {  # agent
    "learner.batch_size": 96,
    "actors.sequence_length": 30,
    "actors.sequence_overlap": 10,
    "loss.num_unroll_steps": 5,
    "optimiser.learning_rate": 1e-4,
    "optimiser.final_learning_rate": 0.0,
    # 500e6 / 4 / 20 / 96: frames, repeat, new states, sequences
    "optimiser.schedule_num_updates": 65_104,
    "loss.discount_factor": 0.997,
    "learner.target_average_rate": 0.1,
    "learner.search_average_rate": 0.1,
    "loss.value_weight": 0.25,
    "loss.reward_weight": 1.0,
    "loss.policy_weight": 1.0,
    "search.num_simulations": 25,
    "loss.td_lambda": 0.8,
    "search.dirichlet_fraction": 0.3,
    "search.dirichlet_alpha": 0.25,
    "support.num_bins": 601,
    "support.epsilon": 0.01,
    "value_buffer.size": 128,
    "value_buffer.push_interval": 50,
    "loss.past_weight": 0.25,
    "learner.num_passes": 1,  # on-policy, no replay
    "learner.num_minibatches": 1,
}
# The paper is silent: MuZero (Schrittwieser et al. 2020, appendices E, F and G), or plain Adam and
# V-trace.
CHOICES = {
    "network.latent": "planes",
    "network.encoder": "muzero",
    "network.history_length": 32,
    "network.num_channels": 256,
    "network.num_blocks": 16,
    "support.min_value": -300.0,
    "support.max_value": 300.0,
    "search.policy": "visits",
    "search.normalisation": "tree",
    "search.unvisited": "parent",
    # no such thing in MuZero; the size of what an action changes in games of single points
    "search.floor": 0.1,
    "search.temperature": 1.0,
    "optimiser.max_gradient_norm": None,
    "optimiser.weight_decay": 0.0,
    "loss.past_clip": 1.0,
    "loss.past_latents": "target",
}


@pytest.mark.parametrize("path, value", [*TABLE_1.items(), *TABLE_2.items(), *CHOICES.items()])
def test_the_preset_is_the_paper(path, value):
    stated = operator.attrgetter(path)(PAPER)
    assert stated == value
    assert type(stated) is type(value)


def test_the_docstring_names_fields_that_there_are_and_the_weight_that_makes_the_mean_a_sum():
    text = DESCRIPTIONS["atari-paper"]
    fields = re.findall(r"`([a-z]+\.[a-z_]+)`", text)
    assert len(fields) >= 8
    for path in fields:
        operator.attrgetter(path)(PAPER)
    (weight,) = re.findall(r"`loss.past_weight` (\d+)", text)
    assert float(weight) == PAPER.loss.past_weight * PAPER.value_buffer.size


def test_the_preset_passes_its_own_checks():
    check(PAPER)
    new_states = PAPER.actors.sequence_length - PAPER.actors.sequence_overlap
    assert new_states == 20
    updates = (
        PAPER.stop.num_frames / PAPER.env.action_repeat / new_states / PAPER.learner.batch_size
    )
    assert int(updates) == PAPER.optimiser.schedule_num_updates


# --- One update

SPEC = EnvironmentSpec(
    observation_shape=(96, 96, 1), observation_dtype="uint8", num_actions=18, frames_per_step=4
)
NUM_DECISIONS, HISTORY, NUM_ACTIONS, NUM_HEADS = 6, 32, 18, 128


def _shortest(config):
    """Returns the preset with sequences of one start state, one in a batch;
    nothing else changed.
    """
    actors = dataclasses.replace(
        config.actors, sequence_length=NUM_DECISIONS + 1, sequence_overlap=NUM_DECISIONS
    )
    learner = dataclasses.replace(config.learner, batch_size=1, num_devices=1)
    return dataclasses.replace(config, actors=actors, learner=learner)


def _sequence():
    """Returns one random sequence without an end."""
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 256, (HISTORY + NUM_DECISIONS, 96, 96, 1), np.uint8)
    actions = rng.integers(NUM_ACTIONS, size=HISTORY - 1 + NUM_DECISIONS).astype(np.int32)
    return Trajectory(
        observation=frames[HISTORY - 1 :],
        is_first=np.zeros(NUM_DECISIONS + 1, bool),
        search_policy=rng.dirichlet([0.3] * NUM_ACTIONS, NUM_DECISIONS + 1).astype(np.float32),
        search_value=rng.normal(size=NUM_DECISIONS + 1).astype(np.float32),
        params_version=np.zeros(NUM_DECISIONS + 1, np.int32),
        action=actions[HISTORY - 1 :],
        reward=rng.integers(0, 400, NUM_DECISIONS).astype(np.float32),
        discount=np.ones(NUM_DECISIONS, np.float32),
        behaviour_prob=rng.uniform(0.05, 1.0, NUM_DECISIONS).astype(np.float32),
        history_observation=frames[: HISTORY - 1],
        history_action=actions[: HISTORY - 1],
        history_is_first=np.zeros(HISTORY - 1, bool),
    )


def _fill(buffer, rng):
    """Returns a full buffer of unlike heads, and their biases [(policy [A], value [Z])].

    Output weights start at zero, so a head's outputs are the biases of its output layers, whatever
    the latent.
    """
    biases = [
        (2.0 * rng.normal(size=NUM_ACTIONS), 2.0 * rng.normal(size=601)) for _ in range(NUM_HEADS)
    ]
    by_shape = {
        (NUM_HEADS, len(rows[0])): np.array(rows, np.float32) for rows in zip(*biases, strict=True)
    }
    params = jax.tree.map(
        lambda x: jax.numpy.asarray(by_shape.get(x.shape, np.zeros(x.shape))), buffer.head_params
    )
    assert sum(x.shape in by_shape for x in jax.tree.leaves(buffer.head_params)) == 2
    pushed = jax.numpy.arange(NUM_HEADS, dtype=jax.numpy.int32)
    return buffer._replace(
        head_params=params, push_update=pushed, num_pushed=buffer.num_pushed + NUM_HEADS
    ), biases


def _expected_past(biases, trajectory, support):
    """Returns (past KL of each k, overlap) as means over the heads, by the slow oracle."""
    kl, overlaps = np.zeros(PAPER.loss.num_unroll_steps + 1), []
    states = [None] * (NUM_DECISIONS + 1)
    for policy_bias, value_bias in biases:

        def head(_, logits=(policy_bias, value_bias)):
            return logits

        vs, _, policy = reference.past_targets(
            head, states, trajectory, support, gamma=0.997, lam=0.8, clip=1.0
        )
        overlaps.append(np.minimum(policy[:-1], trajectory.search_policy[:-1]).sum(axis=1).mean())
        for k in range(len(kl)):
            kl[k] += reference.make_term(
                "past", k, 5, 1.0, reference.two_hot(vs[k], *reference.bins(support)), value_bias
            ).kl
    return kl / len(biases), np.mean(overlaps)


@pytest.mark.timeout(900)  # on a busy machine
def test_one_update_of_the_papers_network_with_all_heads():
    """About a minute on one core, 3 GB; nothing smaller has the paper's shapes."""
    config, trajectory = _shortest(PAPER), _sequence()
    state, fns, _ = build_learner(config, SPEC)
    assert sum(x.size for x in jax.tree.leaves(state.params)) == 47_171_492
    buffer, biases = _fill(state.value_buffer, np.random.default_rng(1))
    state = state._replace(value_buffer=buffer)
    old = jax.tree.leaves(state)
    batch = jax.tree.map(lambda x: x[None], trajectory)
    starts = np.arange(num_starts(config), dtype=np.int32)[None]
    state, metrics = fns.update(state, Minibatch(batch, fns.prepare(state, batch), starts))
    metrics = {tag: float(value) for tag, value in metrics.items()}
    assert all(np.isfinite(value) for value in metrics.values())
    assert all(leaf.is_deleted() for leaf in old)  # donated: 1.2 GB are not held twice
    assert metrics["value_buffer/filled"] == 128.0
    assert metrics["loss/reward_k1"] > 1.0 and metrics["optimiser/gradient_norm"] > 0.0
    kl, overlap = _expected_past(biases, trajectory, build_model(config, SPEC)[1])
    assert [metrics[f"loss/past_k{k}"] for k in range(6)] == pytest.approx(kl, rel=1e-3)
    assert metrics["value_buffer/overlap"] == pytest.approx(overlap, rel=1e-4)
    # A flat prediction, minus the entropy of the target
    assert metrics["loss/value_k0"] < np.log(601)
    assert int(state.num_updates) == 1 and metrics["optimiser/learning_rate"] == pytest.approx(1e-4)
