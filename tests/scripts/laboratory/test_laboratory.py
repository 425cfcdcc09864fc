"""The laboratory: what is kept, what is run again, what is refused; its statistics; its checks that
can fail.
"""

import dataclasses
import math
import os

import jax
import numpy as np
import pytest

from configs.schema import ConfigError
from muzero.tabular import margins, pinning
from scripts import tabular
from scripts.laboratory import (
    capacity,
    class_size,
    conduct,
    order_k,
    propositions,
    table,
    trajectories,
    workers,
)
from scripts.laboratory.experiment import Experiment
from scripts.laboratory.intervals import mean_and_interval
from scripts.laboratory.model_fitting import PROPER
from scripts.laboratory.principal_plane import diameter, principal_components
from scripts.laboratory.registry import EXPERIMENTS

pytestmark = pytest.mark.usefixtures("quick_compilation")


@dataclasses.dataclass(frozen=True)
class Size:
    seeds: int
    forbidden: int = -1


def toy_units(scale):
    return [{"order": order, "seed": seed} for order in (1, PROPER) for seed in range(scale.seeds)]


def toy_run(scale, unit, scratch):
    if unit["seed"] == scale.forbidden or (scratch / "stop").exists() and unit["seed"] == 1:
        raise RuntimeError("stopped")
    with (scratch / "tape").open("a") as file:
        print(unit["order"], unit["seed"], file=file)
    return [
        {
            "core": min(os.sched_getaffinity(0)),
            "cores": len(os.sched_getaffinity(0)),
            "third": 1 / 3,
        }
    ]


def toy_summary(scale, rows):
    return [{"count": len(rows), "third": rows[0]["third"]}]


def toy_figure(scale, rows, scratch):
    from matplotlib import pyplot

    return pyplot.figure()


TOY = Experiment({"smoke": Size(2), "small": Size(3)}, toy_units, toy_run, toy_summary, toy_figure)


def test_a_second_call_runs_only_what_is_missing(tmp_path):
    stop = tmp_path / "scratch" / "toy" / "stop"
    stop.parent.mkdir(parents=True)
    stop.touch()
    with pytest.raises(RuntimeError, match="stopped"):
        conduct.run("toy", TOY, "smoke", tmp_path, num_workers=1)
    assert table.Table(tmp_path / "toy.csv").rows == [
        {
            "order": 1,
            "seed": 0,
            "core": min(workers.cores()),
            "cores": len(workers.cores()),
            "third": 0.33333333,
        }
    ]
    stop.unlink()
    conduct.run("toy", TOY, "smoke", tmp_path, num_workers=1)
    tape = (stop.parent / "tape").read_text().splitlines()
    # Each once, although the program was called twice
    assert tape == [
        "1 0",
        "1 1",
        "inf 0",
        "inf 1",
    ]
    conduct.run("toy", TOY, "smoke", tmp_path, num_workers=1)
    assert (stop.parent / "tape").read_text().splitlines() == tape
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {
        "scratch",
        *(f"toy{end}" for end in (".csv", "-summary.csv", ".json", ".png", ".svg")),
    }
    assert (tmp_path / "toy-summary.csv").read_text() == "count,third\n4,0.33333333\n"


def test_the_rows_stand_in_the_order_of_the_units_whoever_was_first(tmp_path):
    backwards = dataclasses.replace(TOY, units=lambda scale: toy_units(scale)[::-1])
    conduct.run("toy", backwards, "smoke", tmp_path, num_workers=1)
    conduct.run("toy", TOY, "smoke", tmp_path, num_workers=1)
    found = [(row["order"], row["seed"]) for row in table.Table(tmp_path / "toy.csv").rows]
    assert found == [(1, 0), (1, 1), (PROPER, 0), (PROPER, 1)]


def test_other_settings_in_the_same_directory_are_refused(tmp_path):
    conduct.run("toy", TOY, "smoke", tmp_path, num_workers=1)
    with pytest.raises(ConfigError, match="holds toy at other settings"):
        conduct.run("toy", TOY, "small", tmp_path, num_workers=1)


@pytest.mark.parametrize(
    "rows, found",
    [
        ("order,seed,third\n1,0,0.3\n1,7,0.3\n", "order = 1, seed = 7"),
        ("a,b\n1,2\n", "order = None, seed = None"),
    ],
)
def test_rows_of_something_else_are_refused_before_anything_runs(tmp_path, rows, found):
    (tmp_path / "toy.csv").write_text(rows)
    with pytest.raises(ConfigError, match=f"toy.csv: has a row of {found}, not of this experiment"):
        conduct.run("toy", TOY, "smoke", tmp_path, num_workers=1)
    assert (tmp_path / "toy.csv").read_text() == rows and not list(tmp_path.rglob("tape"))


