"""The audit: which state, which step, rollouts of past policies, and controls on exact MDPs."""

import collections
import dataclasses
import functools
import itertools
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special

from actors.environments import EnvironmentSpec, Step, make_environment
from actors.forks import ForkableStream
from configs.presets import PRESETS
from muzero.observation import stack_history, stack_trajectory
from muzero.tabular.mdp import MDP, policy_value
from muzero.types import SearchOutput
from scripts.inspection import arithmetic, audit, heldout, rollouts
from scripts.inspection.heldout import HeldOut
from scripts.inspection.stored import Stored
from scripts.inspection.windows import window
from scripts.program import assemble
from tests import reference, tiny

GAMMA = 0.9
stack_of_every_state = jax.jit(
    lambda trajectory: stack_trajectory(
        trajectory, tiny.NUM_ACTIONS, jnp.arange(tiny.NUM_DECISIONS + 1)
    )
)
stack_of = jax.jit(functools.partial(stack_history, num_actions=tiny.NUM_ACTIONS))
from_logits = jax.jit(tiny.SUPPORT.from_logits)


@pytest.mark.parametrize("t, num_steps", [(0, 3), (5, 0), (9, 3)])
def test_a_window_is_what_the_learner_stacks(t, num_steps):
    trajectory = tiny.trajectory(3, event_prob=0.2)
    w = window(trajectory, t, num_steps)
    ours = stack_of(w.frames, w.actions, w.is_first)
    np.testing.assert_allclose(ours, stack_of_every_state(trajectory)[t], rtol=1e-6)
    np.testing.assert_array_equal(w.taken, trajectory.action[t : t + num_steps])


def test_a_window_beyond_the_sequence_is_refused():
    with pytest.raises(ValueError, match="has 2 decisions after it, wanted: 3"):
        window(tiny.trajectory(0), tiny.NUM_DECISIONS - 2, 3)


def test_audited_states_have_all_steps_of_one_learning_episode_behind_them():
    """States 0..8, K = 2: a life is lost in decision 3, state 6 is final, 7 the first of the next
    game.
    """
    is_first = np.array([1, 0, 0, 0, 0, 0, 0, 1, 0], bool)
    discount = np.array([1, 1, 1, 0, 1, 1, 1, 1], float)
    found = heldout.candidates(is_first, discount, num_unroll_steps=2, num_starts=7)
    # 4 and 5 have the lost life within two steps, 6 is final, 7 and 8 are too new
    assert found.tolist() == [
        2,
        3,
    ]
    discount[3] = 1
    assert heldout.candidates(is_first, discount, num_unroll_steps=2, num_starts=7).tolist() == [
        2,
        3,
        4,
        5,
    ]
    assert heldout.candidates(is_first, discount, num_unroll_steps=2, num_starts=2).tolist() == [
        2,
        3,
    ]


def uniform_search(params, rng_key, frames, actions, is_first):
    policy = jnp.full((len(frames), 2), 0.5)
    action = jax.random.randint(rng_key, (len(frames),), 0, 2)
    return SearchOutput(action, policy[:, 0], policy, policy[:, 0], {"depth": policy[:, 0]})


def test_a_held_out_state_goes_on_as_its_sequence_does(monkeypatch):
    smoke, seen, keep = PRESETS["smoke"], [], heldout._keep
    # Nothing random in it
    config = dataclasses.replace(smoke, env=dataclasses.replace(smoke.env, name="CartPole-v1"))
    monkeypatch.setattr(assemble, "build_search", lambda *args: uniform_search)
    monkeypatch.setattr(heldout, "_keep", lambda *args: seen.append(args[3]) or keep(*args))
    states = heldout.collect(Stored(config, *[None] * 6, num_updates=7), num_states=20, seed=0)
    assert len(states) == 20
    assert len(seen) > 20 and seen == list(range(len(seen)))
    stream = ForkableStream(make_environment(config.env, training=True), seed=0, reward_clip=None)
    for state in states:
        stream.thaw(state.frozen, seed=1)
        step = stream.step(state.trajectory.action[state.index])
        np.testing.assert_array_equal(
            step.observation, state.trajectory.observation[state.index + 1]
        )
        assert step.discount == state.trajectory.discount[state.index]


