"""What the benchmarks decide by: intervals, alternation, verdicts, what is predicted on paper; and
how memory grows.
"""

import dataclasses
import itertools
import math

import numpy as np
import pytest

from actors.environments import EnvironmentSpec
from configs.schema import Config
from scripts import benchmark
from scripts.benchmarks import ingest, memory, operations, settings, value_buffer
from scripts.benchmarks.measure import (
    alternate,
    median_interval,
    slow_bare_loop,
    summary,
    timed_loop,
)
from tests import tiny


def test_the_interval_of_a_median_is_by_order_statistics():
    """Six values: 2 · (1/2)⁶ = 3 % of samples lie on one side of the median; five: 6 %,
    too many.
    """
    assert median_interval([5, 1, 3, 2, 6, 4]) == (1, 6)
    assert median_interval([1, 2, 3, 4, 5]) is None
    assert median_interval(list(range(30))) == (9, 20)  # the tenth from either end
    assert summary([3.0, 1.0, 2.0]) == {
        "median": 2.0, "interval_95": None, "smallest": 1.0, "largest": 3.0, "rounds": 3,
    }  # fmt: skip


def test_the_interval_holds_the_median_19_times_in_20():
    rng = np.random.default_rng(0)
    intervals = [median_interval(row) for row in rng.lognormal(size=(2000, 20))]
    inside = np.mean([low <= 1.0 <= high for low, high in intervals])
    assert 0.95 <= inside < 0.98


def test_loops_alternate_backwards_every_second_turn_until_their_ratio_is_known():
    tape = []

    def loop(name, rates):
        return lambda seconds: tape.append(name) or next(rates)

    noisy = itertools.chain([9.0], itertools.cycle([0.8, 1.2]))
    loops = {"ours": loop("ours", noisy), "bare": loop("bare", itertools.repeat(1.0))}
    rates = alternate(loops, "ours", "bare", rounds=7, seconds=1.0, turns=1)
    assert tape[:2] == ["ours", "bare"]  # unmeasured: compilation
    assert tape[2:6] == ["ours", "bare", "bare", "ours"]
    assert len(rates["ours"]) == 7 and 9.0 not in rates["ours"]
    steady = {"ours": lambda seconds: 0.99, "bare": lambda seconds: 1.0}
    # The fewest that say anything
    assert len(alternate(steady, "ours", "bare", rounds=30, seconds=1.0)["ours"]) == 6


def test_a_round_is_the_mean_of_its_turns():
    """Eight turns share the seconds; ours is fast in four of them, and a round knows only that."""
    seen = []
    rates = itertools.cycle([1.0, 3.0])
    loops = {
        "ours": lambda seconds: seen.append(seconds) or next(rates),
        "bare": lambda seconds: 1.0,
    }
    measured = alternate(loops, "ours", "bare", rounds=6, seconds=16.0, turns=8)
    assert measured["ours"] == [2.0] * 6 and set(seen) == {2.0} and len(seen) == 1 + 6 * 8


def test_a_timed_loop_counts_what_its_steps_return():
    assert timed_loop(lambda: 5.0)(0.0) > 0.0


def test_a_slow_bare_loop_is_told_from_a_slow_machine():
    assert slow_bare_loop([85.0, 84.0], 600.0, 550.0) is None
    assert slow_bare_loop([85.0, 84.0], 500.0, 550.0) == (
        "bare loop too slow: 500 steps/s in sum, at least 550 expected of such cores"
    )
    assert slow_bare_loop([85.0, 60.0], 100.0, 550.0) is None  # the cores are slow
    assert "too slow" in slow_bare_loop([60.0], math.nan, 550.0)


def test_the_published_run_on_paper():
    """200 M frames in 9 hours, a decision in 4 frames, 61 frames of 9,216 bytes for 20
    decisions.
    """
    figures = ingest.on_paper(1e9, 61 * 9216 / 20, 37e9)
    assert figures["frames_per_second_published"] == pytest.approx(6173, abs=1)
    assert figures["published_bytes_per_second_in_this_format"] == pytest.approx(43.4e6, rel=1e-3)
    assert figures["frames_per_second_of_this_feed"] == pytest.approx(142_300, rel=1e-3)
    assert figures["feed_over_published"] == pytest.approx(23.05, rel=1e-3)
    # 1,543 decisions/s
    assert figures["searching_cores_for_the_published_rate"] == pytest.approx(714, abs=1)
    assert figures["searching_cores_that_this_feed_serves"] == pytest.approx(23.05 * 714, rel=1e-2)


