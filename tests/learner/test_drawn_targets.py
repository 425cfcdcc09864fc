"""Targets of drawn windows against oracles that walk the whole stream they were cut from."""

import dataclasses

import jax
import numpy as np
import pytest

from learner.replay import Replay, ReplaySettings
from muzero.types import Origin, RolloutResult, Trajectory
from tests import reference, tiny
from tests.learner.test_replay import draw_all

pytestmark = pytest.mark.usefixtures("quick_compilation")

LENGTH, CONTEXT, TAIL = 60, tiny.HISTORY - 1, 4
WINDOW = tiny.NUM_UNROLL_STEPS + TAIL
GAMMA, LAMBDA = tiny.LOSS_SETTINGS.discount_factor, tiny.LOSS_SETTINGS.td_lambda
SETTINGS = ReplaySettings(
    num_workers=1,
    environments_per_worker=1,
    capacity=2 * LENGTH,
    observation_shape=(tiny.OBSERVATION_SIZE,),
    observation_dtype="float32",
    num_actions=tiny.NUM_ACTIONS,
    history_length=tiny.HISTORY,
    sequence_length=5,
    sequence_overlap=1,
    window_length=WINDOW,
)


@dataclasses.dataclass
class Stream:
    """One random stream with all kinds of ends in it; state 0 is a reset, before it is nothing."""

    whole: Trajectory
    seq: reference.Sequence

    @classmethod
    def random(cls, seed):
        rng = np.random.default_rng(seed)
        seq = reference.random_sequence(rng, LENGTH, event_prob=0.08)

        def float32(x):
            return np.asarray(x, np.float32)

        observation = rng.normal(size=(LENGTH + 1, tiny.OBSERVATION_SIZE))
        whole = Trajectory(
            observation=float32(observation),
            is_first=np.concatenate([[True], seq.is_first[1:]]),
            search_policy=float32(rng.dirichlet([0.7] * tiny.NUM_ACTIONS, LENGTH + 1)),
            search_value=float32(seq.value),
            params_version=np.zeros(LENGTH + 1, np.int32),
            action=rng.integers(tiny.NUM_ACTIONS, size=LENGTH).astype(np.int32),
            reward=float32(seq.reward),
            discount=float32(seq.discount),
            behaviour_prob=float32(seq.behaviour_prob),
            history_observation=np.zeros((CONTEXT, tiny.OBSERVATION_SIZE), np.float32),
            history_action=np.zeros(CONTEXT, np.int32),
            history_is_first=np.zeros(CONTEXT, bool),
        )
        return cls(whole, seq)

    def cut(self, first, num_decisions):
        """Returns the sequence that begins with state `first`, with its context."""

        def before(name):
            return np.concatenate(
                [getattr(self.whole, f"history_{name}"), getattr(self.whole, name)]
            )[first : first + CONTEXT]

        parts = {
            name: array[first : first + num_decisions + (len(array) > LENGTH)]
            for name, array in self.whole._asdict().items()
            if not name.startswith("history")
        }
        return Trajectory(
            **parts, **{f"history_{n}": before(n) for n in ("observation", "action", "is_first")}
        )


@pytest.fixture(scope="module")
def drawn():
    """Returns (stream, windows of all its start states, their times)."""
    stream, replay = Stream.random(5), Replay(SETTINGS)
    for number, first in enumerate(range(0, LENGTH - 3, 4), 1):
        sequence = Trajectory(*[array[None] for array in stream.cut(first, 4)])
        replay.add(RolloutResult(sequence, [], {}, 4, 16, origin=Origin(0, 0, number)))
    windows = draw_all(replay)
    frames = stream.whole.observation[:, 0].tolist()
    return stream, windows, [frames.index(x) for x in windows.observation[:, 0, 0].tolist()]


def prepared(windows, **changes):
    loss = dataclasses.replace(tiny.make_loss(past_weight=0.0, **changes), num_starts=1)
    params = [tiny.init_params(jax.random.key(seed)) for seed in (0, 1)]
    make = jax.jit(jax.vmap(loss.prepare, (None, None, None, 0)))
    return jax.device_get(make(*params, tiny.buffer_of([], 1), windows)).targets


def averages(stream):
    """Returns the target average's values and policies in all states of the stream, in float64."""
    net = tiny.numpy_net(tiny.init_params(jax.random.key(1)))
    stacks = reference.stacked_trajectory(stream.whole, tiny.NUM_ACTIONS)
    logits = [net.predict(net.represent(stack)) for stack in stacks]
    support = tiny.SUPPORT.settings

    def scalar(row):
        return reference.scalar_of(row, support.min_value, support.max_value, support.epsilon)

    policy = [np.exp(reference.log_softmax(row)) for row, _ in logits]
    return np.array([scalar(row) for _, row in logits]), np.array(policy)


