"""Loss of one sequence: a slow float64 transcription of the sums, its gradients, frozen heads, KL
metrics.
"""

import collections
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from muzero import value_buffer
from muzero.model import Model
from muzero.types import Params
from tests import reference, tiny

pytestmark = pytest.mark.usefixtures("quick_compilation")

SEEDS, BUFFER_SIZE = range(6), 3
WEIGHTS = {
    name: getattr(tiny.LOSS_SETTINGS, f"{name}_weight")
    for name in ("reward", "value", "policy", "past")
}
PARAMS = functools.cache(lambda: jax.device_get(tiny.init_params(jax.random.key(0))))
TARGET = functools.cache(lambda: jax.device_get(tiny.init_params(jax.random.key(1))))


@functools.cache
def _jitted(**changes):
    """Returns a function of (settings, params, target, heads, buffer, batch): gradients of the sum,
    outputs [B].
    """

    @jax.jit
    def evaluate(traced, params, target, head_params, buffer, batch):
        loss_fn = tiny.whole_loss(tiny.make_loss(**traced | changes))

        def total(params, target, head_params):
            ring = buffer._replace(head_params=head_params)
            rows = jax.vmap(loss_fn, (None, None, None, 0))(params, target, ring, batch)
            return jnp.sum(rows.loss), rows

        return jax.grad(total, argnums=(0, 1, 2), has_aux=True)(params, target, head_params)

    return evaluate


def _traced(weights, **settings):
    """Returns the settings that cost no compilation; a `past_weight` of 0 would leave the heads
    out.
    """
    return settings | {f"{name}_weight": x for name, x in weights.items() if name != "past"}


def _evaluate(num_heads, weights=None, past_clip=1.0, **changes):
    """Returns (gradients into params, target and heads; loss outputs [B]) of the random batch."""
    buffer = tiny.buffer_of(tiny.heads(num_heads), BUFFER_SIZE)
    traced = _traced(weights or WEIGHTS, past_clip=past_clip)
    return jax.device_get(
        _jitted(**changes)(
            traced, PARAMS(), TARGET(), buffer.head_params, buffer, tiny.batch(SEEDS)
        )
    )


def _numpy_head(head):
    float64 = {name: np.asarray(x, np.float64) for name, x in head.items()}
    return lambda latent: tiny.functions(np).predict(float64, latent)


@functools.cache
def _past(seed, num_heads, past_latents, past_clip):
    """Returns [(head, vs, v, π)] of the heads that the ring still holds, by the oracle."""
    settings, trajectory = tiny.LOSS_SETTINGS, tiny.trajectory(seed)
    net = tiny.numpy_net(
        PARAMS()
        if past_latents == "online"
        else PARAMS()._replace(representation=TARGET().representation)
    )
    latents = [
        net.represent(stack) for stack in reference.stacked_trajectory(trajectory, tiny.NUM_ACTIONS)
    ]
    heads = [_numpy_head(head) for head in tiny.heads(num_heads)[-BUFFER_SIZE:]]
    factors = (settings.discount_factor, settings.td_lambda, past_clip)
    return [
        (h, *reference.past_targets(h, latents, trajectory, tiny.SUPPORT, *factors)) for h in heads
    ]


def _terms(
    seed,
    num_heads,
    past_latents="target",
    params=None,
    num_unroll_steps=tiny.NUM_UNROLL_STEPS,
    past_clip=1.0,
):
    """Returns the terms of one sequence by the oracle; `params` may differ from those behind the
    targets.
    """
    trajectory = tiny.trajectory(seed)
    return list(
        reference.sequence_terms(
            tiny.numpy_net(PARAMS() if params is None else params),
            [(head, vs) for head, vs, _, _ in _past(seed, num_heads, past_latents, past_clip)],
            trajectory,
            reference.stacked_trajectory(trajectory, tiny.NUM_ACTIONS),
            tiny.SUPPORT,
            num_starts=tiny.NUM_STARTS,
            num_unroll_steps=num_unroll_steps,
            gamma=tiny.LOSS_SETTINGS.discount_factor,
            lam=tiny.LOSS_SETTINGS.td_lambda,
        )
    )


