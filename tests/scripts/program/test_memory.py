"""What a replay takes of the machine's memory: told, and refused where there is less."""

import dataclasses

import numpy as np
import psutil
import pytest

from actors.environments import EnvironmentSpec
from configs.presets import PRESETS
from configs.schema import ConfigError, ReplayConfig
from learner.replay import Replay
from scripts.program import memory
from scripts.program.assemble import replay_settings

SPEC = EnvironmentSpec((64, 64, 1), "uint8", num_actions=7, frames_per_step=4)


def with_replay(**changes):
    config = PRESETS["atari-cpu-onpolicy"]
    return dataclasses.replace(config, replay=ReplayConfig(capacity=6400, **changes))


def test_without_a_replay_there_is_nothing_to_tell():
    assert memory.check_replay(PRESETS["atari-cpu-onpolicy"], SPEC, usable_bytes=0) is None


def test_what_is_told_is_what_is_taken():
    config = with_replay()
    replay = Replay(replay_settings(config, SPEC))
    taken = sum(array.nbytes for array in replay._arrays.values())
    line = memory.check_replay(config, SPEC, usable_bytes=taken)
    assert line == f"replay: 6,400 decisions of 64 environments take {taken / 1e9:.2f} GB of memory"
    assert taken > 6400 * 64 * 64
    with pytest.raises(
        ConfigError, match=r"^replay\.capacity = 6400: takes 0\.03 GB; this machine has 0\.03 GB$"
    ):
        memory.check_replay(config, SPEC, usable_bytes=taken - 1)


@pytest.mark.parametrize("changes", [{"saved": True}])
def test_a_replay_that_is_saved_needs_room_for_a_copy(changes):
    config = with_replay(**changes)
    arrays = Replay(replay_settings(config, SPEC)).arrays()
    taken = sum(np.asarray(array).nbytes for array in arrays.values())
    line = memory.check_replay(config, SPEC, usable_bytes=2 * taken)
    assert line.endswith("0.03 GB of memory, and 0.03 GB while a checkpoint is written")
    with pytest.raises(ConfigError, match="this machine has 0.06 GB"):
        memory.check_replay(config, SPEC, usable_bytes=2 * taken - 1)


def test_a_container_has_what_its_limit_says(tmp_path, monkeypatch):
    limit, none = tmp_path / "limit", tmp_path / "none"
    limit.write_text("123456\n")
    none.write_text("max\n")
    monkeypatch.setattr(memory, "_CONTAINER_LIMITS", (str(none), str(tmp_path / "missing")))
    assert memory.usable_memory() == psutil.virtual_memory().total
    monkeypatch.setattr(memory, "_CONTAINER_LIMITS", (str(none), str(limit)))
    assert memory.usable_memory() == 123456