def test_every_two_of_five_states_are_kept_as_often():
    """Over all draws: the third state is drawn for 3 places, the fourth for 4, the fifth for 5; 2
    of them are kept.
    """
    kept = collections.Counter()
    for draws in itertools.product(range(3), range(4), range(5)):
        chosen, rng = (
            [],
            SimpleNamespace(integers=dict(zip((3, 4, 5), draws, strict=True)).__getitem__),
        )
        for state in range(5):
            heldout._keep(chosen, state, 2, state, rng)
        kept[frozenset(chosen)] += 1
    assert kept == {frozenset(pair): 6 for pair in itertools.combinations(range(5), 2)}


@functools.cache
def tiny_stored():
    """Returns a checkpoint of the tiny network with three heads, after 6, 2 and 4 updates."""
    smoke = PRESETS["smoke"]
    config = dataclasses.replace(
        smoke,
        network=dataclasses.replace(smoke.network, history_length=tiny.HISTORY),
        loss=dataclasses.replace(
            smoke.loss, num_unroll_steps=2, discount_factor=GAMMA, td_lambda=0.7, past_clip=2.5
        ),
        actors=dataclasses.replace(smoke.actors, sequence_length=tiny.NUM_DECISIONS + 1),
    )
    spec = EnvironmentSpec((tiny.OBSERVATION_SIZE,), "float32", tiny.NUM_ACTIONS, 1)
    online, target = (tiny.init_params(jax.random.key(n)) for n in (0, 1))
    buffer = tiny.buffer_of(tiny.heads(3), 4)
    buffer = jax.tree.map(np.asarray, buffer._replace(push_update=np.array([6, 2, 4, -1])))
    return Stored(config, spec, tiny.MODEL, tiny.SUPPORT, online, target, buffer, 7)


def test_predictions_are_of_the_state_that_the_returns_are_of():
    """zᵏ starts k states earlier and takes the k actions since: all k end in the same state."""
    stored = tiny_stored()
    states = [HeldOut(None, tiny.trajectory(seed), j, 0) for seed, j in [(1, 3), (2, 7), (3, 11)]]
    head = stored.head(2)
    found = audit.make_predictions(stored, states)(head)
    assert found.shape == (3, 3)
    represent, step, predict = tiny.numpy_net(stored.search_average._replace(prediction=head))
    for n, state in enumerate(states):
        stacks = stack_of_every_state(state.trajectory)
        for k in range(3):
            latent = represent(np.asarray(stacks[state.index - k], float))
            for action in state.trajectory.action[state.index - k : state.index]:
                latent, _ = step(latent, action)
            expected = from_logits(predict(latent)[1])
            assert found[k, n] == pytest.approx(float(expected), rel=1e-4)


def test_vtrace_targets_are_those_of_training():
    """By the slow oracle, with the γ, λ and clip of the run."""
    stored = tiny_stored()
    states = [
        HeldOut(None, tiny.trajectory(seed), j, 0)
        for seed in (1, 2)
        for j in range(tiny.NUM_DECISIONS)
    ]
    head = stored.head(4)
    net = tiny.numpy_net(stored.target_average._replace(prediction=head))
    found = audit.make_vtrace_targets(stored, states)(head)
    for value, state in zip(found, states, strict=True):
        stacks = reference.stacked_trajectory(state.trajectory, tiny.NUM_ACTIONS)
        latents, factors = map(net.represent, stacks), (GAMMA, 0.7, 2.5)
        vs, _, _ = reference.past_targets(
            net.predict, latents, state.trajectory, tiny.SUPPORT, *factors
        )
        assert value == pytest.approx(vs[state.index], rel=1e-4, abs=1e-4)


def test_heads_are_found_by_their_updates_wherever_the_ring_keeps_them():
    stored = tiny_stored()
    assert stored.heads() == [2, 4, 6]
    np.testing.assert_array_equal(stored.head(2)["v"], stored.buffer.head_params["v"][1])