def _summed(terms):
    """Returns (loss, metric sums, metric divisors) of terms."""
    loss, sums, counts = 0.0, collections.Counter(), collections.Counter()
    for term in terms:
        loss += WEIGHTS[term.name] * term.weight * term.share * term.cross_entropy
        sums[f"loss/{term.name}"] += term.weight * term.share * term.kl
        sums[f"loss/{term.name}_k{term.k}"] += term.share * term.kl
        counts[f"loss/{term.name}_k{term.k}"] += term.share
        counts[f"loss/{term.name}"] += term.share * (term.k == (1 if term.name == "reward" else 0))
    return loss, sums, counts


# --- Numbers


def test_the_random_sequences_hold_every_case():
    terms = {seed: _terms(seed, 0) for seed in SEEDS}

    def of(name):
        return sum(term.name == name for rows in terms.values() for term in rows)

    all_unrolls = len(SEEDS) * tiny.NUM_STARTS * (tiny.NUM_UNROLL_STEPS + 1)
    assert of("policy") < of("value") - 10  # absorbed steps: values and rewards, no policy
    assert of("value") < all_unrolls - 10  # truncations and starts that are none
    events = [
        reference.random_sequence(np.random.default_rng(seed), tiny.NUM_DECISIONS, 0.1).events
        for seed in SEEDS
    ]
    assert {event for row in events for event in row[: tiny.NUM_STARTS]} == {
        *("", "termination", "truncation", "life_loss", "reset")
    }


@pytest.mark.parametrize(
    "num_heads, past_latents, past_clip",
    [
        (0, "target", 1.0),
        (1, "target", 1.0),
        (3, "target", 1.0),
        (5, "target", 1.0),
        (5, "online", 1.0),
        (5, "target", 2.5),
    ],
)
def test_the_loss_equals_the_transcription(num_heads, past_latents, past_clip):
    _, rows = _evaluate(num_heads, past_latents=past_latents, past_clip=past_clip)
    for i, seed in enumerate(SEEDS):
        terms = _terms(seed, num_heads, past_latents, past_clip=past_clip)
        loss, sums, counts = _summed(terms)
        assert rows.loss[i] == pytest.approx(loss, rel=2e-4)
        assert rows.num_starts[i] == sum(term.name == "value" and term.k == 0 for term in terms)
        tags = {tag for tag in rows.sums if tag.startswith("loss/")} - {"loss/target_saturated"}
        assert tags >= set(sums) and (num_heads == 0 or tags == set(sums))
        for tag in tags:
            assert rows.sums[tag][i] == pytest.approx(sums[tag], rel=5e-4, abs=5e-4), tag
            assert rows.counts[tag][i] == pytest.approx(counts[tag], abs=1e-4), tag


def test_target_and_online_latents_differ():
    losses = {name: _evaluate(5, past_latents=name)[1].loss for name in ("target", "online")}
    assert np.abs(losses["target"] - losses["online"]).min() > 1e-3


@pytest.mark.parametrize("num_heads, clip", [(1, 1.0), (5, 1.0), (5, 2.5)])
def test_diagnostics_of_the_heads_equal_the_transcription(num_heads, clip):
    _, rows = _evaluate(num_heads, past_latents="target", past_clip=clip)
    for i, seed in enumerate(SEEDS):
        trajectory, past = tiny.trajectory(seed), _past(seed, num_heads, "target", clip)
        real = 1.0 - trajectory.is_first[1:]
        taken = np.arange(tiny.NUM_DECISIONS), trajectory.action
        overlaps = [
            real @ np.minimum(row[3][:-1], trajectory.search_policy[:-1]).sum(axis=1)
            for row in past
        ]
        expected = collections.Counter(overlap_oldest=overlaps[0], overlap_newest=overlaps[-1])
        expected["overlap"] = np.mean(overlaps)
        for _, vs, value, policy in past:
            ratio, share = policy[taken] / trajectory.behaviour_prob, real / len(past)
            expected["rho_mean"] += share @ np.minimum(ratio, clip)
            expected["rho_clipped_fraction"] += share @ (ratio > clip)
            expected["target_mean"] += share @ vs[:-1]
            expected["target_square"] += share @ vs[:-1] ** 2
            expected["error_square"] += share @ (vs - value)[:-1] ** 2
        assert {f"value_buffer/{name}" for name in expected} == {
            tag for tag in rows.sums if "value_buffer" in tag
        }
        for name, value in expected.items():
            assert rows.sums[f"value_buffer/{name}"][i] == pytest.approx(
                value, rel=1e-3, abs=1e-3
            ), name
            assert rows.counts[f"value_buffer/{name}"][i] == pytest.approx(real.sum())


