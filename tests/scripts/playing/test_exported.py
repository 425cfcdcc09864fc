"""Exported agents: a small folder that plays like the run it came from, with a card."""

import dataclasses
import json
from pathlib import Path

import jax
import numpy as np
import pytest

from configs.presets import PRESETS
from configs.schema import ConfigError
from configs.serialise import to_dict
from learner.records.checkpoint import Checkpointer
from learner.records.run_directory import RunDirectory
from scripts import evaluate, export, look
from scripts.playing import evaluation, exported, load_agent, load_env
from scripts.program.assemble import build_learner, env_spec

AGENTS = Path(__file__).resolve().parents[3] / "results" / "agents"
RESULT = {"environment": "CartPole-v1", "human_normalised": None, "num_unfinished": 0}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Returns the directory of a CartPole run with one checkpoint, whose search average is random,
    and the scores of three players.
    """
    jax.config.update("jax_disable_most_optimizations", True)
    smoke = PRESETS["smoke"]
    config = dataclasses.replace(smoke, env=dataclasses.replace(smoke.env, name="CartPole-v1"))
    directory = RunDirectory.create(
        tmp_path_factory.mktemp("export") / "run", to_dict(config), ["test"], {}
    )
    state, _, _ = build_learner(config, env_spec(config.env))
    checkpointer = Checkpointer(directory.checkpoints, max_to_keep=1, abstract_state=None)
    checkpointer.save(7, state, {"counters": {}})
    checkpointer.close()
    directory.metrics_file.write_text('{"num_updates": 7, "num_frames": 1120}\n')
    for name, protocol, checkpoint, returns in [
        ("few", "greedy", 7, [1000.0]),
        ("many", "greedy", 7, [9.0, 11.0]),
        ("older", "greedy", 6, [500.0] * 3),
        ("blind", "random", None, [20.5]),
    ]:
        error = 1.0 if len(returns) > 1 else None
        played = {"protocol": protocol, "checkpoint": checkpoint, "returns": returns}
        result = RESULT | played | {"mean": float(np.mean(returns)), "standard_error": error}
        evaluation.write_result(directory.path, result, name=name)
    yield directory.path
    jax.config.update("jax_disable_most_optimizations", False)


@pytest.fixture(scope="module")
def agent(run, tmp_path_factory):
    """Returns the folder that export.py has written."""
    folder = tmp_path_factory.mktemp("agents") / "new" / "cartpole"
    assert export.main([str(run), "--out", str(folder)]) == 0
    return folder


def test_an_exported_agent_plays_like_the_run(run, agent):
    assert sorted(path.name for path in agent.iterdir()) == [
        "README.md",
        "agent.json",
        "agent.safetensors",
    ]
    assert json.loads((agent / "agent.json").read_text())["num_updates"] == 7
    ours, theirs = load_agent(run), load_agent(agent)
    left, right = (jax.tree_util.tree_leaves_with_path(agent._params) for agent in (ours, theirs))
    assert len(left) == len(right) > 20
    for (path, leaf), (other_path, other) in zip(left, right, strict=True):
        assert path == other_path
        np.testing.assert_array_equal(leaf, other)
    observation, _ = load_env(agent).reset(seed=1)
    one, other = ours.think(observation), theirs.think(observation)
    assert one.action == other.action and one.policy.shape == (2,) and one.value.shape == ()
    np.testing.assert_array_equal(one.policy, other.policy)


def test_the_card_has_the_largest_score_of_the_checkpoint_and_where_it_came_from(agent):
    card = (agent / "README.md").read_text()
    rows = [line for line in card.splitlines() if line.startswith("| ")]
    assert rows[1:] == [
        "| the agent, its most probable actions | 10.00 ± 1.00 | – | 2 | 0 |",
        "| random actions | 20.50 | – | 1 | 0 |",
    ]
    assert "1,120 frames, 7 updates" in card and "by commit" in card


def test_programs_take_an_exported_agent_for_a_run(agent, call, tmp_path):
    code, output, _ = call(evaluate, agent, "--episodes", 2, "--max-decisions", 5)
    assert code == 0
    score = json.loads((agent / "evaluations" / "greedy-7-2.json").read_text())
    assert score["returns"] == [5.0, 5.0] and score["checkpoint"] == 7
    code, output, _ = call(look, "tree", agent, "--out", tmp_path / "tree.svg")
    assert code == 0 and (tmp_path / "tree.svg").read_text().startswith("<svg")


@pytest.mark.parametrize(
    ("program", "arguments", "message"),
    [
        (evaluate, ["--protocol", "training-final-200"], "its training is not there"),
        (evaluate, ["--checkpoint", "best"], "it has only latest"),
        (look, ["--out", "."], "an exported agent has no past heads: audit the run"),
    ],
)
def test_what_needs_the_run_is_refused_in_one_line(agent, call, program, arguments, message):
    first = ["audit", agent] if program is look else [agent]
    code, _, error = call(program, *first, *arguments)
    assert code == 2 and message in error and len(error.splitlines()) == 1


def test_an_observation_of_another_size_is_refused_by_name(run):
    agent = load_agent(run)
    for observation in (np.zeros(5), np.float32(1.0)):  # a scalar would fit NumPy's broadcasting
        with pytest.raises(ValueError, match=r"this agent plays \(1, 4\)"):
            agent.act(observation)


@pytest.fixture
def copy(run, tmp_path):
    """Returns an exported agent of its own."""
    exported.export_agent(run, tmp_path, 7)
    return tmp_path


def test_nothing_is_overwritten(run, copy):
    with pytest.raises(ConfigError, match="holds an agent already; nothing is overwritten"):
        exported.export_agent(run, copy, "latest")


def test_files_that_do_not_belong_together_are_refused(copy):
    content = bytearray((copy / "agent.safetensors").read_bytes())
    content[-1] ^= 1
    (copy / "agent.safetensors").write_bytes(content)
    with pytest.raises(ConfigError, match="its SHA-256 is not that of agent.json"):
        load_agent(copy)


def test_a_newer_format_is_refused(copy):
    description = json.loads((copy / "agent.json").read_text())
    (copy / "agent.json").write_text(json.dumps(description | {"format": 3}))
    with pytest.raises(ConfigError, match="format 3, this program reads 2"):
        load_agent(copy)


def test_games_are_licensed_by_their_kind():
    from scripts.playing.card import _licence

    assert "ale-py (GPL-2.0)" in _licence("krull")
    assert "GPL-3.0" in _licence("MinAtar/Breakout-v1")
    assert "its own licence" in _licence("CartPole-v1")


@pytest.mark.parametrize("folder", sorted(AGENTS.glob("*/agent.json")), ids=lambda x: x.parent.name)
def test_the_agents_of_the_repository_are_whole_and_listed(folder):
    params, num_updates = exported.read_params(folder.parent)
    config = exported.read_config(folder.parent)
    leaves = jax.tree.leaves(params)
    assert num_updates > 0 and all(np.isfinite(leaf).all() for leaf in leaves)
    assert sum(leaf.nbytes for leaf in leaves) < 5e6
    assert f"]({folder.parent.name}/README.md)" in (AGENTS / "README.md").read_text()
    assert (folder.parent / "README.md").read_text().startswith(f"# {config.env.name}, seed ")
