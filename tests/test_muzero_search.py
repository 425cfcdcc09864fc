"""Search: Q over the whole tree, the exact law of the action, literal Q of a known model, statistics of the tree."""

import functools

import jax
import jax.numpy as jnp
import mctx
import numpy as np
import pytest
import reference
from scipy import stats

from learner.metrics import DOCUMENTED_TAGS
from muzero import search
from muzero.model import Model
from muzero.types import Params

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


# A deterministic MDP as a table; its latent is the number of the state, which is also the observation.
MODEL = Model(None, lambda table, stack: stack, _step, _predict)


def _table(seed=0):
    rng = np.random.default_rng(seed)
    return {
        "next": rng.integers(NUM_STATES, size=(NUM_STATES, NUM_ACTIONS)).astype(np.float32),
        "reward": rng.normal(size=(NUM_STATES, NUM_ACTIONS)).astype(np.float32),
        "logits": rng.normal(size=(NUM_STATES, NUM_ACTIONS)).astype(np.float32),
        "value": 2.0 * rng.normal(size=NUM_STATES).astype(np.float32),
    }


DEFAULTS = dict(
    num_actions=NUM_ACTIONS,
    discount_factor=GAMMA,
    policy="visits",
    num_simulations=8,
    dirichlet_fraction=0.3,
    dirichlet_alpha=0.25,
    temperature=1.0,
    normalisation="tree",
    unvisited="parent",
    floor=0.5,
    value_scale=0.1,
    max_considered_actions=16,
)


@functools.cache
def _search(**changes):
    return jax.jit(search.make_search(MODEL, RawScalars, **DEFAULTS | changes))


def _run(states, table=None, key=0, **changes):
    """Returns the search of observations `states` [N] with a history of one frame."""
    states = np.asarray(states, np.float32)
    table = _table() if table is None else table
    none = np.zeros((len(states), 0), np.int32)
    first = np.zeros((len(states), 1), bool)
    params = Params(table, table, table)
    return _search(**changes)(params, jax.random.key(key), states[:, None, None], none, first)


def _recurrent(table, rng_key, action, latent):
    latent, reward = jax.vmap(_step, (None, 0, 0))(table, latent, action)
    logits, value = jax.vmap(_predict, (None, 0))(table, latent)
    reward = reward[:, 0]
    return mctx.RecurrentFnOutput(reward, jnp.full_like(reward, GAMMA), logits, value[:, 0]), latent


@functools.partial(jax.jit, static_argnames=("num_simulations", "qtransform"))
def _mctx(table, states, rng_key, *, qtransform, num_simulations=8, dirichlet_fraction=0.3):
    """Returns what mctx itself gives for the table: its tree is the material of the oracles."""
    latent = states[:, None]
    logits, value = jax.vmap(_predict, (None, 0))(table, latent)
    root = mctx.RootFnOutput(prior_logits=logits, value=value[:, 0], embedding=latent)
    kwargs = dict(dirichlet_fraction=dirichlet_fraction, dirichlet_alpha=0.25, qtransform=qtransform)
    return mctx.muzero_policy(table, rng_key, root, _recurrent, num_simulations, **kwargs)


STATES = np.arange(NUM_STATES, dtype=np.float32)
WHOLE_TREE = functools.partial(search.qtransform_by_whole_tree, floor=0.5)


@functools.cache
def _trees(num_simulations, seed):
    key = jax.random.key(seed)
    return _mctx(_table(seed), STATES, key, qtransform=WHOLE_TREE, num_simulations=num_simulations).search_tree


# --- Q over the whole tree --------------------------------------------------------------------------------


def _scores(tree, row, floor, unvisited):
    """Returns the scores [nodes, A] of one tree by the code under test."""
    one = jax.tree.map(lambda x: x[row], tree)
    score = lambda node: search.qtransform_by_whole_tree(one, node, floor=floor, unvisited=unvisited)
    return jax.vmap(score)(jnp.arange(one.node_values.shape[0]))


@pytest.mark.parametrize("unvisited", ["parent", "min"])
@pytest.mark.parametrize("floor", [0.01, 50.0])
def test_whole_tree_scores_equal_a_walk_through_the_tree(floor, unvisited):
    seen = {True: 0, False: 0}
    for seed in (0, 1):
        for row in range(NUM_STATES):
            oracle = reference.SearchTree(_trees(20, seed), row)
            scores = np.asarray(_scores(_trees(20, seed), row, floor, unvisited))
            low, high = oracle.q_range()
            assert 0.01 < high - low < 50.0
            for node, _ in oracle.nodes():
                stand_in = oracle.value(node) if unvisited == "parent" else low
                for action in range(NUM_ACTIONS):
                    visited = bool(oracle.visits[node][action] > 0)
                    q = oracle.q(node, action) if visited else stand_in
                    seen[visited] += 1
                    assert scores[node, action] == pytest.approx((q - low) / max(high - low, floor), abs=1e-5)
    assert min(seen.values()) > 100