def test_every_worker_is_pinned_to_a_core_of_its_own(tmp_path):
    found = list(
        workers.run_units(
            TOY, Size(2), toy_units(Size(2)), tmp_path, num_workers=len(workers.cores())
        )
    )
    assert {tuple(unit.values()) for unit, _ in found} == {(1, 0), (1, 1), (PROPER, 0), (PROPER, 1)}
    assert all(row["cores"] == 1 and row["core"] in workers.cores() for _, (row,) in found)


def test_a_failure_in_a_worker_is_raised_here(tmp_path):
    with pytest.raises(RuntimeError, match="stopped"):
        list(
            workers.run_units(
                TOY, Size(2, forbidden=0), toy_units(Size(2)), tmp_path, num_workers=2
            )
        )


def test_bad_options_are_one_line():
    with pytest.raises(ConfigError, match="--workers 0: must be above 0"):
        tabular.main(["order-k", "--workers", "0"])
    with pytest.raises(ConfigError, match="propositions has none"):
        tabular.main(["propositions", "--benchmark"])
    with pytest.raises(SystemExit) as exit_:
        tabular.main(["no-such-experiment"])
    assert exit_.value.code == 2


def test_every_experiment_has_the_three_scales_and_units_that_can_be_told_apart():
    for experiment in EXPERIMENTS.values():
        assert set(experiment.scales) == {"smoke", "small", "paper"}
        for scale in experiment.scales.values():
            units = experiment.units(scale)
            assert len({tuple(unit.items()) for unit in units}) == len(units) > 0


def test_the_paper_scale_is_the_papers():
    paper = order_k.SCALES["paper"]
    assert (paper.num_models, paper.num_updates, paper.num_pairs, paper.batch_size) == (
        120,
        500_000,
        100_000,
        50,
    )
    assert len(order_k.units(paper)) == 6 * 120
    paper = capacity.SCALES["paper"]
    assert paper.num_policies * paper.num_variants == 100_000
    assert len(capacity.units(paper)) == 10 * 10 * 2


def test_the_interval_is_students():
    mean, width = mean_and_interval([1.0, 2.0, 3.0])
    assert (mean, width) == (2.0, pytest.approx(4.302653 / math.sqrt(3), rel=1e-6))
    assert math.isnan(mean_and_interval([1.0])[1])


def test_streamed_components_are_those_of_the_whole():
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(90, 40)) @ np.diag(1.1 ** -np.arange(40)) + rng.normal(size=40)
    mean, components = principal_components(lambda: np.array_split(rows, 7), num_passes=40)
    exact = np.linalg.svd(rows - rows.mean(axis=0))[2][:2]
    np.testing.assert_allclose(mean, rows.mean(axis=0), rtol=0, atol=1e-12)
    np.testing.assert_allclose(np.abs(np.sum(components * exact, axis=1)), 1.0, rtol=0, atol=1e-6)


def test_the_diameter_is_the_largest_distance():
    assert diameter(np.array([[0.0, 0.0], [3.0, 4.0], [1.0, 1.0]])) == pytest.approx(5.0)


def test_the_columns_of_a_class_say_where_its_models_ended(tmp_path):
    """Two models a group that end 3-4-5 apart, in a space of seven dimensions of which they use
    two.
    """
    rng = np.random.default_rng(0)
    plane = np.linalg.qr(rng.normal(size=(7, 2)))[0].T
    ends = np.array([[0, 0], [3, 4], [10, 0], [10, 5.0]])
    for seed, end in enumerate(ends):
        vectors = np.outer([0.0, 1.0], end @ plane)
        np.savez(tmp_path / f"order-2-seed-{seed}.npz", vectors=vectors, scores=[0, 1])
    rows = [{"order": 2, "seed": seed} for seed in range(4)]
    scale = dataclasses.replace(order_k.SCALES["smoke"], orders=(2,))
    new = order_k.complete(scale, rows, tmp_path)
    assert [row["group"] for row in new] == [0, 0, 2, 2]
    np.testing.assert_allclose([row["diameter"] for row in new], 5.0, rtol=1e-12)
    np.testing.assert_allclose([row["plane_diameter"] for row in new], 5.0, rtol=1e-9)


