"""The promise of deterministic mode: 2N updates = N, stop, resume, N, bit for bit, environments
included.

Sessions, learner, rollouts and checkpoints are the real ones, the workers live in this process:
`RoundPool` itself is tested in tests/actors/test_pool.py, and the real programs by
`scripts/chaos.py` (three environments, also after a SIGKILL).
"""

import dataclasses

import jax
import pytest

from configs.checks import check
from configs.schema import Config, ConfigError, StopConfig
from configs.serialise import to_dict
from learner.records.checkpoint import restore_params
from learner.records.checkpoint_files import complete_slots
from learner.records.run_directory import RunDirectory
from scripts.inspection.digests import run_digests
from scripts.program import commands
from scripts.training import session
from scripts.training.beginning import Start
from scripts.training.interrupts import Interrupts
from scripts.training.session import run_session
from tests.scripts.training.local import LocalPool, settings, settings_with_replay

pytestmark = pytest.mark.timeout(900)  # several sessions a test, on a machine that may be busy

PARTS = {
    "params", "search_average", "target_average", "optimiser_state", "value_buffer", "num_updates",
    "environments", "counters",
}  # fmt: skip


@pytest.fixture(autouse=True)
def local_pool(monkeypatch):
    monkeypatch.setattr(session, "build_pool", LocalPool)


@pytest.fixture(scope="module", autouse=True)
def quick_compilation(tmp_path_factory):
    """Compiles without optimisations, and what several sessions share only once."""
    settings = {  # new and default values
        "jax_disable_most_optimizations": (True, False),
        "jax_compilation_cache_dir": (str(tmp_path_factory.mktemp("compiled")), None),
        "jax_persistent_cache_min_compile_time_secs": (0, 1.0),
        "jax_persistent_cache_min_entry_size_bytes": (-1, 0),
    }
    for name, (value, _) in settings.items():
        jax.config.update(name, value)
    yield
    for name, (_, default) in settings.items():
        jax.config.update(name, default)