class Counted:
    """A stream whose state s is seen as s, gives reward s + 1 and goes to s + 1; a life is lost in
    state 3 alone.
    """

    bonus = 0.0  # for action 2

    def __init__(self, env, *, seed, reward_clip):
        self.actions = []

    def thaw(self, frozen, seed):
        self.state = frozen

    def step(self, action):
        self.actions.append(action)
        reward, discount = (
            self.state + 1.0 + self.bonus * (action == 2),
            0.0 if self.state == 3 else 1.0,
        )
        self.state += 1
        observation = np.full(tiny.OBSERVATION_SIZE, self.state, np.float32)
        return Step(observation, reward, discount, is_first=False, episode=None)

    def close(self):
        pass


@pytest.fixture
def counted(monkeypatch):
    monkeypatch.setattr(rollouts, "ForkableStream", Counted)
    monkeypatch.setattr(rollouts, "make_environment", lambda *args, **kwargs: None)


def test_a_lost_life_ends_a_rollout_and_a_small_weight_cuts_it(counted):
    stored = tiny_stored()
    states = [HeldOut(first, tiny.trajectory(0), 5, 0) for first in (1, 3, 10)]
    players, done = rollouts.PolicyRollouts(stored, num_parallel=4, tail=0.6), []
    total, remaining = players.returns(stored.head(2), states, 3, (0,), done.append)
    cut = 11 + GAMMA * 12 + GAMMA**2 * 13 + GAMMA**3 * 14 + GAMMA**4 * 15  # 0.9⁵ = 0.59 < 0.6
    np.testing.assert_allclose(
        total, np.repeat([[2 + GAMMA * 3 + GAMMA**2 * 4], [4.0], [cut]], 3, axis=1)
    )
    np.testing.assert_allclose(remaining, np.repeat([[0.0], [0.0], [GAMMA**5]], 3, axis=1))
    assert sum(done) == 9


def test_no_rollout_depends_on_those_beside_it(counted, monkeypatch):
    monkeypatch.setattr(Counted, "bonus", 100.0)
    stored, states = (
        tiny_stored(),
        [HeldOut(first, tiny.trajectory(first), 5, 0) for first in (0, 10)],
    )

    def play(num_parallel, seed):
        return rollouts.PolicyRollouts(stored, num_parallel=num_parallel, tail=0.6).returns(
            stored.head(2), states, 20, seed, lambda count: None
        )

    first = play(3, (0, 2))[0]
    np.testing.assert_array_equal(play(7, (0, 2))[0], first)
    assert (play(3, (0, 4))[0] != first).any()
    assert len(np.unique(first[0])) > 4


def test_actions_are_drawn_from_the_stored_head_on_target_latents(counted):
    stored = tiny_stored()
    trajectory = tiny.trajectory(4)
    represent, _, predict = tiny.numpy_net(
        stored.target_average._replace(prediction=stored.head(4))
    )
    logits, _ = predict(represent(np.asarray(stack_of_every_state(trajectory)[5], float)))
    expected = scipy.special.softmax(logits)
    players = rollouts.PolicyRollouts(stored, num_parallel=100, tail=0.95)  # one decision a rollout
    players.returns(stored.head(4), [HeldOut(3, trajectory, 5, 0)], 3000, (0,), lambda count: None)
    actions = [action for stream in players._streams for action in stream.actions]
    frequency = np.bincount(actions, minlength=3) / len(actions)
    assert len(actions) == 3000 and max(expected) < 0.95
    # Four standard errors
    np.testing.assert_allclose(frequency, expected, atol=4 * 0.5 / np.sqrt(3000))


def test_the_policy_sees_where_every_action_has_led_to(counted, monkeypatch):
    """Two rollouts of four decisions from state 5 of a sequence,
    which the stream calls state 10.
    """
    asked = []

    def policy(representation, head_params, frames, actions, is_first):
        asked.append([x[0].copy() for x in (frames, actions, is_first)])
        # Takes actions 1, 2, 0, 1 and then 2, 0, 1, 2
        return np.eye(tiny.NUM_ACTIONS)[[len(asked) % 3]]

    monkeypatch.setattr(rollouts, "make_policy", lambda stored: policy)
    trajectory = tiny.trajectory(0, event_prob=0.0)
    players = rollouts.PolicyRollouts(tiny_stored(), num_parallel=1, tail=0.7)  # 0.9⁴ = 0.66
    players.returns(None, [HeldOut(10, trajectory, 5, 0)], 2, (0,), lambda count: None)
    assert len(asked) == 8
    frames = [
        *trajectory.observation[3:6],
        *np.repeat([[11], [12], [13]], tiny.OBSERVATION_SIZE, axis=1),
    ]
    for first, taken in ((0, [1, 2, 0]), (4, [2, 0, 1])):
        actions = [*trajectory.action[3:5], *taken]
        for k, inputs in enumerate(asked[first : first + 4]):
            np.testing.assert_array_equal(inputs[0], frames[k : k + 3])
            np.testing.assert_array_equal(inputs[1], actions[k : k + 2])
            assert not inputs[2].any()


