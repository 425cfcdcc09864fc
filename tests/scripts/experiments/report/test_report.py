"""report.py: the paper's own table, the page, what is refused."""

import csv
import html.parser
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from configs.schema import ConfigError
from scripts import report
from scripts.experiments import suite_directory
from scripts.experiments.report import page, tables
from scripts.experiments.results import Results
from tests.scripts.experiments.made_up import UNCHECKED, trial

ROOT = Path(__file__).resolve().parents[4]
PAPER = ROOT / "results" / "paper_table3.csv"


@pytest.fixture(scope="module")
def paper(tmp_path_factory):
    """Returns (directory, completed process) of the real program on the paper's table."""
    path = tmp_path_factory.mktemp("paper") / "report"
    command = [sys.executable, "scripts/report.py", str(PAPER), "--out", str(path)]
    return path, subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False
    )


def table(path, name):
    with (path / f"{name}.csv").open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_the_papers_table_gives_the_papers_p(paper):
    path, done = paper
    assert done.returncode == 0, done.stderr
    raw, normalised = table(path, "tests")
    assert (raw["games"], normalised["games"]) == ("57", "57")
    assert float(raw["p"]) == pytest.approx(0.04447, abs=5e-6)
    assert float(normalised["p"]) == pytest.approx(0.217, abs=5e-4)


def test_the_papers_table_gives_the_papers_medians(paper):
    found = {
        (row["arm"], row["over games"]): float(row["normalised score"])
        for row in table(paper[0], "aggregates")
    }
    expected = {"median": (4.858, 5.032), "interquartile mean": (5.651, 6.272)}
    for name, values in expected.items():
        assert (found["muzero", name], found["muzero+past", name]) == pytest.approx(
            values, abs=5e-4
        )


def test_what_needs_single_seeds_is_not_available_for_the_paper(paper):
    intervals = [(row["95 %: low"], row["95 %: high"]) for row in table(paper[0], "aggregates")]
    assert intervals == [("not available",) * 2] * 6
    effects = {row["difference to muzero"]: row["value"] for row in table(paper[0], "effects")}
    assert effects["probability of improvement"] == "not available"
    assert float(effects["normalised score, median"]) == pytest.approx(5.032 - 4.858, abs=1e-3)
    html = (paper[0] / "report.html").read_text()
    for title in (
        "Performance profiles",
        "Median normalised score over games, while training",
        "Learning curves",
    ):
        assert re.search(
            rf"<h2>{title}[^<]*</h2>\s*<figure><p class=missing>not available", html
        ), title


def test_every_game_of_the_paper_is_in_the_table_with_its_error(paper):
    games = {row["game"]: row for row in table(paper[0], "games")}
    assert len(games) == 57 and {row["counts"] for row in games.values()} == {UNCHECKED}
    alien = games["alien"]
    assert (float(alien["muzero+past"]), float(alien["muzero+past: standard error"])) == (
        52821,
        1918,
    )
    assert float(alien["muzero: normalised"]) == pytest.approx((38698 - 227.8) / (7127.7 - 227.8))
    assert "Proper Value Equivalence" in (paper[0] / "report.md").read_text()


class Links(html.parser.HTMLParser):
    """Collects what a browser would fetch."""

    def __init__(self):
        super().__init__()
        self.found, self.tags = [], set()

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.found += [
            value
            for name, value in attrs
            if name in {"src", "href", "srcset", "data", "xlink:href"}
        ]


def test_the_page_asks_no_host_for_anything_and_fits_a_phone(paper):
    html = (paper[0] / "report.html").read_text()
    links = Links()
    links.feed(html)
    assert links.found and all(link.startswith(("#", "data:")) for link in links.found)
    assert not re.search(r"@import|url\((?!#)", html)
    assert not links.tags & {"script", "iframe", "object", "embed", "img", "base"}
    assert "default-src 'none'" in html and 'content="width=device-width' in html
    # The bars; a table wider than the screen scrolls in a box of its own
    assert html.count("<svg") == 1
    assert html.count("<table>") == html.count("<div class=scroll>") == 6  # no trials, no audits


def test_a_report_says_that_the_trials_ran_at_several_commits():
    comments = ("suite: {}", "commit: a", "commit: b")
    assert suite_directory.several_commits(comments[:2]) == []
    assert suite_directory.several_commits(comments)[0].startswith(
        "The trials ran at 2 commits: their wall times"
    )


def test_the_plots_are_files_that_the_markdown_shows(compared, tmp_path):
    from scripts.experiments.report import plots

    drawn_plots = plots.plots(compared)
    page.write(tmp_path, "t", [], [], drawn_plots)
    shown = re.findall(r"!\[[^\]]+\]\(([^)]+)\)", (tmp_path / "report.md").read_text())
    assert shown == [plot.file for plot in drawn_plots] and len(set(shown)) == len(drawn_plots)
    assert all((tmp_path / name).read_text().startswith("<svg") for name in shown)
    assert "minatar-breakout-v1.svg" in shown


def test_markdown_shows_missing_numbers_as_such():
    text = page.as_markdown(
        "t", [], [tables.Table("n", "T", ("a", "b"), [("x", None), ("y", 12345.6)])]
    )
    assert "| x | not available |\n| y | 12,346 |" in text


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["missing.csv"], "missing.csv: cannot be read"),
        (
            [PAPER, "--kind", "greedy"],
            "--kind greedy: nothing to compare by in this file; it has training-final-200",
        ),
        (
            [PAPER, "--baseline", "dqn"],
            "--baseline dqn: nothing to compare by in this file; it has muzero, muzero+past",
        ),
        ([PAPER, "--resamples", "0"], "--resamples = 0: must be above 0"),
    ],
)
def test_bad_arguments_are_refused_before_anything_is_written(tmp_path, arguments, message):
    with pytest.raises(ConfigError, match=re.escape(message)):
        report.main([*map(str, arguments), "--out", str(tmp_path / "report")])
    assert list(tmp_path.iterdir()) == []


def test_a_report_says_first_that_trials_are_missing():
    stated = json.dumps({"games": ["pong"], "seeds": [1, 2], "arms": {"a": {}, "b": {}}})
    rows = [trial(arm=arm, seed=seed) for seed in (1, 2) for arm in ("a", "b")]

    def line(*comments, rows):
        return suite_directory.what_is_missing(PAPER, Results(comments, tuple(rows)))

    assert line(f"suite: {stated}", rows=rows[:2]) == [
        "2 of 4 trials are in the file: nothing can be concluded yet."
    ]
    # The paper's table states no suite
    assert line(f"suite: {stated}", rows=rows) == line(rows=rows) == []
