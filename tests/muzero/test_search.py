"""Search: Q over the whole tree, the exact law of the action, literal Q of a known model,
statistics of the tree.
"""

import dataclasses
import functools
import inspect
import itertools

import jax
import jax.numpy as jnp
import mctx
import numpy as np
import pytest
from scipy import stats

from configs.schema import SearchConfig
from learner.records.metrics import DOCUMENTED_TAGS
from muzero import search
from muzero.model import Model
from muzero.types import Params
from tests import reference

pytestmark = pytest.mark.usefixtures("quick_compilation")

NUM_STATES, NUM_ACTIONS, GAMMA = 7, 4, 0.9


class RawScalars:
    """Stands for a support whose logits [..., 1] are the scalar itself."""

    @staticmethod
    def from_logits(logits):
        return logits[..., 0]


def _step(table, latent, action):
    state = latent[0].astype(jnp.int32)
    return table["next"][state, action][None], table["reward"][state, action][None]


def _predict(table, latent):
    state = latent[0].astype(jnp.int32)
    return table["logits"][state], table["value"][state][None]


# A deterministic MDP as a table; its latent is the number of the state, which is also the
# observation.
MODEL = Model(None, lambda table, stack: stack, _step, _predict)


def _table(seed=0):
    rng = np.random.default_rng(seed)
    return {
        "next": rng.integers(NUM_STATES, size=(NUM_STATES, NUM_ACTIONS)).astype(np.float32),
        "reward": rng.normal(size=(NUM_STATES, NUM_ACTIONS)).astype(np.float32),
        "logits": rng.normal(size=(NUM_STATES, NUM_ACTIONS)).astype(np.float32),
        "value": 2.0 * rng.normal(size=NUM_STATES).astype(np.float32),
    }


DEFAULTS = SearchConfig(
    policy="visits",
    num_simulations=16,
    dirichlet_fraction=0.3,
    dirichlet_alpha=0.25,
    temperature=1.0,
    normalisation="tree",
    unvisited="parent",
    floor=0.5,
    value_scale=0.1,
    prior_exponent=1.0,
    max_considered_actions=16,
)


def make_search(
    model=MODEL, *, discount_factor=GAMMA, root_noise=True, describe=search.search_stats, **changes
):
    """Returns the search with DEFAULTS but for `changes`."""
    return search.make_search(
        model,
        RawScalars,
        dataclasses.replace(DEFAULTS, **changes),
        num_actions=NUM_ACTIONS,
        discount_factor=discount_factor,
        root_noise=root_noise,
        describe=describe,
    )


def stats_and_tree(tree, policy, value):
    """Returns (what the log says, the tree itself) of a search."""
    return search.search_stats(tree, policy, value), tree