def train(config: Config, path, num_updates: int, *, resume: bool = False) -> None:
    if not resume:
        RunDirectory.create(path, to_dict(config), ["test"], {})
    config = dataclasses.replace(config, stop=StopConfig(num_updates=num_updates))
    run_session(config, RunDirectory.open(path), Start(resume=resume), Interrupts())


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Returns the digests of 16 updates in one go."""
    path = tmp_path_factory.mktemp("whole") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(session, "build_pool", LocalPool)
        train(settings("CartPole-v1"), path, 16)
    return run_digests(path)


def test_stopping_and_resuming_changes_no_bit(whole, tmp_path):
    config = settings("CartPole-v1")
    check(config)
    train(config, tmp_path / "parts", 8)
    half = run_digests(tmp_path / "parts")
    train(config, tmp_path / "parts", 16, resume=True)
    assert run_digests(tmp_path / "parts") == whole
    assert run_digests(tmp_path / "parts", 8) == half
    assert set(whole) == PARTS and {len(digest) for digest in whole.values()} == {64}
    assert [
        name for name in PARTS if half[name] == whole[name]
    ] == []  # everything moved, and is compared
    assert len(set(whole.values())) == len(PARTS)


def test_with_a_replay_stopping_and_resuming_changes_no_bit(tmp_path):
    """After 12 updates the ring of 20 decisions an environment has gone round."""
    config = settings_with_replay()
    check(config)
    train(config, tmp_path / "whole", 24)
    train(config, tmp_path / "parts", 12)
    stored = restore_params(tmp_path / "parts" / "checkpoints", "latest")
    assert stored.arrays["replay/num_written"].min() > 20 and stored.arrays["replay/is_start"].any()
    train(config, tmp_path / "parts", 24, resume=True)
    assert run_digests(tmp_path / "parts") == run_digests(tmp_path / "whole")
    done = restore_params(tmp_path / "whole" / "checkpoints", "latest").metadata["counters"]
    # The ratio, exactly
    assert done["num_updates"] == int(2.0 * (done["num_steps"] - 24) / 8) >= 24


def streaming_settings(*, saved: bool) -> Config:
    config, replace = settings_with_replay(), dataclasses.replace
    return replace(config, deterministic=False, replay=replace(config.replay, saved=saved))


def test_a_streaming_run_goes_on_with_its_replay_if_that_was_to_be_saved(tmp_path, capsys):
    train(streaming_settings(saved=True), tmp_path / "run", 4)
    checkpoint = restore_params(tmp_path / "run" / "checkpoints", "latest")
    assert {name.split("/")[0] for name in checkpoint.arrays} == {"replay"}
    num_steps = checkpoint.metadata["counters"]["num_steps"]
    assert checkpoint.arrays["replay/num_decisions"] == num_steps
    train(streaming_settings(saved=True), tmp_path / "run", 8, resume=True)
    after = restore_params(tmp_path / "run" / "checkpoints", "latest").metadata["counters"]
    assert after["num_updates"] == int(2.0 * (after["num_steps"] - 24) / 8)
    assert "the replay is empty" not in capsys.readouterr().out


def test_a_replay_that_was_not_saved_fills_again_before_updates_go_on(tmp_path, capsys):
    def counters():
        return restore_params(tmp_path / "run" / "checkpoints", "latest").metadata["counters"]

    train(streaming_settings(saved=False), tmp_path / "run", 4)
    before = counters()
    assert "the replay is empty" not in capsys.readouterr().out
    train(streaming_settings(saved=False), tmp_path / "run", 8, resume=True)
    assert "the replay is empty: updates go on after 24 decisions\n" in capsys.readouterr().out
    played = counters()["num_steps"] - before["num_steps"]
    assert counters()["num_updates"] - before["num_updates"] == int(2.0 * (played - 24) / 8) > 0


def test_without_the_actors_states_it_would_not_be_so(whole, tmp_path, monkeypatch):
    config = settings("CartPole-v1")
    train(config, tmp_path / "parts", 8)
    monkeypatch.setattr(LocalPool, "load", lambda pool, arrays: None)
    train(config, tmp_path / "parts", 16, resume=True)
    parts = run_digests(tmp_path / "parts")
    assert all(parts[name] != whole[name] for name in ("params", "optimiser_state", "environments"))


def test_without_its_actors_a_state_is_not_saved(tmp_path, monkeypatch):
    """They were closed while a batch outlasted the grace period:
    the checkpoint before it stands.
    """
    config = settings("CartPole-v1")
    monkeypatch.setattr(LocalPool, "save", lambda pool: pytest.fail("asked for what is gone"))
    monkeypatch.setattr(LocalPool, "is_closed", True)
    train(config, tmp_path / "run", 4)
    assert complete_slots(tmp_path / "run" / "checkpoints") == [0]


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"learner": {"collect_ahead": True}}, "learner.collect_ahead = True: must be False"),
        ({"learner": {"num_processes": 2}}, "learner.num_processes = 2: must be 1"),
        ({"actors": {"max_in_flight": 2}}, "actors.max_in_flight = 2: must be 1"),
        ({"actors": {"num_workers": 3}}, r"learner.batch_size = 4: must be divisible by .* = 6"),
        (
            {"learner": {"publish_interval": 3}},
            "learner.publish_interval = 3: must divide the 4 updates of a batch",
        ),
    ],
)
def test_a_schedule_that_is_no_round_is_refused(changes, message):
    config = settings("breakout")
    for section, values in changes.items():
        config = dataclasses.replace(
            config, **{section: dataclasses.replace(getattr(config, section), **values)}
        )
    with pytest.raises(ConfigError, match=message):
        check(config)
    check(dataclasses.replace(config, deterministic=False))


@pytest.mark.parametrize(
    "name, reason", [("yars_revenge", "after a restore"), ("Acrobot-v1", "has no state")]
)
def test_an_environment_without_a_state_is_refused(name, reason):
    config = settings(name)
    with pytest.raises(
        ConfigError, match=f"env.name = {name}: not with deterministic = True: .*{reason}"
    ):
        commands.check_environment(config)
    commands.check_environment(dataclasses.replace(config, deterministic=False))
