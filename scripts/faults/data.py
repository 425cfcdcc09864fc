"""Faults of what flows: numbers that are none, sequences twice, clocks, settings."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from configs.checks import check
from configs.reader import changed
from configs.schema import Config, ConfigError, LearnerConfig
from configs.serialise import to_dict
from learner.feed import Batch, BatchFeed
from learner.loop import Counters, LearnerLoop, NonFiniteError
from learner.passes import DealtPasses, Pass
from learner.records.metrics import MetricWriter
from learner.state import init_state
from learner.update import make_mesh, make_update, replicated
from muzero.losses import LossOutput, Prepared
from muzero.types import Origin, Params, RolloutResult, Trajectory
from scripts.faults.registry import Outcome, fault

_NUM_CONFIGURATIONS = 200
_MAX_SKIPPED = 3


def _trajectory(reward: float) -> Trajectory:
    """Returns one sequence of two states, one row, everything but the reward zero."""
    row = np.zeros((1, 1), np.float32)
    fields = {name: row for name in Trajectory._fields}
    return Trajectory(**fields)._replace(
        reward=np.full((1, 1), reward, np.float32), params_version=np.zeros((1, 2))
    )


class _WeightTimesReward:
    """Stands for the loss of one sequence."""

    def prepare(self, *_: Any) -> Prepared:
        return Prepared(None, None)

    def evaluate(self, params: Params, buffer: Any, trajectory: Trajectory, *_: Any) -> LossOutput:
        return LossOutput(params.prediction * trajectory.reward[0], jnp.ones(()), {}, {})


def _loop(published: list[int]) -> LearnerLoop:
    """Returns a learner of one weight, whose loss is weight times reward: the real update, loop and
    guard.
    """
    optimiser, mesh = optax.sgd(1.0), make_mesh(1)

    def init(key):
        return Params(jnp.zeros(()), jnp.zeros(()), jnp.ones(()))

    state = jax.device_put(
        init_state(init, optimiser, value_buffer_size=2, rng_key=None), replicated(mesh)
    )
    schedule = optax.constant_schedule(1.0)
    settings = LearnerConfig(
        search_average_rate=0.5, target_average_rate=0.5, max_skipped_in_row=_MAX_SKIPPED
    )
    fns = make_update(_WeightTimesReward(), optimiser, schedule, mesh, settings, push_interval=2)

    def publish(version, params):
        return published.append(version)

    return LearnerLoop(state, Counters(), settings, update_fns=fns, publish=publish)


def _train(loop: LearnerLoop, rewards: list[float]) -> None:
    for reward in rewards:
        passes = [Pass(_trajectory(reward), [np.zeros((1, 1), np.int32)])]
        batch = Batch(
            lambda _, passes=passes: passes, np.zeros((1, 2)), [], {}, num_steps=1, num_frames=1
        )
        loop.run_batch(iter([batch]))


@fault(
    injected="a NaN reward in one batch, then in every batch",
    promised="the update is skipped and counted, the parameters stay; "
    f"after {_MAX_SKIPPED} batches in a row the run stops",
    is_quick=True,
)
def nan_reward(folder: Path) -> Outcome:
    """The third update, and then all from the fifth on."""
    published: list[int] = []
    loop = _loop(published)
    _train(loop, [1.0, 1.0, np.nan, 1.0])
    counters, weight = loop.counters, float(loop.state.params.prediction)
    try:
        _train(loop, [np.nan] * 10)
        end = "NOT stopped"
    except NonFiniteError as error:
        end = f"stopped after {loop.counters.num_skipped - counters.num_skipped}"
        end += ", batch LOST" if error.batch is None else ", batch kept"
    held = (counters.num_updates, counters.num_skipped, weight) == (3, 1, -2.0)
    held = (
        held
        and float(loop.state.params.prediction) == -2.0
        and end == f"stopped after {_MAX_SKIPPED}, batch kept"
    )
    return Outcome(
        held, f"{counters.num_skipped} of 4 skipped, then {end}", 0, 4 - 1 - counters.num_updates
    )


@fault(
    injected="NaN parameters (injected into the state)",
    promised="never published; the run stops",
    is_quick=True,
)
def nan_parameters(folder: Path) -> Outcome:
    """As after a bit flip in memory."""
    published: list[int] = []
    loop = _loop(published)
    broken = jax.tree.map(lambda x: x * np.nan, loop.state.search_average)
    loop.state = loop.state._replace(search_average=broken)
    try:
        loop.publish()
    except NonFiniteError as error:
        return Outcome(published == [], f"stopped: {error}")
    return Outcome(False, "published")


@fault(
    injected="a rollout delivered twice, and one after a later one of its worker",
    promised="dropped and told; no sequence is trained on twice",
    is_quick=True,
)
def duplicate_and_late_sequences(folder: Path) -> Outcome:
    """Rollouts 1, 2, 2, 1, 3 of worker 0 and 1 of its replacement, then 4 of the one that was
    replaced.
    """
    numbers = [(0, 1), (0, 2), (0, 2), (0, 1), (0, 3), (1, 1), (0, 4), (1, 2)]
    results = (_rollout(Origin(0, incarnation, number)) for incarnation, number in numbers)
    settings = LearnerConfig(batch_size=5, collect_ahead=False)
    deal = DealtPasses(lambda batch: batch, settings, num_starts=1, seed=0)
    feed = BatchFeed(lambda: next(results), deal, settings)
    [(trajectory, _)] = next(feed).passes(5)
    taken = [tuple(int(x) for x in row) for row in trajectory.reward[:, 0].reshape(-1, 1)]
    feed.close()
    dropped = len(numbers) - len(list(results)) - len(taken)
    held = taken == [(1,), (2,), (3,), (101,), (102,)] and dropped == 3
    order = "in order" if taken == sorted(taken) else "NOT in order"
    return Outcome(held, f"{dropped} of {len(numbers)} dropped, the others {order}", dropped, 0)


def _rollout(origin: Origin) -> RolloutResult:
    mark = 100 * origin.incarnation + origin.number
    return RolloutResult(_trajectory(mark), [], {}, num_steps=1, num_frames=1, origin=origin)


@fault(
    injected="the wall clock set back by an hour while training (injected: time.time)",
    promised="seconds, rows and rates go on growing: nothing is measured by the wall clock",
    is_quick=True,
)
def clock_set_back(folder: Path) -> Outcome:
    """Between the second and the third row."""
    loop, writer, seconds = _loop([]), MetricWriter(folder, resume_from_frames=None), []
    real = time.time
    try:
        for row in range(4):
            if row == 2:
                time.time = lambda: real() - 3600.0
            _train(loop, [1.0])
            counters, scalars = loop.report()
            writer.write(
                row, scalars, num_updates=counters.num_updates, wall_seconds=counters.seconds
            )
            seconds.append(counters.seconds)
            rates = (scalars["perf/updates_per_second"], scalars["perf/frames_per_second"])
    finally:
        time.time = real
        writer.close()
    grows = all(a < b for a, b in zip(seconds, seconds[1:], strict=False))
    told = (
        f"seconds {'grow' if grows else 'do NOT grow'}, rates are "
        f"{'positive' if min(rates) > 0 else 'NOT positive'}"
    )
    return Outcome(grows and min(rates) > 0, told, 0, 0)


def _leaves(values: dict, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, dict):
            yield from _leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


@fault(
    injected=f"{_NUM_CONFIGURATIONS} configurations with one number that cannot be (drawn by "
    f"hypothesis)",
    promised="each refused before anything starts, with the name of the field",
    is_quick=True,
)
def malformed_configurations(folder: Path) -> Outcome:
    """Negative, NaN and infinite numbers in every numeric field that has a lower bound."""
    import hypothesis
    from hypothesis import strategies as st

    free = ("support.min_value", "support.max_value", "stop.", "seed")
    fields = [
        p
        for p, x in _leaves(to_dict(Config()))
        if type(x) in (int, float) and not p.startswith(free)
    ]
    drawn, silent = [], []

    @hypothesis.settings(
        max_examples=_NUM_CONFIGURATIONS, database=None, deadline=None, derandomize=True
    )
    @hypothesis.given(
        st.sampled_from(fields), st.one_of(st.integers(-(10**9), -1), st.just(float("nan")))
    )
    def draw(path: str, value: float) -> None:
        drawn.append((path, value))
        if path not in _refusal(path, value):
            silent.append((path, value))

    draw()
    covered = len({path for path, _ in drawn})
    told = (
        f"{len(drawn) - len(silent)} of {len(drawn)} refused by name, {covered} of {len(fields)} "
        f"fields drawn"
    )
    return Outcome(
        not silent and len(drawn) >= _NUM_CONFIGURATIONS,
        told + (f"; silent: {silent[:3]}" if silent else ""),
    )


def _refusal(path: str, value: float) -> str:
    try:
        check(changed(Config(), {path: value}))
    except ConfigError as error:
        return str(error)
    return ""
