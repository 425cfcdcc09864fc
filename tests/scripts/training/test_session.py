"""A session: real learner, rollouts and files, and actors in this process."""

import contextlib
import dataclasses

import jax
import numpy as np
import pytest

from actors.pool import ActorPoolError
from configs.schema import StopConfig
from configs.serialise import to_dict
from learner.loop import Counters
from learner.records.checkpoint import restore_params
from learner.records.checkpoint_files import complete_slots
from learner.records.run_directory import RunDirectory, read_rows
from scripts.training import recording, session
from scripts.training.beginning import Start
from scripts.training.interrupts import Interrupts
from scripts.training.limits import Limits
from scripts.training.session import actor_seed, run_session
from tests.scripts.training.local import LocalPool, settings

pytestmark = pytest.mark.timeout(900)  # compilation, on a machine that may be busy


def new_run(path, config):
    return RunDirectory.create(path, to_dict(config), ["test"], {})


@pytest.fixture(scope="module")
def trained(quick_compilation, tmp_path_factory):
    """Returns a session of 8 updates with one evaluation: its run, its outcome, and the tape of
    calls outside of it.
    """
    tape = []

    class Line:
        def update(self, state):
            tape.append(f"row at {state.num_frames} frames")

        def close(self):
            tape.append("line closed")

    def evaluate_params(config, params, **settings):
        tape.append(("played", params, settings["checkpoint"]))
        return {"mean": 2.5, "returns": [2.0, 3.0]}

    config = settings("CartPole-v1")
    log = dataclasses.replace(config.log, evaluation_interval_minutes=60.0, interval_seconds=1e-6)
    config = dataclasses.replace(config, log=log, stop=StopConfig(num_updates=8))
    directory = new_run(tmp_path_factory.mktemp("session") / "run", config)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(session, "build_pool", LocalPool)
        patch.setattr(recording, "Progress", Line)
        patch.setattr(session.evaluation, "evaluate_params", evaluate_params)
        outcome = run_session(config, directory, Start(), Interrupts())
    return directory, outcome, tape


def test_a_session_ends_at_its_limit_with_its_state_saved(trained):
    directory, outcome, _ = trained
    assert (
        outcome.counters.num_updates == 8 and outcome.interrupted is None and outcome.num_lost == 0
    )
    steps = complete_slots(directory.checkpoints)
    assert (steps[0], steps[-1]) == (0, 8)


def test_every_row_is_recorded_once_and_drawn_before_the_line_is_closed(trained):
    directory, outcome, tape = trained
    frames = [row["num_frames"] for row in read_rows(directory.metrics_file)]
    assert len(frames) == 2 and frames[-1] == outcome.counters.num_frames
    drawn = [entry for entry in tape if isinstance(entry, str)]
    assert drawn == [*(f"row at {count} frames" for count in frames), "line closed"]


def test_the_score_is_that_of_the_search_average_and_its_state_is_the_best(trained):
    directory, _, tape = trained
    ((_, params, step),) = (entry for entry in tape if not isinstance(entry, str))
    best = restore_params(directory.checkpoints, "best")
    assert (best.step, best.metadata["score"], step) == (8, 2.5, 8)
    stored = jax.tree.leaves(best.state["search_average"])
    assert len(stored) > 20
    for left, right in zip(jax.tree.leaves(params._asdict()), stored, strict=True):
        np.testing.assert_array_equal(left, right)


@pytest.mark.parametrize("is_interrupted", [True, False])
def test_a_session_whose_actors_are_gone_saves_what_it_has(
    quick_compilation, tmp_path, monkeypatch, is_interrupted
):
    """A signal to the whole process group ends Ray's processes as well; without a signal it is a
    failure.
    """
    config = dataclasses.replace(settings("CartPole-v1"), deterministic=False)
    interrupts, tape = Interrupts(), []

    class Pool:
        num_in_flight = num_dropped = num_waiting = 0

        def __init__(self, config, **settings):
            pass

        def publish(self, published):
            tape.append("published")

        def next_rollout(self):
            interrupts.name = "SIGTERM" if is_interrupted else None
            raise ActorPoolError("all gone")

        def close(self):
            tape.append("closed")

    monkeypatch.setattr(session, "build_pool", Pool)
    directory = new_run(tmp_path / "run", config)
    with (
        contextlib.nullcontext()
        if is_interrupted
        else pytest.raises(ActorPoolError, match="all gone")
    ):
        outcome = run_session(config, directory, Start(), interrupts)
        assert outcome == (Counters(), "SIGTERM", 0)
    assert complete_slots(directory.checkpoints) == [0]
    assert tape == ["published", "closed"]


def test_neither_another_run_nor_a_resumed_one_nor_another_process_plays_the_same_games():
    seeds = [
        actor_seed(1, 0),
        actor_seed(2, 0),
        actor_seed(1, 8),
        actor_seed(1, 8, 1),
        actor_seed(1, 8, 2),
    ]
    assert len(set(seeds)) == len(seeds)
    assert seeds[0] == actor_seed(1, 0)


def test_a_session_ends_at_the_first_limit_that_is_reached(monkeypatch):
    now = [100.0]
    monkeypatch.setattr("scripts.training.limits.time.monotonic", lambda: now[0])
    limits = Limits(StopConfig(num_frames=100, num_updates=None, minutes=2.0))
    assert limits.fractions_done(Counters(num_frames=50, num_updates=9)) == (0.5, 0.0)
    assert not limits.are_reached(Counters(num_frames=99))
    assert limits.are_reached(Counters(num_frames=100))
    now[0] += 120.0
    assert limits.are_reached(Counters())
    assert not Limits(StopConfig(num_frames=None, num_updates=None, minutes=None)).are_reached(
        Counters(num_frames=9)
    )
