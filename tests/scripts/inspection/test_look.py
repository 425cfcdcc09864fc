"""The program that looks into an agent: one CartPole checkpoint of random weights, everything real
but the training.
"""

import csv
import dataclasses
import sys
import xml.etree.ElementTree as xml

import jax
import numpy as np
import pytest

from configs.presets import PRESETS
from configs.schema import ConfigError
from configs.serialise import to_dict
from learner.records.checkpoint import Checkpointer
from learner.records.run_directory import RunDirectory
from learner.state import LearnerState
from muzero import value_buffer
from muzero.types import SearchOutput
from scripts import look
from scripts.inspection import imagine, stored, tree
from scripts.inspection.game import Game
from scripts.playing import evaluation
from scripts.program import commands
from scripts.program.assemble import build_model, env_spec

pytestmark = pytest.mark.usefixtures("quick_compilation")

SVG = "{http://www.w3.org/2000/svg}"


def make_config(name):
    smoke = PRESETS["smoke"]
    return dataclasses.replace(smoke, env=dataclasses.replace(smoke.env, name=name))


def write_run(path, config, params, num_heads):
    """Writes a run with one checkpoint, after 7 updates, and heads stored after 2, 4, ...; returns
    its path.
    """

    def scaled(n):
        return jax.tree.map(lambda x: x * (n + 1.0), params.prediction)

    buffer = value_buffer.init(params.prediction, 2)
    for n in range(num_heads):
        buffer = value_buffer.push(buffer, scaled(n), 2 * (n + 1))
    state = LearnerState(params, params, params, {}, buffer, np.int32(7))
    directory = RunDirectory.create(path, to_dict(config), ["test"], {})
    checkpointer = Checkpointer(directory.checkpoints, max_to_keep=1, abstract_state=None)
    checkpointer.save(7, state, {"counters": {}})
    checkpointer.close()
    return directory.path


@pytest.fixture(scope="module")
def params():
    """Returns random weights of an agent for CartPole; heads that start at zero would all say the
    same.
    """
    config = make_config("CartPole-v1")
    model, _ = build_model(config, env_spec(config.env))
    rng = np.random.default_rng(5)
    shapes = jax.eval_shape(model.init, jax.random.key(0))
    return jax.tree.map(lambda x: rng.normal(0, 0.2, x.shape).astype(np.float32), shapes)


@pytest.fixture(scope="module")
def run(params, tmp_path_factory):
    return write_run(
        tmp_path_factory.mktemp("look") / "run", make_config("CartPole-v1"), params, num_heads=2
    )


@pytest.fixture
def call(monkeypatch, capsys):
    """Returns `call(*arguments) -> (exit code, stdout, stderr)` of look.py in this process."""

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", [look.__file__, *map(str, arguments)])
        code = commands.run(look.main)
        return code, *capsys.readouterr()

    return call


def table(path):
    with path.open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


AUDIT = ("--num-states", 6, "--num-rollouts", 2, "--tail", 0.97)


def test_an_audit_from_a_checkpoint_to_a_table_and_a_plot(run, call, tmp_path):
    code, out, err = call("audit", run, "--out", tmp_path / "new" / "audit", *AUDIT)
    assert (code, err) == (0, "")
    rows = table(tmp_path / "new" / "audit" / "audit.csv")
    # K = 2
    assert [(row["head_updates"], row["k"]) for row in rows] == [
        (h, k) for h in "24" for k in "012"
    ]
    for row in rows:
        first = next(r for r in rows if (r["head_updates"], r["k"]) == (row["head_updates"], "0"))
        error, error_of_first = (
            float(r["squared_error"]) / float(r["variance"]) for r in (row, first)
        )
        assert float(row["age_updates"]) == 7 - float(row["head_updates"])
        assert 1.0 <= float(row["mean_return"]) <= 1 / (1 - 0.997)
        assert row["head_error"] == first["error"]
        if row["error"] == "":  # the returns of six states may differ by no more than their noise
            assert row["excess"] == row["vtrace_gap"] == ""
        else:
            assert float(row["error"]) == pytest.approx(error, rel=2e-5)  # of six digits each
            assert float(row["excess"]) == pytest.approx(
                error - error_of_first, abs=5e-5 * (error + error_of_first)
            )
    assert rows[0]["squared_error"] != rows[3]["squared_error"]
    assert (
        "all heads, as fractions of the variance" in out
        and (tmp_path / "new" / "audit" / "audit.png").stat().st_size > 10_000
    )