def expected_values(stream, t, value, kind):
    """Returns the value targets of states t … t + K from the decisions t … t + WINDOW − 1."""
    states, decisions = slice(t, t + WINDOW + 1), slice(t, t + WINDOW)
    seq = stream.seq
    mask = 1.0 - stream.whole.is_first[1:]
    played = (value[states], seq.reward[decisions], seq.discount[decisions], mask[decisions])
    if kind == "td_lambda":
        targets = reference.td_lambda_targets(*played, GAMMA, LAMBDA)
    elif kind == "n_step":
        targets = reference.n_step_targets(*played, GAMMA, 4)
    else:
        _, policy = averages(stream)
        actions = stream.whole.action[decisions]
        cut = reference.Sequence(
            is_first=None,
            mask=mask[decisions],
            discount=seq.discount[decisions],
            reward=seq.reward[decisions],
            behaviour_prob=seq.behaviour_prob[decisions],
            target_prob=policy[np.arange(t, t + WINDOW), actions],
            value=value[states],
            events=[],
        )
        targets = reference.vtrace_targets(cut, GAMMA, LAMBDA, 1.0)
    return targets[: tiny.NUM_UNROLL_STEPS + 1]


def test_the_windows_cover_the_stream(drawn):
    stream, _, times = drawn
    real = ~stream.whole.is_first[1:]
    assert sorted(times) == [t for t in range(LENGTH - WINDOW + 1) if real[t]]
    assert len(times) < LENGTH - WINDOW + 1  # there are ends among them
    assert {"termination", "truncation", "life_loss"} <= set(stream.seq.events)


@pytest.mark.parametrize("bootstrap", ["search", "average"])
@pytest.mark.parametrize("kind", ["td_lambda", "n_step", "vtrace"])
def test_value_targets_of_windows_equal_the_oracle_on_the_stream(drawn, kind, bootstrap):
    if (kind, bootstrap) == ("vtrace", "search"):
        return  # is refused
    stream, windows, times = drawn
    value = averages(stream)[0] if bootstrap == "average" else stream.seq.value
    changes = dict(value_target=kind, num_target_steps=4, bootstrap=bootstrap)
    targets = prepared(windows, **changes)
    masks = reference.unroll_masks(
        stream.whole.is_first, stream.seq.discount, LENGTH - WINDOW + 1, tiny.NUM_UNROLL_STEPS
    )
    assert targets.value.shape == (len(times), 1, tiny.NUM_UNROLL_STEPS + 1)
    for row, t in enumerate(times):
        expected = expected_values(stream, t, value, kind) * masks["alive_mask"][t]
        np.testing.assert_allclose(targets.value[row, 0], expected, rtol=2e-4, atol=2e-4)
        alive_or_absorbed = masks["alive_mask"][t] + masks["absorbed_mask"][t]
        np.testing.assert_array_equal(targets.value_mask[row, 0], alive_or_absorbed)


def test_reward_and_policy_targets_of_windows_are_those_of_the_stream(drawn):
    stream, windows, times = drawn
    targets = prepared(windows)
    masks = reference.unroll_masks(
        stream.whole.is_first, stream.seq.discount, LENGTH - WINDOW + 1, tiny.NUM_UNROLL_STEPS
    )
    for row, t in enumerate(times):
        reward = stream.whole.reward[t : t + tiny.NUM_UNROLL_STEPS] * masks["reward_alive_mask"][t]
        np.testing.assert_array_equal(targets.reward[row, 0], reward)
        policy = stream.whole.search_policy[t : t + tiny.NUM_UNROLL_STEPS + 1]
        np.testing.assert_array_equal(targets.policy[row, 0], policy)
        np.testing.assert_array_equal(targets.policy_mask[row, 0], masks["alive_mask"][t])


def test_the_targets_differ(drawn):
    """Else the oracles above would say little."""
    _, windows, _ = drawn
    kinds = [
        ("td_lambda", "search"),
        ("td_lambda", "average"),
        ("n_step", "search"),
        ("vtrace", "average"),
    ]
    values = [
        prepared(windows, value_target=k, num_target_steps=4, bootstrap=b).value for k, b in kinds
    ]
    differences = [np.abs(a - b).max() for i, a in enumerate(values) for b in values[:i]]
    assert min(differences) > 0.1