def test_steps_add_up_to_the_totals():
    rows = _evaluate(5, past_latents="target")[1]
    for name, first_k in {"reward": 1, "value": 0, "policy": 0, "past": 0}.items():

        def weight(k):
            return 1.0 if k == 0 else 1 / tiny.NUM_UNROLL_STEPS

        steps = range(first_k, tiny.NUM_UNROLL_STEPS + 1)
        total = sum(weight(k) * rows.sums[f"loss/{name}_k{k}"] for k in steps)
        assert np.all(total > 0)
        np.testing.assert_allclose(rows.sums[f"loss/{name}"], total, rtol=1e-5)
        assert f"loss/{name}_k{first_k - 1}" not in rows.sums
        assert f"loss/{name}_k{tiny.NUM_UNROLL_STEPS + 1}" not in rows.sums


def test_an_empty_buffer_costs_exactly_nothing():
    empty, plain = _evaluate(0, past_latents="target"), _evaluate(0, past_weight=0.0)
    assert set(plain[1].sums) == {
        tag for tag in empty[1].sums if "past" not in tag and "value_buffer" not in tag
    }
    past = [x for tag, x in empty[1].sums.items() if tag not in plain[1].sums]
    assert len(past) > 5 and not np.any(past)
    np.testing.assert_allclose(empty[1].loss, plain[1].loss, rtol=1e-6)
    jax.tree.map(
        lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-5),
        empty[0][0],
        plain[0][0],
    )


@pytest.mark.parametrize("search_value, fraction", [(3.0, 0.0), (100.0, 1.0), (-100.0, 1.0)])
def test_targets_beyond_the_support_are_counted(search_value, fraction):
    quiet = tiny.trajectory(0, event_prob=0.0)
    quiet = quiet._replace(
        is_first=np.zeros_like(quiet.is_first),
        reward=np.zeros_like(quiet.reward),
        search_value=np.full_like(quiet.search_value, search_value),
    )
    batch = jax.tree.map(lambda x: np.stack([x] * len(SEEDS)), quiet)
    buffer = tiny.buffer_of([], BUFFER_SIZE)
    traced = _traced(WEIGHTS, past_clip=1.0)
    rows = _jitted(past_weight=0.0)(traced, PARAMS(), TARGET(), buffer.head_params, buffer, batch)[
        1
    ]
    num_targets = tiny.NUM_STARTS * (tiny.NUM_UNROLL_STEPS + 1)
    assert rows.counts["loss/target_saturated"].tolist() == [num_targets] * len(SEEDS)
    assert rows.sums["loss/target_saturated"].tolist() == [fraction * num_targets] * len(SEEDS)


# --- In pieces


@functools.cache
def _two_steps():
    """Returns the jitted steps of the loss of one sequence."""
    loss = tiny.make_loss()
    return jax.jit(loss.prepare), jax.jit(loss.evaluate)