NUM_STATES, NUM_ACTIONS, K, NUM_ROLLOUTS = 80, 3, 3, 16
exact_value = jax.jit(policy_value)


def simulate(rng, world, policy, first):
    """Returns [N, R] discounted rewards of `policy` [A, S] from states `first`, and what is left,
    cut at γⁿ < 0.01.
    """
    arrival, reward = np.argmax(world.transition, axis=2), world.reward
    state = np.repeat(first[:, None], NUM_ROLLOUTS, axis=1)
    total, weight = np.zeros(state.shape), 1.0
    while weight >= 0.01:
        action = (rng.random(state.shape)[..., None] > np.cumsum(policy, axis=0).T[state]).sum(-1)
        total, weight = total + weight * reward[action, state], weight * world.discount
        state = arrival[action, state]
    return total, np.full(state.shape, weight)


def make_world():
    """Returns a deterministic world: one successor a state and action, rewards U(0, 1)."""
    rng = np.random.default_rng(7)
    shape = (NUM_ACTIONS, NUM_STATES)
    return MDP(
        np.eye(NUM_STATES)[rng.integers(NUM_STATES, size=shape)], rng.uniform(size=shape), GAMMA
    )


def tabular_audit(seed, *, shuffled, head_noise=0.0):
    """Returns the audit of exact values behind a model with true or shuffled dynamics, of a
    deterministic world.
    """
    rng = np.random.default_rng(seed)
    world = make_world()
    policy = rng.dirichlet(np.ones(NUM_ACTIONS), NUM_STATES).T
    arrival = np.argmax(world.transition, axis=2)
    model = rng.permuted(arrival, axis=1) if shuffled else arrival
    with jax.enable_x64(True):
        value = np.asarray(exact_value(world, policy))
    value = value + head_noise * value.std() * rng.normal(size=NUM_STATES)
    path, taken = [rng.integers(NUM_STATES, size=400)], rng.integers(NUM_ACTIONS, size=(K, 400))
    for action in taken:
        path.append(arrival[action, path[-1]])
    predictions = []
    for k in range(K + 1):
        imagined = path[K - k]
        for action in taken[K - k :]:
            imagined = model[action, imagined]
        predictions.append(value[imagined])
    returns = arithmetic.complete(*simulate(rng, world, policy, path[K]))
    return arithmetic.audit_head(np.stack(predictions), predictions[0], returns, path[K], seed=seed)


def test_the_audit_tells_the_exact_model_from_one_with_shuffled_dynamics():
    for seed in range(3):
        exact, shuffled = tabular_audit(seed, shuffled=False), tabular_audit(seed, shuffled=True)
        for name, audited in (("exact", exact), ("shuffled", shuffled)):
            print(
                name,
                [f"{v:.3f} ({a:.3f} to {b:.3f})" for v, a, b in zip(*audited.error, strict=True)],
            )
        assert (exact.error.low < 0.05).all() and (exact.error.high < 0.2).all()
        assert (shuffled.error.low[1:] > 0.5).all()  # the intervals are far from each other
        assert (shuffled.excess.low[1:] > 0.5).all()
        assert shuffled.error.high[0] < 0.2, "at k = 0 no dynamics are used: the head is right"


def test_the_audit_tells_a_wrong_head_from_a_wrong_model():
    wrong = tabular_audit(0, shuffled=False, head_noise=1.0)
    assert (wrong.error.low > 0.3).all(), "at every k, k = 0 included"
    np.testing.assert_allclose(wrong.excess.value, 0.0, atol=1e-12)
    assert wrong.vtrace_gap.value[0] == wrong.error.value[0]  # it was given the same predictions
