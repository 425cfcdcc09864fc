"""Targets: slow oracles on random sequences, and markers: one event, which index moved."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from muzero import targets
from tests import reference

GAMMA, LAMBDA = 0.997, 0.8
SEEDS = range(12)
T, K, S = 12, 3, 5
EVENTS = ["termination", "truncation", "life_loss"]


_TD_LAMBDA = jax.jit(targets.td_lambda_targets)
_N_STEP = jax.jit(targets.n_step_targets, static_argnames="num_steps")
_VTRACE = jax.jit(targets.vtrace_targets)
_UNROLL_MASKS = jax.jit(targets.unroll_masks, static_argnames=("num_starts", "num_unroll_steps"))


def _td_lambda(value, reward, discount, mask, gamma=GAMMA, lam=LAMBDA):
    arrays = [jnp.asarray(x, jnp.float32) for x in (value, reward, discount, mask)]
    return np.asarray(_TD_LAMBDA(*arrays, discount_factor=gamma, td_lambda=lam))


def _vtrace(seq, gamma=GAMMA, lam=LAMBDA, clip=1.0):
    fields = (seq.value, seq.target_prob, seq.behaviour_prob, seq.reward, seq.discount, seq.mask)
    arrays = [jnp.asarray(x, jnp.float32) for x in fields]
    return np.asarray(_VTRACE(*arrays, discount_factor=gamma, td_lambda=lam, clip_threshold=clip))


def _one_event(event, decision):
    """Returns (is_first [T+1], discount [T], mask [T]) with one event at that decision."""
    is_first, discount = np.zeros(T + 1, bool), np.ones(T)
    if event in ("termination", "life_loss"):
        discount[decision] = 0.0
    if event in ("termination", "truncation"):
        is_first[decision + 2] = True
    return is_first, discount, 1.0 - is_first[1:]


def _unroll_masks(is_first, discount, num_starts=S, num_unroll_steps=K):
    masks = _UNROLL_MASKS(
        is_first, discount, num_starts=num_starts, num_unroll_steps=num_unroll_steps
    )
    return {name: np.asarray(mask) for name, mask in masks._asdict().items()}


# --- Oracles


def test_the_random_sequences_hold_every_event():
    events = [reference.random_sequence(np.random.default_rng(seed), 29).events for seed in SEEDS]
    counts = {event: sum(row.count(event) for row in events) for event in [*EVENTS, "reset"]}
    assert min(counts.values()) >= 10, counts


@pytest.mark.parametrize("gamma, lam", [(0.997, 0.8), (0.9, 0.0), (0.9, 1.0)])
def test_td_lambda_equals_the_oracle(gamma, lam):
    for seed in SEEDS:
        seq = reference.random_sequence(np.random.default_rng(seed), 29)
        expected = reference.td_lambda_targets(
            seq.value, seq.reward, seq.discount, seq.mask, gamma, lam
        )
        got = _td_lambda(seq.value, seq.reward, seq.discount, seq.mask, gamma, lam)
        assert got.shape == (30,) and got.dtype == np.float32
        np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "gamma, num_steps", [(0.997, 1), (0.9, 3), (0.97, 5), (0.9, 29), (0.9, 40)]
)
def test_n_step_targets_equal_the_oracle(gamma, num_steps):
    for seed in SEEDS:
        seq = reference.random_sequence(np.random.default_rng(seed), 29)
        played = (seq.value, seq.reward, seq.discount, seq.mask)
        arrays = [jnp.asarray(x, jnp.float32) for x in played]
        got = np.asarray(_N_STEP(*arrays, discount_factor=gamma, num_steps=num_steps))
        assert got.shape == (30,) and got.dtype == np.float32
        expected = reference.n_step_targets(*played, gamma, num_steps)
        np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "gamma, lam, clip", [(0.997, 0.8, 1.0), (0.9, 1.0, 1.0), (0.9, 0.5, 2.5), (0.9, 0.8, np.inf)]
)
def test_vtrace_equals_the_oracle(gamma, lam, clip):
    for seed in SEEDS:
        seq = reference.random_sequence(np.random.default_rng(seed), 29)
        expected = reference.vtrace_targets(seq, gamma, lam, clip)
        got = _vtrace(seq, gamma, lam, clip)
        assert got.shape == (30,) and got.dtype == np.float32
        np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("num_starts, num_unroll_steps", [(20, 5), (29, 1), (25, 5), (1, 3)])
def test_unroll_masks_equal_the_oracle(num_starts, num_unroll_steps):
    for seed in SEEDS:
        seq = reference.random_sequence(np.random.default_rng(seed), 29)
        got = _unroll_masks(seq.is_first, seq.discount, num_starts, num_unroll_steps)
        expected = reference.unroll_masks(seq.is_first, seq.discount, num_starts, num_unroll_steps)
        assert sorted(got) == sorted(expected)
        for name, mask in expected.items():
            np.testing.assert_array_equal(got[name], mask, err_msg=name)


def test_no_gradient_leaves_the_targets():
    seq = reference.random_sequence(np.random.default_rng(0), 29)

    def total(value):
        played = (seq.reward, seq.discount, seq.mask)
        td = targets.td_lambda_targets(value, *played, discount_factor=0.9, td_lambda=0.8)
        n_step = targets.n_step_targets(value, *played, discount_factor=0.9, num_steps=3)
        rest = (seq.target_prob, seq.behaviour_prob, *played)
        return (
            jnp.sum(td)
            + jnp.sum(n_step)
            + jnp.sum(targets.vtrace_targets(value, *rest, discount_factor=0.9, td_lambda=0.8))
        )

    assert np.all(np.asarray(jax.grad(total)(jnp.asarray(seq.value, jnp.float32))) == 0.0)


def test_unrolls_longer_than_the_sequence_are_refused():
    with pytest.raises(ValueError, match="12 decisions"):
        _unroll_masks(np.zeros(T + 1, bool), np.ones(T), num_starts=T - K + 2)
    assert (
        _unroll_masks(np.zeros(T + 1, bool), np.ones(T), num_starts=T - K + 1)["alive_mask"].min()
        == 1
    )


# --- Importance ratios


def test_importance_ratio_literals():
    ratio = targets.importance_ratio(
        jnp.asarray([0.5, 0.2, 0.0, 0.3]), jnp.asarray([0.25, 0.8, 0.5, 1e-38]), 1.0
    )
    np.testing.assert_allclose(ratio, [1.0, 0.25, 0.0, 1.0], rtol=1e-6)
    unclipped = targets.importance_ratio(
        jnp.asarray([0.5, 0.2, 0.0]), jnp.asarray([0.25, 0.8, 0.5]), jnp.inf
    )
    np.testing.assert_allclose(unclipped, [2.0, 0.25, 0.0], rtol=1e-6)


def test_behaviour_probability_zero_on_a_decision_that_is_not_real_is_harmless():
    seq = reference.random_sequence(np.random.default_rng(1), 29)
    assert np.any(seq.mask == 0)
    dirty = seq._replace(
        behaviour_prob=np.where(seq.mask > 0, seq.behaviour_prob, 0.0),
        target_prob=np.where(seq.mask > 0, seq.target_prob, 0.0),
    )
    np.testing.assert_array_equal(_vtrace(dirty), _vtrace(seq))


# --- Markers

# Rows of the unroll that starts in state t = 1, for an event at decision t, t+1, t+2, t+3 (K = 3).
ENDS = {  # discount 0
    "alive_mask": [[1, 0, 0, 0], [1, 1, 0, 0], [1, 1, 1, 0], [1, 1, 1, 1]],
    "absorbed_mask": [[0, 1, 1, 1], [0, 0, 1, 1], [0, 0, 0, 1], [0, 0, 0, 0]],
    "reward_alive_mask": [[1, 0, 0], [1, 1, 0], [1, 1, 1], [1, 1, 1]],
    "reward_absorbed_mask": [[0, 1, 1], [0, 0, 1], [0, 0, 0], [0, 0, 0]],
}
TRUNCATED = {  # the final observation itself is alive; nothing is absorbed
    "alive_mask": [[1, 1, 0, 0], [1, 1, 1, 0], [1, 1, 1, 1], [1, 1, 1, 1]],
    "absorbed_mask": [[0, 0, 0, 0]] * 4,
    "reward_alive_mask": [[1, 0, 0], [1, 1, 0], [1, 1, 1], [1, 1, 1]],
    "reward_absorbed_mask": [[0, 0, 0]] * 4,
}
ROWS = {"termination": ENDS, "life_loss": ENDS, "truncation": TRUNCATED}
STARTS = {  # states 0..4, for an event at decision 1, 2, 3, 4: the final observation is no start
    "termination": [[1, 1, 0, 1, 1], [1, 1, 1, 0, 1], [1, 1, 1, 1, 0], [1, 1, 1, 1, 1]],
    "truncation": [[1, 1, 0, 1, 1], [1, 1, 1, 0, 1], [1, 1, 1, 1, 0], [1, 1, 1, 1, 1]],
    "life_loss": [[1, 1, 1, 1, 1]] * 4,
}


@pytest.mark.parametrize("event", EVENTS)
@pytest.mark.parametrize("offset", range(K + 1))
def test_unroll_masks_of_one_event(event, offset):
    is_first, discount, _ = _one_event(event, 1 + offset)
    masks = _unroll_masks(is_first, discount)
    for name, rows in ROWS[event].items():
        np.testing.assert_array_equal(masks[name][1], rows[offset], err_msg=name)
    np.testing.assert_array_equal(masks["start_mask"], STARTS[event][offset])


@pytest.mark.parametrize("event", EVENTS)
def test_unrolls_after_the_event_are_untouched(event):
    is_first, discount, _ = _one_event(event, 1)
    masks = _unroll_masks(is_first, discount)
    first_after = {"termination": 3, "truncation": 3, "life_loss": 2}[event]
    for name, value in {
        "alive_mask": 1,
        "reward_alive_mask": 1,
        "absorbed_mask": 0,
        "reward_absorbed_mask": 0,
    }.items():
        assert masks[name][first_after:].shape[0] >= 2 and np.all(
            masks[name][first_after:] == value
        )


def test_an_absorbed_unroll_stays_absorbed_across_the_reset_and_a_truncated_one_stays_over():
    is_first, discount, _ = _one_event("termination", 1)
    discount[3] = 0.0  # a life is lost in the next game
    assert _unroll_masks(is_first, discount, 2, 5)["absorbed_mask"].tolist() == [
        [0, 0, 1, 1, 1, 1],
        [0, 1, 1, 1, 1, 1],
    ]
    is_first, discount, _ = _one_event("truncation", 1)
    discount[3] = 0.0
    masks = _unroll_masks(is_first, discount, 2, 5)
    assert masks["alive_mask"].tolist() == [[1, 1, 1, 0, 0, 0], [1, 1, 0, 0, 0, 0]]
    assert not masks["absorbed_mask"].any() and not masks["reward_absorbed_mask"].any()


# Values are 0 but v_4 = 8, rewards 0 but r_1 = 1 and r_5 = 4; γ = λ = π/μ = 1/2; the event is at
# decision 3.
MARKED_TD_LAMBDA = {
    "none": [0.28515625, 1.140625, 0.5625, 2.25, 1.0, 4.0, 0.0],
    "termination": [0.25, 1.0, 0.0, 0.0, 8.0, 4.0, 0.0],  # G_4 = ν_4: that decision is not real
    "truncation": [0.3125, 1.25, 1.0, 4.0, 8.0, 4.0, 0.0],  # G_3 bootstraps with ν_4 alone: 1/2 · 8
    "life_loss": [0.25, 1.0, 0.0, 0.0, 1.0, 4.0, 0.0],  # state 4 is an ordinary one: 1/4 · 4
}
MARKED_VTRACE = {
    "none": [0.06549072, 0.52392578, 0.19140625, 1.53125, 4.25, 2.0, 0.0],  # vs_4 = 8 − 8/2 + 2/8
    "termination": [0.0625, 0.5, 0.0, 0.0, 8.0, 2.0, 0.0],
    "truncation": [0.06640625, 0.53125, 0.25, 2.0, 8.0, 2.0, 0.0],
    "life_loss": [0.0625, 0.5, 0.0, 0.0, 4.25, 2.0, 0.0],
}


def _marked(event):
    """Returns (value, reward, discount, mask) of the marked sequence."""
    _, discount, mask = _one_event(event, 3)
    value, reward = np.zeros(T + 1), np.zeros(T)
    value[4], reward[1], reward[5] = 8.0, 1.0, 4.0
    return value, reward, discount, mask


@pytest.mark.parametrize("event", ["none", *EVENTS])
def test_td_lambda_of_a_marked_sequence(event):
    got = _td_lambda(*_marked(event), gamma=0.5, lam=0.5)
    np.testing.assert_allclose(got, [*MARKED_TD_LAMBDA[event], *[0.0] * 6], rtol=1e-5)


@pytest.mark.parametrize("event", ["none", *EVENTS])
def test_vtrace_of_a_marked_sequence(event):
    value, reward, discount, mask = _marked(event)
    probs = np.full(T, 0.25), np.full(T, 0.5)
    seq = reference.Sequence(None, mask, discount, reward, probs[1], probs[0], value, [])
    np.testing.assert_allclose(
        _vtrace(seq, 0.5, 0.5), [*MARKED_VTRACE[event], *[0.0] * 6], rtol=1e-5
    )


def test_targets_at_a_termination_see_its_reward_and_nothing_later():
    value, reward, discount, mask = _marked("termination")
    reward[3] = 16.0
    np.testing.assert_allclose(
        _td_lambda(value, reward, discount, mask, 0.5, 0.5)[:5], [0.5, 2.0, 4.0, 16.0, 8.0]
    )
    value[5:], reward[5:] = 100.0, 100.0
    np.testing.assert_allclose(
        _td_lambda(value, reward, discount, mask, 0.5, 0.5)[:5], [0.5, 2.0, 4.0, 16.0, 8.0]
    )