# Searches in a batch, one number everywhere: every shape is a compilation of seconds
N = 301 * NUM_STATES
STATES = np.tile(np.arange(NUM_STATES, dtype=np.float32), N // NUM_STATES)
SAME_STATE = np.zeros(N, np.float32)


def _arguments(states, table):
    """Returns (params, frames, actions, is_first) for observations `states` [N] with a history of
    one frame.
    """
    none, first = np.zeros((len(states), 0), np.int32), np.zeros((len(states), 1), bool)
    return Params(table, table, table), states[:, None, None], none, first


@functools.cache
def _jitted(**changes):
    """Returns search(temperature, params, key, ...), whose statistics hold the tree as well."""

    def run(temperature, *args):
        settings = dict(temperature=temperature) | changes
        return make_search(describe=stats_and_tree, **settings)(*args)

    return jax.jit(run)


@functools.cache
def _run_with_tree(same_state=False, key=0, temperature=1.0, **changes):
    """Returns (search output, tree) of the random table from all states, or from state 0 in every
    row.
    """
    params, *inputs = _arguments(SAME_STATE if same_state else STATES, _table())
    out = jax.device_get(_jitted(**changes)(temperature, params, jax.random.key(key), *inputs))
    return out._replace(stats=out.stats[0]), out.stats[1]


def _run(**kwargs):
    return _run_with_tree(**kwargs)[0]


# --- Q over the whole tree


@functools.partial(jax.jit, static_argnames="unvisited")
def _scores(tree, floor, unvisited):
    """Returns the scores [rows, nodes, A] of every node of every tree by the code under test."""
    nodes = jnp.arange(tree.node_values.shape[1])

    def one(row, node):
        return search.qtransform_by_whole_tree(row, node, floor=floor, unvisited=unvisited)

    return jax.vmap(lambda row: jax.vmap(lambda node: one(row, node))(nodes))(tree)


def _some_trees(num_trees=2 * NUM_STATES):
    """Returns trees of the search with root noise: those of one state differ."""
    return jax.tree.map(lambda x: x[:num_trees], _run_with_tree()[1])


@pytest.mark.parametrize("unvisited", ["parent", "min"])
@pytest.mark.parametrize("floor", [0.01, 50.0])
def test_whole_tree_scores_equal_a_walk_through_the_tree(floor, unvisited):
    trees, seen = _some_trees(), {True: 0, False: 0}
    scores = np.asarray(_scores(trees, floor, unvisited))
    for row in range(len(scores)):
        oracle = reference.SearchTree(trees, row)
        low, high = oracle.q_range()
        assert 0.01 < high - low < 50.0
        for node, _ in oracle.nodes():
            stand_in = oracle.value(node) if unvisited == "parent" else low
            for action in range(NUM_ACTIONS):
                visited = bool(oracle.visits[node][action] > 0)
                q = oracle.q(node, action) if visited else stand_in
                seen[visited] += 1
                assert scores[row, node, action] == pytest.approx(
                    (q - low) / max(high - low, floor), abs=1e-5
                )
    assert min(seen.values()) > 100


def test_before_the_first_visit_all_scores_are_zero():
    trees = _some_trees()
    empty = trees.replace(children_visits=np.zeros_like(trees.children_visits))
    for unvisited in ("parent", "min"):
        assert not np.any(_scores(empty, 0.5, unvisited)[:, 0])


# --- What reaches mctx


def _call_of(monkeypatch, name, **changes):
    """Returns the settings with which the search calls that policy of mctx, and its Q transform, by
    tracing only.
    """
    calls, policy = [], getattr(mctx, name)

    def record(*args, **kwargs):
        return calls.append(inspect.signature(policy).bind(*args, **kwargs).arguments)

    monkeypatch.setattr(
        mctx, name, lambda *args, **kwargs: record(*args, **kwargs) or policy(*args, **kwargs)
    )
    params, *inputs = _arguments(STATES[:2], _table())
    jax.eval_shape(make_search(**changes), params, jax.random.key(0), *inputs)
    (given,) = calls
    transform = given.pop("qtransform")
    settings = {
        key: x
        for key, x in given.items()
        if key not in ("params", "rng_key", "root", "recurrent_fn")
    }
    return settings, getattr(transform, "func", transform), getattr(transform, "keywords", {})


@pytest.mark.parametrize(
    "changes, transform, keywords",
    [
        (dict(), search.qtransform_by_whole_tree, dict(floor=0.5, unvisited="parent")),
        (
            dict(unvisited="min", floor=4.0),
            search.qtransform_by_whole_tree,
            dict(floor=4.0, unvisited="min"),
        ),
        (dict(normalisation="siblings"), mctx.qtransform_by_parent_and_siblings, {}),
    ],
)
def test_settings_of_the_visit_search_reach_mctx(monkeypatch, changes, transform, keywords):
    settings, func, given = _call_of(monkeypatch, "muzero_policy", temperature=0.7, **changes)
    assert settings == dict(
        num_simulations=16, dirichlet_fraction=0.3, dirichlet_alpha=0.25, temperature=0.7
    )
    assert func is transform and given == keywords


@pytest.mark.parametrize("normalisation, rescale", [("siblings", True), ("none", False)])
@pytest.mark.parametrize(
    "policy, root_noise, scale", [("gumbel", True, 1.0), ("gumbel_halving", False, 0.0)]
)
def test_settings_of_the_gumbel_search_reach_mctx(
    monkeypatch, policy, root_noise, scale, normalisation, rescale
):
    changes = dict(
        policy=policy, root_noise=root_noise, normalisation=normalisation, value_scale=0.3
    )
    settings, func, given = _call_of(
        monkeypatch, "gumbel_muzero_policy", max_considered_actions=3, **changes
    )
    assert settings == dict(num_simulations=16, max_num_considered_actions=3, gumbel_scale=scale)
    assert func is mctx.qtransform_completed_by_mix_value
    assert given == dict(value_scale=0.3, rescale_values=rescale)


@pytest.mark.parametrize(
    "changes", [dict(dirichlet_fraction=0), dict(dirichlet_fraction=1, root_noise=False)]
)
def test_the_dirichlet_fraction_may_be_an_integer(monkeypatch, changes):
    fraction = _call_of(monkeypatch, "muzero_policy", **changes)[0]["dirichlet_fraction"]
    assert fraction == 0.0 and isinstance(fraction, float)


class Reached(Exception):
    """The policy of mctx was called with this root."""


def test_the_root_is_the_stack_of_the_present_game(monkeypatch):
    """A history of three frames, with every pattern of resets."""
    rng, is_first = (
        np.random.default_rng(0),
        np.array(list(itertools.product([False, True], repeat=3))),
    )
    frames = rng.normal(size=(8, 3, 2)).astype(np.float32)
    actions = rng.integers(NUM_ACTIONS, size=(8, 2)).astype(np.int32)

    def stop(params, rng_key, root, *args, **settings):
        raise Reached(root)

    monkeypatch.setattr(mctx, "muzero_policy", stop)
    model = MODEL._replace(
        represent=lambda scale, stack: scale * stack, predict=lambda _, latent: (latent, latent)
    )
    search_fn = make_search(model)
    with pytest.raises(Reached) as reached:
        search_fn(Params(2.0, None, None), jax.random.key(0), frames, actions, is_first)
    (root,) = reached.value.args
    expected = [
        reference.stacked_observation(*row, NUM_ACTIONS)
        for row in zip(frames, actions, is_first, strict=True)
    ]
    np.testing.assert_allclose(root.embedding, 2 * np.stack(expected), rtol=1e-6)


# --- Literal values


def _one_way_table(reward=1.0, value=10.0):
    """Action 0 always: every state is worth `value` to the network, every step pays `reward`."""
    logits = np.tile(np.array([20.0, -20.0, -20.0, -20.0], np.float32), (NUM_STATES, 1))
    ones = np.ones((NUM_STATES, NUM_ACTIONS), np.float32)
    return {
        "next": 0 * ones,
        "reward": reward * ones,
        "logits": logits,
        "value": value * ones[:, 0],
    }


def test_the_discount_factor_enters_q_once():
    """γ = 0.5: the first simulation backs up 1 + 0.5 · 10 = 6 to a root of 10, the second 1 + 0.5 ·
    6 = 4.

    Then Q of the root's edge is 1 + 0.5 · (10 + 6) / 2 = 5, that of the edge below it 6, and the
    root is 20 / 3.
    """
    params, *inputs = _arguments(np.array([0.0, 3.0], np.float32), _one_way_table())
    run = _jitted(discount_factor=0.5, num_simulations=2, dirichlet_fraction=0, unvisited="min")
    out = run(1.0, params, jax.random.key(0), *inputs)

    def stats_of(name):
        return out.stats[0][name]

    np.testing.assert_allclose(out.value, [20 / 3] * 2, rtol=1e-6)
    np.testing.assert_allclose(stats_of("q_range"), [20 / 3 - 5] * 2, rtol=1e-5)
    np.testing.assert_allclose(
        stats_of("root_value_minus_network_value"), [20 / 3 - 10] * 2, rtol=1e-5
    )
    assert stats_of("depth").tolist() == [2.0] * 2
    assert stats_of("unvisited_fraction").tolist() == [0.75] * 2
    assert stats_of("policy_entropy").tolist() == [0.0] * 2
    assert out.policy.tolist() == [[1.0, 0.0, 0.0, 0.0]] * 2
    assert out.action.tolist() == [0, 0] and out.behaviour_prob.tolist() == [1.0, 1.0]


# --- The law of the action


def _taken(out):
    """Returns the policy target of the drawn actions: mctx's action weights."""
    return out.policy[np.arange(N), out.action]


def _p_value(actions, law):
    """Returns the p-value of the chi-square test of `actions` against `law`, over the actions it
    allows.
    """
    counts, allowed = np.bincount(actions, minlength=NUM_ACTIONS), law > 1e-6
    assert counts[~allowed].sum() == 0
    return stats.chisquare(counts[allowed], len(actions) * law[allowed] / law[allowed].sum()).pvalue


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_behaviour_prob_is_the_law_of_the_visit_sampling(temperature):
    out = _run(same_state=True, temperature=temperature, root_noise=False)
    # The same tree in every row: only the draw differs
    assert len(np.unique(out.policy, axis=0)) == 1
    visits = np.asarray(out.policy[0], np.float64)
    law = visits ** (1 / temperature) / np.sum(visits ** (1 / temperature))
    assert np.sum(visits > 0) >= 3
    np.testing.assert_allclose(out.behaviour_prob, law[out.action], rtol=1e-5)
    assert _p_value(out.action, law) > 1e-3
    if temperature != 1.0:  # mctx's action_weights are refused by the same draws
        assert _p_value(out.action, visits) < 1e-6


def _inverse_probability_score(prob, num_possible):
    """Returns the z-score of E[1 / μ(a)] = number of actions that can be drawn, over rows of unlike
    trees.
    """
    excess = 1.0 / np.asarray(prob, np.float64) - num_possible
    return excess.mean() / (excess.std(ddof=1) / np.sqrt(len(excess)))


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_behaviour_prob_is_the_law_under_root_noise(temperature):
    out = _run(same_state=True, temperature=temperature)
    assert len(np.unique(out.policy, axis=0)) > 10
    num_visited = np.sum(out.policy > 0, axis=1)
    assert abs(_inverse_probability_score(out.behaviour_prob, num_visited)) < 4.0
    if temperature != 1.0:
        assert abs(_inverse_probability_score(_taken(out), num_visited)) > 8.0


GUMBEL = dict(normalisation="siblings", value_scale=0.02, max_considered_actions=3)


def test_gumbel_acts_by_its_improved_policy():
    out = _run(same_state=True, policy="gumbel", **GUMBEL)
    np.testing.assert_array_equal(out.behaviour_prob, _taken(out))
    assert len(np.unique(out.policy, axis=0)) > 10 and out.policy.min() > 0.05
    assert abs(_inverse_probability_score(out.behaviour_prob, NUM_ACTIONS)) < 4.0


REWARD_IS_Q = dict(
    policy="gumbel", normalisation="none", value_scale=0.02, root_noise=False, discount_factor=0.0
)


def test_a_prior_exponent_below_one_ends_the_sharpening():
    """Fitted again and again, log π' = e log π + σ q settles where log π = σ q / (1 - e); with e =
    1 it never does.
    """
    reward = np.array([0.3, 0.1, 0.0, -0.4], np.float32)
    table = _one_way_table() | {"reward": np.tile(reward, (NUM_STATES, 1))}
    slopes = {}
    for exponent in (0.5, 1.0):
        logits = np.zeros(NUM_ACTIONS)
        for _ in range(12):
            fitted = table | {"logits": np.tile(logits.astype(np.float32), (NUM_STATES, 1))}
            params, *inputs = _arguments(SAME_STATE[:1], fitted)
            out = _jitted(prior_exponent=exponent, **REWARD_IS_Q)(
                1.0, params, jax.random.key(0), *inputs
            )
            logits = np.log(np.asarray(out.policy[0], np.float64))
        slopes[exponent] = np.diff(logits) / np.diff(reward)
    np.testing.assert_allclose(slopes[0.5], slopes[0.5][0], rtol=1e-3)
    assert 0.02 * 50 / 0.5 < slopes[0.5][0] < 0.02 * (50 + 16) / 0.5
    assert slopes[1.0][0] > 12 * 0.02 * 50


def test_the_prior_exponent_holds_below_the_root():
    """With exponent ½, the logits 4 log 1..4 are priors in proportion to the squares of 1..4, in
    every node.
    """
    logits = np.tile(4 * np.log([1.0, 2.0, 3.0, 4.0]).astype(np.float32), (NUM_STATES, 1))
    params, *inputs = _arguments(SAME_STATE[:1], _one_way_table() | {"logits": logits})
    _, tree = _jitted(prior_exponent=0.5, **REWARD_IS_Q)(
        1.0, params, jax.random.key(0), *inputs
    ).stats
    priors = np.asarray(jax.nn.softmax(tree.children_prior_logits[0]))[
        np.asarray(tree.node_visits[0]) > 0
    ]
    assert len(priors) > 2
    np.testing.assert_allclose(priors, [np.array([1, 4, 9, 16]) / 30] * len(priors), rtol=1e-5)


@pytest.mark.parametrize("max_shift", [2.0, 0.5])
@pytest.mark.parametrize("spread", [0.05, 0.4, 30.0])
def test_advantages_move_logits_in_units_of_their_spread(spread, max_shift):
    """Where Q is the reward: log π' = log π + clip(3 (r − Σ π r) / spread), for rewards of any
    size.
    """
    reward = spread * np.array([0.3, 0.1, 0.0, -0.9], np.float32)
    logits = np.array([0.5, 0.0, -0.3, 0.1], np.float32)
    rows = {"reward": np.tile(reward, (NUM_STATES, 1)), "logits": np.tile(logits, (NUM_STATES, 1))}
    params, *inputs = _arguments(SAME_STATE[:1], _one_way_table() | rows)
    params = params._replace(statistics={"advantage": {"mean_square": np.float32(spread**2)}})
    changes = REWARD_IS_Q | dict(normalisation="advantages", value_scale=3.0, max_shift=max_shift)
    out = _jitted(**changes)(1.0, params, jax.random.key(0), *inputs)
    prior = np.exp(logits) / np.exp(logits).sum()
    shift = np.clip(3.0 * (reward - prior @ reward) / spread, -max_shift, max_shift)
    assert (np.abs(shift) == max_shift).any() and (np.abs(shift) < max_shift).any()
    expected = prior * np.exp(shift) / np.sum(prior * np.exp(shift))
    np.testing.assert_allclose(out.policy[0], expected, rtol=1e-4)


def test_a_uniform_share_is_acted_on_and_not_learned():
    out = _run(same_state=True, policy="gumbel", uniform_fraction=0.4, **GUMBEL)
    np.testing.assert_allclose(out.behaviour_prob, 0.6 * _taken(out) + 0.1, rtol=1e-6)
    assert abs(_inverse_probability_score(out.behaviour_prob, NUM_ACTIONS)) < 4.0
    assert abs(_inverse_probability_score(_taken(out), NUM_ACTIONS)) > 8.0
    np.testing.assert_array_equal(
        out.policy, _run(same_state=True, policy="gumbel", **GUMBEL).policy
    )


def test_scored_games_have_no_uniform_share():
    settings = dict(policy="gumbel", root_noise=False, uniform_fraction=0.4) | GUMBEL
    out = _run(same_state=True, **settings)
    np.testing.assert_array_equal(out.behaviour_prob, _taken(out))


def test_gumbels_own_choice_has_another_law():
    """Why `gumbel_halving` is refused together with the past-policy loss."""
    out = _run(same_state=True, policy="gumbel_halving", **GUMBEL)
    assert abs(_inverse_probability_score(out.behaviour_prob, NUM_ACTIONS)) > 6.0


@pytest.mark.parametrize(
    "temperature, expected",
    [(1.0, [0.5, 0.25, 0.25, 0.0]), (0.5, [2 / 3, 1 / 6, 1 / 6, 0.0]), (2.0, None)],
)
def test_behaviour_distribution_is_literal(temperature, expected):
    if expected is None:
        expected = np.array([2**0.5, 1.0, 1.0, 0.0]) / (2 + 2**0.5)
    law = search.behaviour_distribution(jnp.array([0.5, 0.25, 0.25, 0.0]), temperature)
    np.testing.assert_allclose(law, expected, rtol=1e-6, atol=1e-12)


# --- Noise at the root


def test_without_root_noise_the_search_does_not_depend_on_the_key():
    quiet = [_run(key=key, root_noise=False) for key in (0, 1)]
    np.testing.assert_array_equal(quiet[0].policy, quiet[1].policy)
    np.testing.assert_array_equal(quiet[0].value, quiet[1].value)
    # The draw from the visits stays a draw
    assert not np.array_equal(quiet[0].action, quiet[1].action)
    noisy = [_run(key=key) for key in (0, 1)]
    assert not np.array_equal(noisy[0].policy, noisy[1].policy)


# --- Statistics


def test_statistics_are_one_number_a_search_and_all_documented():
    out = _run()
    documented = {
        tag.removeprefix("search/") for tag in DOCUMENTED_TAGS if tag.startswith("search/")
    }
    assert set(out.stats) == documented
    assert all(row.shape == (N,) and row.dtype == np.float32 for row in out.stats.values())
    assert out.action.shape == out.value.shape == out.behaviour_prob.shape == (N,)
    assert out.policy.shape == (N, NUM_ACTIONS) and out.action.dtype == np.int32


def test_statistics_equal_a_walk_through_the_tree():
    out, tree = _run_with_tree()
    for row in range(2 * NUM_STATES):
        oracle = reference.SearchTree(tree, row)
        low, high = oracle.q_range()
        expected = {
            "depth": max(depth for _, depth in oracle.nodes()),
            "q_range": high - low,
            "unvisited_fraction": np.mean(oracle.visits[0] == 0),
            "policy_entropy": -sum(p * np.log(p) for p in out.policy[row].tolist() if p > 0),
            "root_value_minus_network_value": oracle.value(0) - tree.raw_values[row, 0],
        }
        for name, value in expected.items():
            assert out.stats[name][row] == pytest.approx(value, abs=1e-5), name
        assert out.value[row] == pytest.approx(oracle.value(0), abs=1e-5)
        np.testing.assert_allclose(out.policy[row], oracle.visits[0] / 16)
    assert len(set(out.stats["depth"][: 2 * NUM_STATES].tolist())) > 1
