"""What the benchmarks are measured with."""

import dataclasses

import numpy as np

from actors.environments import EnvironmentSpec
from configs.presets import PRESETS
from configs.schema import (
    ActorsConfig,
    Config,
    EnvConfig,
    LearnerConfig,
    NetworkConfig,
    ValueBufferConfig,
)
from muzero.types import RolloutResult, Trajectory

# 96x96x4 frames, 6x6x32 latents, one residual block, 601 bins, 25 simulations: small enough for a
# CPU, with every part.
REFERENCE = Config(
    env=EnvConfig(name="breakout"),
    network=NetworkConfig(history_length=4, num_channels=32, num_blocks=1),
    actors=ActorsConfig(num_workers=2, environments_per_worker=16),
    learner=LearnerConfig(batch_size=32, num_devices=1),
)
# Learner and actors in turn, both on all cores, in batches of a few seconds. Every start state is
# learned from once, as in the paper; with all 128 past heads of the paper it would be a benchmark
# of these alone.
REFERENCE_SYSTEM = dataclasses.replace(
    REFERENCE,
    value_buffer=ValueBufferConfig(size=8),
    actors=dataclasses.replace(REFERENCE.actors, environments_per_worker=8),
    learner=dataclasses.replace(
        REFERENCE.learner, batch_size=16, num_minibatches=4, publish_interval=4, collect_ahead=False
    ),
)
TINY = dataclasses.replace(PRESETS["smoke"], env=EnvConfig(name="breakout", frame_size=48))


def reference(tiny: bool) -> Config:
    """Returns the reference network's configuration, or the smallest."""
    return TINY if tiny else REFERENCE


def atari_cpu(tiny: bool) -> Config:
    """Returns the small preset without replay, whose bare loop is known, or the smallest."""
    return TINY if tiny else PRESETS["atari-cpu-onpolicy"]


def synthetic_rollout(
    config: Config, spec: EnvironmentSpec, num_sequences: int, seed: int = 0
) -> RolloutResult:
    """Returns random sequences with the shapes and types of a real rollout, a few games ending in
    them.
    """
    rng = np.random.default_rng(seed)
    num_states, context = config.actors.sequence_length, config.network.history_length - 1
    states, decisions, history = (
        (num_sequences, length) for length in (num_states, num_states - 1, context)
    )
    dtype, num_actions = np.dtype(spec.observation_dtype), spec.num_actions

    def frames(shape):
        return rng.integers(0, 255, (*shape, *spec.observation_shape)).astype(dtype)

    def normal(shape):
        return rng.normal(size=shape).astype(np.float32)

    def actions(shape):
        return rng.integers(num_actions, size=shape).astype(np.int32)

    trajectory = Trajectory(
        observation=frames(states),
        is_first=rng.random(states) < 0.02,
        search_policy=rng.dirichlet(np.ones(num_actions), states).astype(np.float32),
        search_value=normal(states),
        params_version=np.zeros(states, np.int32),
        action=actions(decisions),
        reward=normal(decisions),
        discount=np.ones(decisions, np.float32),
        behaviour_prob=np.full(decisions, 1.0 / num_actions, np.float32),
        history_observation=frames(history),
        history_action=actions(history),
        history_is_first=np.zeros(history, bool),
    )
    num_steps = num_sequences * (num_states - config.actors.sequence_overlap)
    return RolloutResult(trajectory, [], {}, num_steps, num_steps * spec.frames_per_step)