def test_the_losses_of_the_start_states_add_up_in_any_order():
    prepare, evaluate = _two_steps()
    trajectory, buffer = tiny.trajectory(3), tiny.buffer_of(tiny.heads(2), BUFFER_SIZE)
    prepared = prepare(PARAMS(), TARGET(), buffer, trajectory)

    def of(starts):
        return evaluate(PARAMS(), buffer, trajectory, prepared, np.array(starts, np.int32))

    order = np.random.default_rng(0).permutation(tiny.NUM_STARTS)
    whole, pieces = of(range(tiny.NUM_STARTS)), [of(piece) for piece in np.split(order, 4)]
    for name in ("loss", "num_starts"):
        total = sum(float(getattr(piece, name)) for piece in pieces)
        assert total == pytest.approx(float(getattr(whole, name)), rel=1e-5)
    for tag in [tag for tag in whole.sums if tag.startswith("loss/")]:
        assert sum(float(piece.sums[tag]) for piece in pieces) == pytest.approx(
            float(whole.sums[tag]), rel=1e-4
        )
    assert len({float(piece.loss) for piece in pieces}) == 4


@pytest.mark.parametrize("num_heads, remaining", [(2, slice(0, 2)), (3, slice(1, 3))])
def test_a_head_that_came_after_the_targets_is_left_out(num_heads, remaining):
    """In a ring of three: beside two heads it changes nothing; in place of the oldest of three it
    leaves two.
    """
    prepare, evaluate = _two_steps()
    trajectory, heads, starts = (
        tiny.trajectory(3),
        tiny.heads(num_heads),
        np.arange(tiny.NUM_STARTS),
    )
    buffer = tiny.buffer_of(heads, BUFFER_SIZE)
    prepared = prepare(PARAMS(), TARGET(), buffer, trajectory)
    newer = value_buffer.push(buffer, tiny.heads(num_heads + 1)[-1], num_heads + 1)
    found = evaluate(PARAMS(), newer, trajectory, prepared, starts)
    rest = tiny.buffer_of(heads[remaining], BUFFER_SIZE)
    expected = evaluate(
        PARAMS(), rest, trajectory, prepare(PARAMS(), TARGET(), rest, trajectory), starts
    )
    assert float(found.loss) == pytest.approx(float(expected.loss), rel=1e-5)
    assert (
        float(found.sums["loss/past"])
        == pytest.approx(float(expected.sums["loss/past"]), rel=1e-5)
        != 0.0
    )


# --- Gradients


def _slope(name, num_heads, factor, past_latents="target", num_unroll_steps=tiny.NUM_UNROLL_STEPS):
    """Returns (direction, Σ_k factor(k) · slope of the loss terms of step k along it) by central
    differences.

    The targets keep the parameters they were made with: nothing may flow through them.
    """
    base = getattr(PARAMS(), name)
    rng = np.random.default_rng(5)
    direction = {key: rng.normal(size=x.shape) for key, x in base.items()}

    def weighted(sign):
        moved = {
            key: np.asarray(x, np.float64) + sign * 1e-5 * direction[key] for key, x in base.items()
        }
        params = PARAMS()._replace(**{name: moved})
        terms = [
            t
            for seed in SEEDS
            for t in _terms(seed, num_heads, past_latents, params, num_unroll_steps)
        ]
        return sum(
            factor(t.k) * WEIGHTS[t.name] * t.weight * t.share * t.cross_entropy for t in terms
        )

    return direction, (weighted(1) - weighted(-1)) / 2e-5


def _along(gradient, direction):
    return sum(
        float(np.sum(np.asarray(gradient[key], np.float64) * x)) for key, x in direction.items()
    )


@pytest.mark.parametrize("past_latents", ["target", "online"])
def test_the_gradient_into_the_representation_is_halved_at_every_step(past_latents):
    gradient = _evaluate(5, past_latents=past_latents)[0][0].representation
    direction, slope = _slope("representation", 5, lambda k: 0.5**k, past_latents)
    assert _along(gradient, direction) == pytest.approx(slope, rel=2e-3)
    _, in_full = _slope("representation", 5, lambda k: 1.0, past_latents)
    assert abs(in_full - slope) > 0.05 * abs(slope)


def test_the_gradient_into_the_prediction_is_that_of_the_sum():
    gradient = _evaluate(5, past_latents="target")[0][0].prediction
    direction, slope = _slope("prediction", 5, lambda k: 1.0)
    assert _along(gradient, direction) == pytest.approx(slope, rel=2e-3)


