"""The promise of deterministic mode: 2N updates = N, stop, resume, N, bit for bit, environments included.

Sessions, learner, rollouts and checkpoints are the real ones, the workers live in this process: `RoundPool` itself is
tested in tests/actors/test_pool.py, and the real programs by `scripts/chaos.py` (three environments, also after a
SIGKILL).
"""

import dataclasses

import jax
import pytest

from actors.states import part
from configs.checks import check
from configs.presets import PRESETS
from configs.schema import Config, ConfigError, StopConfig
from configs.serialise import to_dict
from learner.records.checkpoint_files import complete_slots
from learner.records.run_directory import RunDirectory
from scripts.inspection.digests import run_digests
from scripts.program import commands
from scripts.program.assemble import rollout_builder
from scripts.training.session import Session, Start

pytestmark = pytest.mark.timeout(900)  # several sessions a test, on a machine that may be busy

PARTS = {
    "params", "search_average", "target_average", "optimiser_state", "value_buffer", "num_updates", "environments",
    "counters",
}  # fmt: skip


class LocalPool:
    """A `RoundPool` whose workers are objects of this process."""

    num_dropped = num_in_flight = num_waiting = 0
    is_closed = False

    def __init__(self, config: Config, seed: int):
        build = rollout_builder(config)
        self.rollouts = [build(seed + worker) for worker in range(config.actors.num_workers)]
        self.turn = 0

    def publish(self, published):
        if self.turn % len(self.rollouts) == 0:
            self.published = published

    def next_rollout(self):
        self.turn += 1
        return self.rollouts[(self.turn - 1) % len(self.rollouts)].run(self.published)

    def save(self):
        return {f"{n}/{name}": x for n, rollout in enumerate(self.rollouts) for name, x in rollout.save().items()}

    def load(self, arrays):
        for n, rollout in enumerate(self.rollouts):
            rollout.load(part(str(n), arrays))

    def close(self):
        for rollout in self.rollouts:
            rollout.close()


class LocalSession(Session):
    """A session with a pool of this process; seeds differ between sessions, as those of the real one do."""

    def _make_pool(self):
        return LocalPool(self._config, seed=self._loop.counters.num_batches)


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


def settings(environment: str) -> Config:
    """Returns the smoke preset in rounds: two workers, two passes in two pieces, so that every order matters."""
    config = PRESETS["smoke"]
    replace = dataclasses.replace
    return replace(
        config,
        env=replace(config.env, name=environment),
        optimiser=replace(config.optimiser, schedule_num_updates=64),  # at 0 nothing would move
        actors=replace(config.actors, num_workers=2, sequence_overlap=4, start_spread=9),
        learner=replace(
            config.learner,
            batch_size=4,
            collect_ahead=False,
            num_passes=2,
            num_minibatches=2,
            publish_interval=4,
            target_average_rate=0.5,
        ),  # fmt: skip
        deterministic=True,
    )


def train(config: Config, path, num_updates: int, *, resume: bool = False) -> None:
    if not resume:
        RunDirectory.create(path, to_dict(config), ["test"], {})
    config = dataclasses.replace(config, stop=StopConfig(num_updates=num_updates))
    LocalSession(config, RunDirectory.open(path), Start(resume=resume)).run()


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Returns the digests of 16 updates in one go."""
    path = tmp_path_factory.mktemp("whole") / "run"
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
    assert [name for name in PARTS if half[name] == whole[name]] == []  # everything moved, and is compared
    assert len(set(whole.values())) == len(PARTS)


def test_without_the_actors_states_it_would_not_be_so(whole, tmp_path, monkeypatch):
    config = settings("CartPole-v1")
    train(config, tmp_path / "parts", 8)
    monkeypatch.setattr(LocalPool, "load", lambda pool, arrays: None)
    train(config, tmp_path / "parts", 16, resume=True)
    parts = run_digests(tmp_path / "parts")
    assert all(parts[name] != whole[name] for name in ("params", "optimiser_state", "environments"))


def test_without_its_actors_a_state_is_not_saved(tmp_path, monkeypatch):
    """They were closed while a batch outlasted the grace period: the checkpoint before it stands."""
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
        ({"learner": {"publish_interval": 3}}, "learner.publish_interval = 3: must divide the 4 updates of a batch"),
    ],
)
def test_a_schedule_that_is_no_round_is_refused(changes, message):
    config = settings("breakout")
    for section, values in changes.items():
        config = dataclasses.replace(config, **{section: dataclasses.replace(getattr(config, section), **values)})
    with pytest.raises(ConfigError, match=message):
        check(config)
    check(dataclasses.replace(config, deterministic=False))


@pytest.mark.parametrize("name, reason", [("yars_revenge", "after a restore"), ("Acrobot-v1", "has no state")])
def test_an_environment_without_a_state_is_refused(name, reason):
    config = settings(name)
    with pytest.raises(ConfigError, match=f"env.name = {name}: not with deterministic = True: .*{reason}"):
        commands.check_environment(config)
    commands.check_environment(dataclasses.replace(config, deterministic=False))
