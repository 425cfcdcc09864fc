"""Exported agents: two files that play like the run they came from, and nothing else is read."""

import dataclasses
import json

import jax
import numpy as np
import pytest

from actors.environments import make_environment
from configs.presets import PRESETS
from configs.schema import ConfigError, EnvConfig
from configs.serialise import to_dict
from learner.records.checkpoint import Checkpointer
from learner.records.run_directory import RunDirectory
from scripts.playing import exported
from scripts.playing.evaluation import load_agent
from scripts.program.assemble import build_learner, env_spec


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Returns the directory of a CartPole run with one checkpoint,
    whose search average is random.
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
    yield directory.path
    jax.config.update("jax_disable_most_optimizations", False)


def test_an_exported_agent_plays_like_the_run(run, tmp_path):
    out = tmp_path / "new" / "agent.safetensors"
    exported.export_agent(run, out, "latest")
    assert sorted(path.name for path in out.parent.iterdir()) == ["agent.json", "agent.safetensors"]
    assert json.loads(out.with_suffix(".json").read_text())["num_updates"] == 7
    ours, theirs = load_agent(run), exported.load_exported_agent(out)
    left, right = (jax.tree_util.tree_leaves_with_path(agent._params) for agent in (ours, theirs))
    assert len(left) == len(right) > 20
    for (path, leaf), (other_path, other) in zip(left, right, strict=True):
        assert path == other_path
        np.testing.assert_array_equal(leaf, other)
    observation, _ = make_environment(EnvConfig("CartPole-v1"), training=False).reset(seed=1)

    def decide(agent):
        return agent.decide(observation[None], np.ones(1, bool))

    np.testing.assert_array_equal(decide(ours).policy, decide(theirs).policy)


def test_an_observation_of_another_size_is_refused_by_name(run):
    agent = load_agent(run)
    for observation in (np.zeros(5), np.float32(1.0)):  # a scalar would fit NumPy's broadcasting
        with pytest.raises(ValueError, match=r"this agent plays \(1, 4\)"):
            agent.act(observation)


def test_files_that_do_not_belong_together_are_refused(run, tmp_path):
    out = tmp_path / "agent.safetensors"
    exported.export_agent(run, out, 7)
    content = bytearray(out.read_bytes())
    content[-1] ^= 1
    out.write_bytes(content)
    with pytest.raises(ConfigError, match="its SHA-256 is not that of agent.json"):
        exported.load_exported_agent(out)


def test_a_newer_format_and_another_ending_are_refused(run, tmp_path):
    out = tmp_path / "agent.safetensors"
    exported.export_agent(run, out, "latest")
    description = json.loads(out.with_suffix(".json").read_text())
    out.with_suffix(".json").write_text(json.dumps(description | {"format": 2}))
    with pytest.raises(ConfigError, match="format 2, this program reads 1"):
        exported.load_exported_agent(out)
    with pytest.raises(ConfigError, match=r"--out .*agent\.pkl: must end in \.safetensors"):
        exported.export_agent(run, tmp_path / "agent.pkl", "latest")