def test_before_the_first_visit_all_scores_are_zero():
    one = jax.tree.map(lambda x: x[0], _trees(20, 0))
    empty = one.replace(children_visits=jnp.zeros_like(one.children_visits))
    for unvisited in ("parent", "min"):
        scores = search.qtransform_by_whole_tree(empty, jnp.int32(0), floor=0.5, unvisited=unvisited)
        assert scores.tolist() == [0.0] * NUM_ACTIONS


@pytest.mark.parametrize(
    "changes, qtransform",
    [
        (dict(), WHOLE_TREE),
        (dict(unvisited="min"), functools.partial(WHOLE_TREE, unvisited="min")),
        (dict(floor=4.0), functools.partial(WHOLE_TREE, floor=4.0)),
        (dict(normalisation="siblings"), mctx.qtransform_by_parent_and_siblings),
    ],
)
def test_settings_select_the_normalisation(changes, qtransform):
    out = _run(STATES, key=5, num_simulations=20, **changes)
    expected = _mctx(_table(), STATES, jax.random.key(5), qtransform=qtransform, num_simulations=20)
    np.testing.assert_allclose(out.policy, expected.action_weights, atol=1e-6)
    np.testing.assert_array_equal(out.action, expected.action)
    if changes:
        assert not np.allclose(out.policy, _run(STATES, key=5, num_simulations=20).policy)


# --- Literal values ---------------------------------------------------------------------------------------


def _one_way_table(reward=1.0, value=10.0):
    """Action 0 always: every state is worth `value` to the network, every step pays `reward`."""
    logits = np.tile(np.array([20.0, -20.0, -20.0, -20.0], np.float32), (NUM_STATES, 1))
    ones = np.ones((NUM_STATES, NUM_ACTIONS), np.float32)
    return {"next": 0 * ones, "reward": reward * ones, "logits": logits, "value": value * ones[:, 0]}


@pytest.mark.parametrize("num_simulations, value, depth, q_range", [(1, 8.0, 1, 2.0), (2, 20 / 3, 2, 20 / 3 - 5.0)])
def test_the_discount_factor_enters_q_once(num_simulations, value, depth, q_range):
    """γ = 0.5: the first simulation backs up 1 + 0.5 · 10 = 6 to a root of 10, the second 1 + 0.5 · 6 = 4.

    After the second, Q of the root's edge is 1 + 0.5 · (10 + 6) / 2 = 5 and that of the edge below it 6.
    """
    changes = dict(discount_factor=0.5, num_simulations=num_simulations, dirichlet_fraction=0.0)
    out = _run([0.0, 3.0], _one_way_table(), **changes)
    np.testing.assert_allclose(out.value, [value] * 2, rtol=1e-6)
    np.testing.assert_allclose(out.stats["q_range"], [q_range] * 2, rtol=1e-5)
    np.testing.assert_allclose(out.stats["root_value_minus_network_value"], [value - 10.0] * 2, rtol=1e-5)
    assert out.stats["depth"].tolist() == [depth] * 2
    assert out.stats["unvisited_fraction"].tolist() == [0.75] * 2
    assert out.stats["policy_entropy"].tolist() == [0.0] * 2
    assert out.policy.tolist() == [[1.0, 0.0, 0.0, 0.0]] * 2
    assert out.action.tolist() == [0, 0] and out.behaviour_prob.tolist() == [1.0, 1.0]


# --- The law of the action --------------------------------------------------------------------------------

NUM_ROWS = 4_000


def _frequencies(actions):
    return np.bincount(np.asarray(actions), minlength=NUM_ACTIONS)


def _p_value(counts, law):
    """Returns the p-value of the chi-square test of `counts` against `law`, over the actions it allows."""
    allowed = law > 1e-6
    assert counts[~allowed].sum() == 0
    return stats.chisquare(counts[allowed], counts.sum() * law[allowed] / law[allowed].sum()).pvalue


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_behaviour_prob_is_the_law_of_the_visit_sampling(temperature):
    out = _run(np.zeros(NUM_ROWS), temperature=temperature, root_noise=False)
    assert len(np.unique(out.policy, axis=0)) == 1  # the same tree in every row: only the draw differs
    visits = np.asarray(out.policy[0], np.float64)
    law = visits ** (1 / temperature) / np.sum(visits ** (1 / temperature))
    assert np.sum(visits > 0) >= 3
    np.testing.assert_allclose(out.behaviour_prob, law[np.asarray(out.action)], rtol=1e-5)
    counts = _frequencies(out.action)
    assert _p_value(counts, law) > 1e-3
    if temperature != 1.0:  # mctx's action_weights would be refused by the same draws
        assert _p_value(counts, visits) < 1e-6


def _inverse_probability_score(prob, num_possible):
    """Returns the z-score of E[1 / μ(a)] = number of actions that can be drawn, over rows of unlike trees."""
    excess = 1.0 / np.asarray(prob, np.float64) - num_possible
    return excess.mean() / (excess.std(ddof=1) / np.sqrt(len(excess)))


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_behaviour_prob_is_the_law_under_root_noise(temperature):
    out = _run(np.zeros(NUM_ROWS), temperature=temperature)
    assert len(np.unique(out.policy, axis=0)) > 10
    num_visited = np.sum(np.asarray(out.policy) > 0, axis=1)
    assert abs(_inverse_probability_score(out.behaviour_prob, num_visited)) < 4.0
    weights = np.asarray(out.policy)[np.arange(NUM_ROWS), np.asarray(out.action)]
    if temperature != 1.0:
        assert abs(_inverse_probability_score(weights, num_visited)) > 10.0


