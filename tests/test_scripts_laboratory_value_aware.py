"""The experiments of value-aware and approximate value equivalence at their smoke scales: rows, tables and figures."""

import math

import numpy as np
import pytest

from scripts.laboratory import ave, calibration, cliffwalk, garnet
from scripts.laboratory.registry import EXPERIMENTS


def conclude(experiment, units, tmp_path):
    """Returns (rows, summary) of some units of the smoke scale, and draws them."""
    scale = experiment.scales["smoke"]
    rows = [unit | row for unit in units for row in experiment.run(scale, unit, tmp_path)]
    figure = experiment.draw(scale, rows, tmp_path)
    figure.savefig(tmp_path / "figure.svg")
    assert (tmp_path / "figure.svg").stat().st_size > 5000
    return rows, experiment.summarise(scale, rows)


@pytest.mark.parametrize("module, rank", [(garnet, 2), (cliffwalk, 2)])
def test_losses_against_temperature(module, rank, tmp_path):
    units = [{"loss": loss, "rank": rank} for loss in ("muzero", "itervaml-calibrated")]
    rows, summary = conclude(module.EXPERIMENT, units, tmp_path)
    assert len(rows) == 2 * 2 * 2 and all(math.isfinite(row["value_error"]) for row in rows)
    assert [(row["loss"], row["seeds"]) for row in summary] == [("itervaml-calibrated", 2)] * 2 + [("muzero", 2)] * 2
    cell = [row["value_error"] for row in rows if (row["loss"], row["temperature"]) == ("muzero", 0.1)]
    assert summary[2]["value_error"] == pytest.approx(np.mean(cell))


def test_calibration_tells_an_unbiased_loss_from_a_biased_one(tmp_path):
    """Of proposition 4, with 1000 windows of two problems: the measured error is the closed form's, up to noise."""
    units = [dict(statement="4", loss=loss, num_samples=n) for loss, n in [("td", 1), ("muzero", 1)]]
    units.append(dict(statement="5, connected", loss="itervaml-deterministic", num_samples=1))
    rows, (td, muzero, deterministic) = conclude(calibration.EXPERIMENT, units, tmp_path)
    assert len(rows) == 6
    assert td["exact_error"] < 1e-12 and deterministic["exact_error"] < 1e-12
    assert muzero["exact_error"] > 0.2
    assert max(row["gap"] for row in rows) < 0.15


def test_ave_fills_its_histogram(tmp_path):
    rows, summary = conclude(ave.EXPERIMENT, ave.units(ave.SCALES["smoke"]), tmp_path)
    assert [(row["rank"], row["functions"], row["seeds"]) for row in summary] == [(2, 1, 2), (2, 3, 2)]
    assert all(-1e-6 <= row["planning"] <= 1 + 1e-6 and row["loss"] > 0 for row in rows)


@pytest.mark.parametrize("name", ["ave", "calibration", "cliffwalk", "garnet"])
def test_units_are_distinct_and_the_paper_is_the_largest(name):
    experiment = EXPERIMENTS[name]
    sizes = [len(experiment.units(experiment.scales[scale])) for scale in ("smoke", "small", "paper")]
    assert sizes == sorted(sizes)
    units = [tuple(unit.values()) for unit in experiment.units(experiment.scales["paper"])]
    assert len(set(units)) == len(units)
