"""The experiments of value-aware and approximate value equivalence at their smoke scales: rows,
tables and figures.
"""

import numpy as np
import pytest

from scripts.laboratory import ave, calibration, cliffwalk, garnet
from scripts.laboratory.registry import EXPERIMENTS
from scripts.laboratory.table import parse_cell

pytestmark = pytest.mark.usefixtures("quick_compilation")


def conclude(experiment, units, tmp_path):
    """Returns (rows, summary, figure) of some units of the smoke scale."""
    scale = experiment.scales["smoke"]
    rows = [unit | row for unit in units for row in experiment.run(scale, unit, tmp_path)]
    return rows, experiment.summarise(scale, rows), experiment.draw(scale, rows, tmp_path)


@pytest.mark.parametrize("module, metric", [(garnet, "value_error"), (cliffwalk, "planning")])
def test_a_loss_against_temperature(module, metric, tmp_path):
    unit = {"loss": "itervaml-calibrated", "rank": 2}
    rows, summary, figure = conclude(module.EXPERIMENT, [unit], tmp_path)
    assert [row["seed"] for row in rows] == [0, 1, 0, 1]
    assert [(row["temperature"], row["seeds"]) for row in summary] == [
        (rows[i]["temperature"], 2) for i in (0, 2)
    ]
    means = [(rows[i][metric] + rows[i + 1][metric]) / 2 for i in (0, 2)]
    assert [row[metric] for row in summary] == pytest.approx(means)
    assert figure.axes[0].lines[0].get_ydata() == pytest.approx(means)


def test_losses_come_in_one_order_whatever_finished_first(tmp_path):
    cells = [(loss, temperature) for loss in ("muzero", "likelihood") for temperature in (1.0, 0.1)]
    rows = [dict(rank=2, loss=loss, temperature=t, seed=0, value_error=t) for loss, t in cells]
    rows = [row | {"model_error": 0.0, "entropy": 0.0} for row in rows]
    found = [(row["loss"], row["temperature"]) for row in garnet.EXPERIMENT.summarise(None, rows)]
    assert found == [("likelihood", 0.1), ("likelihood", 1.0), ("muzero", 0.1), ("muzero", 1.0)]


def test_calibration_tells_an_unbiased_minimiser_from_a_biased_one(tmp_path):
    """With 1000 windows of two problems: the measured minimiser is the closed form's,
    up to noise.
    """
    units = [
        dict(statement="prop. 4", loss="muzero", num_samples=1),
        dict(statement="prop. 5, connected", loss="itervaml-deterministic", num_samples=1),
    ]
    rows, (muzero, deterministic), figure = conclude(calibration.EXPERIMENT, units, tmp_path)
    assert len(rows) == 4
    assert deterministic["exact_error"] < 1e-12
    assert muzero["exact_error"] > 0.2
    assert max(row["gap"] for row in rows) < 0.15
    assert [bar.get_width() for bar in figure.axes[0].patches] == [
        deterministic["exact_error"],
        muzero["exact_error"],
    ]


@pytest.mark.parametrize("m", [2, 3])
def test_the_minimiser_of_muzeros_loss_after_m_steps_is_a_weighted_mean(m, tmp_path):
    """With one rollout V(y) is the mean of the targets of x, weighted by chances of y."""
    scale = calibration.SCALES["smoke"]
    unit = dict(statement="prop. 4", loss=f"muzero-m{m}", num_samples=1)
    rows = calibration.run(scale, unit, tmp_path)
    for row in rows:
        _, transition, reward, after = calibration._problem(
            row["seed"], "prop. 4", scale.num_states
        )
        truth = reward + calibration.DISCOUNT * transition @ after
        chance = np.linalg.matrix_power(transition, m)
        found = chance.T @ (chance @ truth) / chance.sum(axis=0)
        error = np.sqrt(np.mean((found - truth) ** 2)) / np.std(truth)
        assert row["exact_error"] == pytest.approx(error, rel=1e-9)


def test_ave_fills_its_histogram(tmp_path):
    rows, (cell, other), figure = conclude(ave.EXPERIMENT, ave.units(ave.SCALES["smoke"]), tmp_path)
    assert [(c["rank"], c["functions"], c["seeds"]) for c in (cell, other)] == [
        (2, 1, 2),
        (2, 3, 2),
    ]
    assert all(-1e-6 <= row["planning"] <= 1 + 1e-6 and row["loss"] > 0 for row in rows)
    shown = figure.axes[0].images[0].get_array().ravel().tolist()
    assert shown == pytest.approx([cell["planning"], other["planning"]])


@pytest.mark.parametrize("name", sorted(EXPERIMENTS))
def test_units_are_found_again_in_the_csv(name):
    experiment = EXPERIMENTS[name]
    units = experiment.units(experiment.scales["small"])
    assert [{key: parse_cell(str(cell)) for key, cell in unit.items()} for unit in units] == units