def test_gumbel_acts_by_its_improved_policy():
    settings = dict(policy="gumbel", normalisation="siblings", value_scale=0.02)
    out = _run(np.zeros(NUM_ROWS), **settings)
    taken = np.asarray(out.policy)[np.arange(NUM_ROWS), np.asarray(out.action)]
    np.testing.assert_array_equal(out.behaviour_prob, taken)
    assert abs(_inverse_probability_score(out.behaviour_prob, NUM_ACTIONS)) < 4.0
    quiet = _run(np.zeros(NUM_ROWS), root_noise=False, **settings)
    assert len(np.unique(quiet.policy, axis=0)) == 1
    assert _p_value(_frequencies(quiet.action), np.asarray(quiet.policy[0])) > 1e-3


def test_gumbels_own_choice_has_another_law():
    out = _run(np.zeros(NUM_ROWS), policy="gumbel_halving", normalisation="siblings", value_scale=0.02)
    quiet = _run(np.zeros(8), policy="gumbel_halving", normalisation="siblings", value_scale=0.02, root_noise=False)
    assert len(set(quiet.action.tolist())) == 1  # sequential halving without its noise is an argmax
    assert abs(_inverse_probability_score(out.behaviour_prob, NUM_ACTIONS)) > 10.0


@pytest.mark.parametrize(
    "temperature, expected", [(1.0, [0.5, 0.25, 0.25, 0.0]), (0.5, [2 / 3, 1 / 6, 1 / 6, 0.0]), (2.0, None)]
)
def test_behaviour_distribution_is_literal(temperature, expected):
    if expected is None:
        expected = np.array([2**0.5, 1.0, 1.0, 0.0]) / (2 + 2**0.5)
    law = search.behaviour_distribution(jnp.array([0.5, 0.25, 0.25, 0.0]), temperature)
    np.testing.assert_allclose(law, expected, rtol=1e-6, atol=1e-12)


# --- Noise at the root ------------------------------------------------------------------------------------


@pytest.mark.parametrize("settings", [dict(), dict(policy="gumbel", normalisation="siblings")])
def test_without_root_noise_the_search_does_not_depend_on_the_key(settings):
    quiet = [_run(STATES, key=key, num_simulations=20, root_noise=False, **settings) for key in (0, 1)]
    np.testing.assert_array_equal(quiet[0].policy, quiet[1].policy)
    np.testing.assert_array_equal(quiet[0].value, quiet[1].value)
    noisy = [_run(STATES, key=key, num_simulations=20, **settings) for key in (0, 1)]
    assert not np.array_equal(noisy[0].value, noisy[1].value)


@pytest.mark.parametrize("fraction", [0, 0.0])
def test_no_dirichlet_noise_may_be_written_as_an_integer(fraction):
    out = search.make_search(MODEL, RawScalars, **DEFAULTS | dict(dirichlet_fraction=fraction))
    params = Params(*[_table()] * 3)
    arguments = (STATES[:, None, None], np.zeros((NUM_STATES, 0), np.int32), np.zeros((NUM_STATES, 1), bool))
    policy = jax.jit(out)(params, jax.random.key(3), *arguments).policy
    np.testing.assert_array_equal(policy, _run(STATES, root_noise=False).policy)


# --- Statistics -------------------------------------------------------------------------------------------


def test_statistics_are_one_number_a_search_and_all_documented():
    out = _run(STATES)
    documented = {tag.removeprefix("search/") for tag in DOCUMENTED_TAGS if tag.startswith("search/")}
    assert set(out.stats) == documented
    assert all(row.shape == (NUM_STATES,) and row.dtype == jnp.float32 for row in out.stats.values())
    assert out.action.shape == out.value.shape == out.behaviour_prob.shape == (NUM_STATES,)
    assert out.policy.shape == (NUM_STATES, NUM_ACTIONS) and out.action.dtype == jnp.int32


@pytest.mark.parametrize("num_simulations", [1, 3, 20])
def test_statistics_equal_a_walk_through_the_tree(num_simulations):
    tree = _trees(num_simulations, 1)
    policy = tree.summary().visit_probs
    rows = search._search_stats(tree, policy, tree.summary().value)
    for row in range(NUM_STATES):
        oracle = reference.SearchTree(tree, row)
        low, high = oracle.q_range()
        probs = np.asarray(policy[row], np.float64)
        expected = {
            "depth": max(depth for _, depth in oracle.nodes()),
            "q_range": high - low,
            "unvisited_fraction": np.mean(oracle.visits[0] == 0),
            "policy_entropy": -sum(p * np.log(p) for p in probs if p > 0),
            "root_value_minus_network_value": oracle.value(0) - float(tree.raw_values[row, 0]),
        }
        for name, value in expected.items():
            assert float(rows[name][row]) == pytest.approx(value, abs=1e-5), name