def test_the_operations_of_a_decision_are_those_of_its_network_calls():
    config = settings.TINY
    more = dataclasses.replace(config, search=dataclasses.replace(config.search, num_simulations=1))
    none = dataclasses.replace(config, search=dataclasses.replace(config.search, num_simulations=0))
    a_simulation = operations.decision_flops(more) - operations.decision_flops(none)
    assert 0 < a_simulation < operations.decision_flops(none)
    expected = operations.decision_flops(none) + config.search.num_simulations * a_simulation
    assert operations.decision_flops(config) == pytest.approx(expected)


def test_every_head_is_counted_however_many_make_a_chunk():
    config = value_buffer.config_of(tiny=True)

    def of(size, chunk):
        return dataclasses.replace(
            config,
            value_buffer=dataclasses.replace(config.value_buffer, size=size, chunk_size=chunk),
        )

    four, eight, twelve = (value_buffer.count_flops(of(size, 2)) for size in (4, 8, 12))
    assert twelve - eight == pytest.approx(eight - four, rel=0.01) and eight > four
    assert value_buffer.count_flops(of(8, 8)) == eight


def test_the_three_losses_of_the_value_buffer_differ_in_nothing_else():
    losses = value_buffer.three_losses(value_buffer.config_of(tiny=False))
    assert [config.loss.past_weight for config in losses.values()] == [0.0, 0.25, 0.25]
    assert [config.value_buffer.size for config in losses.values()] == [128, 1, 128]
    assert {config.network for config in losses.values()} == {Config().network}
    assert losses["heads"].learner.batch_size == 1


def test_synthetic_rollouts_have_the_fields_and_types_of_real_ones():
    spec = tiny_spec()
    rollout = settings.synthetic_rollout(settings.TINY, spec, num_sequences=3)
    shapes = {
        name: getattr(rollout.trajectory, name).shape
        for name in ("observation", "action", "history_observation")
    }
    assert shapes == {
        "observation": (3, 8, 48, 48, 1),
        "action": (3, 7),
        "history_observation": (3, 1, 48, 48, 1),
    }
    for field, real in zip(rollout.trajectory, tiny.trajectory(0), strict=True):
        assert field.dtype == real.dtype or field.dtype == np.uint8  # frames are bytes here
    assert rollout.num_steps == 3 * 5


def tiny_spec():
    return EnvironmentSpec((48, 48, 1), "uint8", num_actions=4, frames_per_step=4)


@pytest.mark.parametrize(
    "options",
    [
        ["--rounds", "0"],
        ["--seconds", "0"],
        ["--seconds", "nan"],
        ["--preset", "atari-cpu-onpolicy"],
    ],
)
def test_impossible_options_are_refused_in_one_line(options, capsys):
    assert benchmark.main(["search", *options]) == benchmark.BAD_INPUT
    assert capsys.readouterr().err.count("\n") == 1


def test_growth_is_from_the_end_of_the_warm_up_to_the_end():
    def process(pid, name, size):
        return [memory.Sample(minute / 2, pid, name, int(size(minute / 2))) for minute in range(61)]

    samples = process(1, "flat", lambda minutes: 100e6 + 1e9 * (minutes < 4))
    samples += process(2, "creeps", lambda minutes: 100e6 * (1 + minutes / 100))
    samples += process(
        4, "falls and creeps", lambda minutes: 100e6 * (1 + minutes / 100) + 1e9 * (minutes < 6)
    )
    samples += [row for row in process(3, "died", lambda minutes: 1e6) if row.minutes < 20]
    grown = memory.growth(samples)
    assert set(grown) == {"flat (1)", "creeps (2)", "falls and creeps (4)"}
    assert grown["flat (1)"] == 0.0 and 0.15 < grown["creeps (2)"] < 0.25
    assert 0.15 < grown["falls and creeps (4)"] < 0.25