@pytest.fixture(scope="module")
def found(run):
    """Returns the tree of a first state and the names of its actions."""
    return tree.searched(stored.load(run, "latest"), seed=3, step=0)


def test_the_tree_of_a_state_has_every_visited_node_once(run, found, call, tmp_path, monkeypatch):
    monkeypatch.setattr(tree, "searched", lambda *args, **kwargs: found)
    code, out, _ = call("tree", run, "--out", tmp_path / "tree.svg", "--seed", 3)
    found, names = found
    visited = np.flatnonzero(found.visits > 0)
    assert code == 0 and f"{len(visited)} visited nodes" in out
    assert found.visits[0] == 1 + 4  # the root itself and its simulations
    assert len(visited) == 5 and names == ["action 0", "action 1"]
    root = xml.fromstring((tmp_path / "tree.svg").read_text(encoding="utf-8"))
    groups = {name: root.findall(f".//{SVG}g[@class='{name}']") for name in ("node", "edge")}
    assert {group.get("id") for group in groups["node"]} == {f"node{n}" for n in visited}
    assert len(groups["node"]) == len(visited) == len(groups["edge"]) + 1
    texts = [
        "|".join(text.text for text in group.findall(f"{SVG}text")) for group in groups["node"]
    ]
    assert (
        f"{found.visits[1]} visits, Q {found.q[1]:.3g}|prior {found.prior[1]:.2f}, r "
        f"{found.reward[1]:.3g}" in texts
    )


def test_the_numbers_of_a_tree_belong_together(found):
    found, _ = found
    for node in np.flatnonzero(found.visits > 0):
        below = tree.children(found, node)
        assert found.visits[node] == 1 + sum(found.visits[child] for child in below)
        assert sum(found.prior[child] for child in below) <= 1 + 1e-5
        if node:
            assert found.q[node] == pytest.approx(
                found.reward[node] + 0.997 * found.value[node], abs=1e-4
            )


def test_a_parent_stands_in_the_middle_and_no_two_boxes_touch(found):
    found, _ = found
    places = tree.layout(found)
    assert len(set(places.values())) == len(places) == 5
    for node, place in places.items():
        below = [places[child] for child in tree.children(found, node)]
        assert all(child.depth == place.depth + 1 for child in below)
        if below:
            assert place.row == (below[0].row + below[-1].row) / 2
    by_depth = [sorted(p.row for p in places.values() if p.depth == depth) for depth in range(4)]
    assert all(
        second - first >= 1
        for rows in by_depth
        for first, second in zip(rows, rows[1:], strict=False)
    )


def alternating(params, rng_key, frames, actions, is_first):
    """A search for the agent that plays: the pole stands for a while, and nothing large is
    compiled.
    """
    policy = jax.nn.one_hot((frames[:, -1, 2] > 0).astype(int), 2)  # to the side it leans to
    zeros = policy[:, 0] * 0.0
    return SearchOutput(zeros, zeros, policy, zeros, {})


def test_what_was_imagined_is_drawn_against_what_happened(run, call, tmp_path, monkeypatch):
    monkeypatch.setattr(evaluation, "build_search", lambda *args, **kwargs: alternating)
    code, out, err = call("imagine", run, "--out", tmp_path / "imagine.png", "--steps", 4)
    assert (code, err) == (0, "")
    assert "values, k = 0..4" in out and (tmp_path / "imagine.png").stat().st_size > 20_000