def test_the_gradient_into_one_dynamics_step_is_that_of_the_sum():
    gradient = _evaluate(5, num_unroll_steps=1)[0][0].dynamics
    direction, slope = _slope("dynamics", 5, lambda k: 1.0, num_unroll_steps=1)
    assert _along(gradient, direction) == pytest.approx(slope, rel=2e-3)


@pytest.mark.parametrize("past_latents", ["target", "online"])
def test_heads_are_frozen_and_the_past_loss_trains_the_model_through_them(past_latents):
    only_past = dict.fromkeys(WEIGHTS, 0.0)
    (params, target, heads), rows = _evaluate(5, only_past, past_latents=past_latents)
    assert np.all(rows.loss > 0)

    def zero(tree):
        return all(not np.any(leaf) for leaf in jax.tree.leaves(tree))

    assert zero(heads) and zero(target) and zero(params.prediction)
    assert all(
        np.abs(leaf).max() > 1e-3 for leaf in (params.representation["w"], params.dynamics["u"])
    )
    assert np.abs(params.dynamics["a"]).max() > 1e-3 and zero(params.dynamics["r"])


# --- KL


def _log(probs):
    return jnp.log(jnp.maximum(probs, 1e-30))


def _oracle_model(targets, trajectory, head_value):
    """Returns a model that predicts the targets: its latent counts the states; its prediction is a
    table.

    The stored head, a scalar as parameters, values every state alike.
    """
    reward = _log(tiny.SUPPORT.to_probs(jnp.asarray(trajectory.reward)))
    ours = (_log(jnp.asarray(trajectory.search_policy)), _log(tiny.SUPPORT.to_probs(targets)))
    head = _log(tiny.SUPPORT.to_probs(jnp.full_like(targets, head_value)))

    def predict(is_head, latent):
        t = latent[0].astype(jnp.int32)
        return ours[0][t], jnp.where(is_head > 0, head[t], ours[1][t])

    def step(_, latent, action):
        return (latent + 1.0, reward[latent[0].astype(jnp.int32)])

    return Model(None, lambda _, stack: stack[2 * tiny.OBSERVATION_SIZE :][:1], step, predict)


def test_kl_metrics_are_zero_where_the_prediction_is_the_target():
    """Rewards (1 − γ) v make the constant value v the fixed point of V-trace for any policy."""
    value, settings = 1.7, tiny.LOSS_SETTINGS
    trajectory = tiny.trajectory(0, event_prob=0.0)
    states = np.arange(tiny.NUM_DECISIONS + 1, dtype=np.float32)
    trajectory = trajectory._replace(
        is_first=np.zeros_like(trajectory.is_first),
        reward=np.full_like(trajectory.reward, (1 - settings.discount_factor) * value),
        observation=np.stack([states, 0 * states], axis=1),
    )
    factors = (settings.discount_factor, settings.td_lambda)
    real = np.ones(tiny.NUM_DECISIONS)
    targets = reference.td_lambda_targets(
        trajectory.search_value, trajectory.reward, trajectory.discount, real, *factors
    )
    model = _oracle_model(jnp.asarray(targets, jnp.float32), trajectory, value)
    loss_fn = tiny.whole_loss(tiny.make_loss(model))
    buffer = value_buffer.push(value_buffer.init(jnp.zeros(()), 2), jnp.ones(()), 1)
    params = Params(None, None, jnp.zeros(()))
    out = jax.jit(loss_fn)(params, params, buffer, trajectory)
    kl = {
        tag: float(x)
        for tag, x in out.sums.items()
        if tag.startswith("loss/") and "saturated" not in tag
    }
    assert len(kl) == 4 + 3 + 4 + 4 + 4 and max(abs(x) for x in kl.values()) < 1e-4
    assert float(out.loss) > 1.0  # the loss itself keeps the entropies of its targets
    assert (
        float(out.sums["value_buffer/error_square"])
        < 1e-4
        < float(out.sums["value_buffer/target_square"])
    )
