"""The quick half of the fault harness, and the harness itself: a promise that is broken is told."""

import csv
from pathlib import Path

import pytest

from configs.schema import ConfigError
from scripts import chaos
from scripts.faults import injection
from scripts.faults.registry import Fault, Outcome

FAULTS = injection.load_faults()
QUICK = [fault for fault in FAULTS.values() if fault.is_quick]


@pytest.mark.parametrize("fault", QUICK, ids=lambda fault: fault.name)
def test_the_promise_holds(fault):
    outcome = injection.inject(fault).outcome
    assert outcome.held, outcome.happened


def test_there_are_quick_and_slow_faults_each_with_a_promise():
    assert len(QUICK) >= 14 and len(FAULTS) >= len(QUICK) + 12
    assert all(fault.injected and fault.promised for fault in FAULTS.values())


def fault_of(happen):
    return Fault("two-runs-in-one-directory", "something", "a promise", True, happen)


def test_an_exception_of_the_harness_is_no_promise_held():
    outcome = injection.inject(fault_of(lambda folder: 1 / 0)).outcome
    assert not outcome.held and outcome.happened == "ZeroDivisionError: division by zero"


def test_the_table_keeps_the_rows_of_other_days(tmp_path):
    broken = injection.Row(fault_of(None), Outcome(False, "lost | silent", frames_lost=3)).cells()
    injection.write_table(tmp_path / "new" / "table", [broken, ("nan-reward", *broken[1:])])
    mended = injection.Row(fault_of(None), Outcome(True, "told")).cells()
    injection.write_table(tmp_path / "new" / "table", [mended])
    with (tmp_path / "new" / "table.csv").open() as file:
        rows = [
            (row["fault"], row["happened"], row["frames lost"], row["held"])
            for row in csv.DictReader(file)
        ]
    assert rows == [
        ("nan-reward", "lost / silent", "3", "NO"),
        ("two-runs-in-one-directory", "told", "", "yes"),
    ]
    lines = (tmp_path / "new" / "table.md").read_text().splitlines()
    assert len(lines) == 4 and all(line.count("|") == 8 for line in lines)


def test_the_page_shows_the_table_that_the_harness_wrote():
    root = Path(__file__).resolve().parents[3]
    page = (root / "docs" / "reliability.md").read_text()
    shown = page.partition("<!-- results/chaos.md -->\n")[2].partition("<!-- end -->")[0]
    assert shown == (root / "results" / "chaos.md").read_text() != ""
    assert "| NO |" not in shown
    assert {line.split(" | ")[0].removeprefix("| ") for line in shown.splitlines()[2:]} <= set(
        FAULTS
    )


def test_slow_faults_alone_are_no_quick_ones():
    with pytest.raises(
        ConfigError, match="--only sigterm: none of them is quick; leave out --quick"
    ):
        chaos.main(["--only", "sigterm", "--quick"])