def test_truth_and_imagination_stop_where_an_episode_ends():
    """A life is lost in decision 1; the game of 4 decisions is over at its end, or cut."""
    reward, discount = np.array([1.0, 2.0, 3.0, 4.0]), np.array([1.0, 0.0, 1.0, 0.0])
    game = Game(None, None, reward, discount, True, None, [])
    returns, is_known = imagine.discounted_returns(game, 0.5)
    assert returns.tolist() == [2.0, 2.0, 5.0, 4.0] and is_known.all()
    cut = game._replace(discount=np.array([1.0, 0.0, 1.0, 1.0]))
    returns, is_known = imagine.discounted_returns(cut, 0.5)
    assert returns.tolist() == [2.0, 2.0, 5.0, 4.0] and is_known.tolist() == [
        True,
        True,
        False,
        False,
    ]
    expected = [[1, 1, 0], [1, 0, 0], [1, 1, 0], [1, 0, 0]]
    assert imagine.alive(discount, 2).astype(int).tolist() == expected


def test_errors_compare_what_is_of_the_same_time():
    value = np.array([[1.0, 7.0], [2.0, 8.0], [3.0, np.nan]])  # entry (t, k) is of state t + k
    imagined = imagine.Imagined(
        value, value[:, 1:] - 7.0, np.array([1.0, 5.0, 5.0]), np.arange(3.0), np.ones(3, bool)
    )
    value_error, reward_error = imagine.errors(imagined)
    np.testing.assert_allclose(value_error, [np.sqrt((0 + 9 + 4) / 3), np.sqrt((4 + 9) / 2)])
    np.testing.assert_allclose(reward_error, [0.0])


@pytest.mark.parametrize(
    "arguments, message",
    [
        (("audit", "{run}", "--out", "{tmp}", "--checkpoint", "3"), "no checkpoint 3 in"),
        (("audit", "{run}", "--out", "{tmp}", "--checkpoint", "best"), "checkpoint = best"),
        (("audit", "{run}", "--out", "{tmp}", "--heads", "5"), "no such head; stored are those of "
                                                               "updates [2, 4]"),
        (("audit", "{run}", "--out", "{tmp}", "--num-rollouts", "1"), "--num-rollouts = 1: must be "
                                                                      "at least 2"),
        (("audit", "{run}", "--out", "{tmp}", "--tail", "0"), "--tail = 0.0: must be between 0 and "
                                                              "1"),
        (("audit", "{run}", "--out", "{run}/config.json"), "--out"),
        (("audit", "{tmp}/none", "--out", "{tmp}"), "none"),
        (("audit", "{empty}", "--out", "{tmp}"), "the value buffer is empty after 7 updates: the "
                                                 "first"),
        (("audit", "{acrobot}", "--out", "{tmp}"), "env.name = Acrobot-v1: cannot be audited: "
                                                   "AcrobotEnv has no state"),
        (("tree", "{run}", "--out", "{tmp}/tree.png"), "tree.png: must end in .svg"),
        (("tree", "{run}", "--out", "{tmp}/tree.svg", "--seed", "-1"), "--seed = -1: must be 0 to"),
    ],
)  # fmt: skip
def test_bad_input_is_refused_in_one_line(run, empty, acrobot, call, tmp_path, arguments, message):
    places = dict(run=run, tmp=tmp_path, empty=empty, acrobot=acrobot)
    code, _, err = call(*(argument.format(**places) for argument in arguments))
    assert code == 2
    assert err.startswith("error: ") and err.count("\n") == 1 and message in err


def test_a_game_that_is_too_short_is_told(monkeypatch):
    checkpoint = stored.Stored(make_config("CartPole-v1"), *[None] * 7)
    over = Game(None, np.zeros(9, int), np.zeros(9), np.zeros(9), True, None, [])
    for module in (tree, imagine):
        monkeypatch.setattr(module, "play", lambda *args, **kwargs: over)
    with pytest.raises(
        ConfigError, match="--step = 12: the game of --seed 0 is over after 9 decisions"
    ):
        tree.searched(checkpoint, seed=0, step=12)
    with pytest.raises(ConfigError, match="--steps = 9: the game of --seed 0 has 9 decisions"):
        imagine.imagine(checkpoint, seed=0, num_steps=9)


@pytest.fixture(scope="module")
def empty(params, tmp_path_factory):
    return write_run(
        tmp_path_factory.mktemp("empty") / "run", make_config("CartPole-v1"), params, num_heads=0
    )


@pytest.fixture(scope="module")
def acrobot(params, tmp_path_factory):
    return write_run(
        tmp_path_factory.mktemp("acrobot") / "run", make_config("Acrobot-v1"), params, num_heads=1
    )