@pytest.mark.parametrize("check", ["PVE 6", "AVE 5", "AVE corollary 3"])
def test_a_statement_holds_and_its_check_sees_a_broken_operator(check, tmp_path):
    (row,) = propositions.run(propositions.SCALES["smoke"], {"check": check, "seed": 0}, tmp_path)
    assert row["cases"] == 8 and row["violations"] == 0
    assert row["violations_when_broken"] > 0
    assert row["worst_margin"] > -propositions.ROUNDING


def test_the_theorems_hold_and_their_check_sees_a_broken_operator(tmp_path):
    unit = {"check": "AVE theorem 1 and AVE theorem 2", "seed": 0}
    rows = propositions.run(propositions.Scale(1, 32), unit, tmp_path)
    assert [row["statement"] for row in rows] == ["AVE theorem 1", "AVE theorem 2"]
    for row in rows:
        assert row["cases"] == 32 and row["violations"] == 0
        assert row["violations_when_broken"] > 0


def test_nan_is_a_violation():
    row = propositions._row("x", np.array([1.0, np.nan]), [np.array([0.5])])
    assert (row["violations"], row["violations_when_broken"]) == (1, 0)


def test_the_bound_of_the_theorems_is_the_linear_programs():
    """Two functions at 0 and 1, a value at 2 (both states): reached with weights -1, 2, so c = 3;
    or missed by 1.
    """
    functions, values = np.array([[0.0, 0.0], [1.0, 1.0]]), np.array([[2.0, 2.0]])

    def bound(tolerance, shrink):
        return propositions.theorem_bound(tolerance, shrink, functions, values)

    assert bound(0.1, 0.5) == pytest.approx(3 * 0.1 / 0.5)
    assert bound(10.0, 0.5) == pytest.approx((10.0 + 2 * 0.5 * 1.0) / 0.5)


def test_a_path_is_counted_by_how_far_its_moves_go():
    squares = trajectories._squares().tolist()
    path = [squares.index(list(square)) for square in ((1, 1), (1, 2), (1, 2), (2, 3), (2, 5))]
    counts = trajectories._count_moves(np.array([path]))
    assert counts == {"stay": 0.25, "neighbour": 0.25, "diagonal": 0.25, "farther": 0.25}


def test_what_is_left_of_a_way_to_the_environment_is_told_by_direction():
    """Models that have gone all the way along what two policies tell apart, and nowhere else."""
    scale = dataclasses.replace(class_size.SCALES["smoke"], num_actions=1)
    world = class_size.make_world("random", scale, seed=0)
    action, value = np.zeros((2, 4), int), np.random.default_rng(0).normal(size=(2, 4))
    seen = pinning.directions(value)[:1]
    starts = world.transition + np.random.default_rng(1).normal(size=(3, 1, 4, 4))
    ends = starts - (starts - world.transition) @ seen.T @ seen
    share = class_size.remaining(world, action, value, starts, ends)
    np.testing.assert_allclose(share, np.broadcast_to([0.0, 1.0, 1.0], (1, 4, 3)), atol=1e-12)


def test_the_bit_changes_no_value_and_nobody_acts_on_it():
    scale = class_size.SCALES["smoke"]
    name = "random x bit"
    plain, doubled = (class_size.make_world(n, scale, seed=0) for n in ("random", name))
    action = class_size.draw_policies(name, doubled, 5, seed=0)
    np.testing.assert_array_equal(action[:, ::2], action[:, 1::2])
    np.testing.assert_allclose(doubled.transition.sum(axis=-1), 1.0)
    value = class_size.policy_values(plain, action[:, ::2])
    np.testing.assert_allclose(
        class_size.policy_values(doubled, action), np.repeat(value, 2, axis=1), rtol=1e-10
    )


def test_the_faults_are_named_and_the_exact_operators_have_none():
    assert len(margins.BROKEN) == len(margins.Faults._fields)
    assert set(margins.EXACT) == {0}
    with jax.enable_x64(True):
        assert margins.distance(np.array([[0.0]]), np.array([[1.0], [3.0]])) == 3.0


def test_an_experiment_runs_in_a_pool_of_one_thread(monkeypatch, tmp_path):
    """Two batched solves at once never end in a pool of two."""
    seen = []
    monkeypatch.setattr(conduct, "run", lambda *arguments: seen.append(os.environ["PJRT_NPROC"]))
    monkeypatch.setenv("PJRT_NPROC", "2")
    assert tabular.main(["propositions", "--out", str(tmp_path), "--workers", "1"]) == 0
    assert seen == ["1"]
