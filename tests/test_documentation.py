"""The pages hold true: every command line is one that its program takes, every file they name is
there.
"""

import importlib
import re
import shlex
import tomllib
from pathlib import Path

import pytest
import tyro
import yaml

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
PAGES += [ROOT / "results" / name for name in ("atari-trials.md", "learning-trials.md")]
PLACEHOLDERS = {"EXPERIMENT": "order-k", "{smoke,small,paper}": "small", "$s": "100"}
# A call of a program, in the checkout or installed: its name and its arguments.
PROGRAM = r"(?:python (?:/app/)?scripts/(?=\w+\.py)|(?:^|[ ;(])muzero-(?!pve\b))(\w+)(?:\.py)?(.*)"
MAX_README_LINES = 150


def relative(path):
    return path.relative_to(ROOT).as_posix()


def command_lines():
    """Yields (page, program, arguments) of every call of a program of ours in a fenced block."""
    for page in PAGES:
        for block in re.findall(r"^```\w*\n(.*?)^```", page.read_text(), re.S | re.M):
            for line in block.replace("\\\n", " ").splitlines():
                for program, arguments in re.findall(PROGRAM, line):
                    # Of a loop
                    words = shlex.split(arguments.partition("; done")[0], comments=True)
                    yield relative(page), program, [PLACEHOLDERS.get(word, word) for word in words]


LINES = list(command_lines())


class Parsed(Exception):
    """The program has taken its arguments."""


@pytest.fixture
def stop_when_parsed(monkeypatch):
    def until_parsed(parse):
        def wrapper(*args, **kwargs):
            parse(*args, **kwargs)
            raise Parsed

        return wrapper

    monkeypatch.setattr(tyro, "cli", until_parsed(tyro.cli))
    monkeypatch.setattr(
        tyro.extras, "overridable_config_cli", until_parsed(tyro.extras.overridable_config_cli)
    )


def test_the_pages_hold_command_lines():
    programs = {program for _, program, _ in LINES}
    assert programs >= {
        "train",
        "resume",
        "evaluate",
        "suite",
        "report",
        "look",
        "tabular",
        "benchmark",
        "memory",
    }
    assert programs >= {"export", "curves", "chaos", "emulators"}
    assert len(PAGES) >= 12


@pytest.mark.parametrize(
    "page, program, arguments", LINES, ids=[f"{line[1]}-{n}" for n, line in enumerate(LINES)]
)
def test_every_command_line_parses(page, program, arguments, stop_when_parsed):
    main = importlib.import_module(f"scripts.{program}").main
    if "--help" in arguments:
        with pytest.raises(SystemExit) as end:
            main(arguments)
        assert end.value.code == 0
    else:
        with pytest.raises(Parsed):
            main(arguments)


@pytest.mark.parametrize(
    "line",
    ["python scripts/look.py tree", "muzero-look tree", "x; python /app/scripts/look.py tree"],
)
def test_a_command_line_is_found(line):
    assert re.findall(PROGRAM, line) == [("look", " tree")]


def test_a_wrong_command_line_would_be_seen(stop_when_parsed):
    with pytest.raises(SystemExit) as end:
        importlib.import_module("scripts.look").main(["tree", "runs/RUN", "--seeds", "3"])
    assert end.value.code == 2


def links(text):
    """Returns the targets of links and images that are no addresses of the web."""
    return [target for target in re.findall(r"\]\(([^)\s]+)\)", text) if "://" not in target]


def is_there(page, target):
    """Returns whether the file of a link exists, and the heading after its `#`."""
    name, _, heading = target.partition("#")
    path = page.parent / name if name else page
    return path.exists() and (not heading or heading in headings(path.read_text()))


def headings(text):
    """Returns the headings of a page as they are linked to."""
    titles = re.findall(r"^#+ (.*)$", text, re.M)
    return {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}


def named_files(text):
    """Returns the files of this repository that a page names with their folder; NAME stands for
    any.
    """
    folders = "muzero|actors|learner|configs|scripts|tests|docker|docs|results"
    found = re.findall(
        rf"(?<![\w/])((?:{folders})/[\w/.-]+\.(?:py|md|toml|csv|json|png|yaml|sh))\b", text
    )
    return [name for name in found if "NAME" not in name]


@pytest.mark.parametrize("page", PAGES, ids=relative)
def test_every_file_that_a_page_names_is_there(page):
    text = page.read_text()
    missing = [target for target in links(text) if not is_there(page, target)]
    missing += [name for name in named_files(text) if not (ROOT / name).exists()]
    assert missing == []


def test_a_missing_file_would_be_seen():
    assert links("[a](docs/none.md#part) [b](https://x.org) [c](#here)") == [
        "docs/none.md#part",
        "#here",
    ]
    readme = ROOT / "README.md"
    assert is_there(readme, "docs/usage.md#exit-codes") and is_there(readme, "#presets-measured")
    assert not is_there(readme, "docs/none.md") and not is_there(readme, "#none")
    assert named_files("`muzero/none.py`, /app/scripts/train.py, runs/results/x.csv") == [
        "muzero/none.py"
    ]


def named_definitions(text):
    """Yields (file, name) of every "`file.py`, `name`" of a page; of `Class.field` the class."""
    for file, names in re.findall(r"`([\w/]+\.py)`, ((?:`[\w.]+`(?: and |, )?)+)", text):
        yield from ((file, name.split(".")[0]) for name in re.findall(r"`([\w.]+)`", names))


def test_what_the_architecture_page_names_is_where_it_says():
    found = list(named_definitions((ROOT / "docs" / "architecture.md").read_text()))
    assert len(found) >= 8
    defines = r"^(?:class |def |    def )?{}\b"
    assert [
        (f, n) for f, n in found if not re.search(defines.format(n), (ROOT / f).read_text(), re.M)
    ] == []


def test_the_readme_is_short_and_names_every_page():
    text = (ROOT / "README.md").read_text()
    assert len(text.splitlines()) <= MAX_README_LINES
    assert {relative(page) for page in PAGES if page.parent == ROOT / "docs"} <= set(links(text))


def test_the_readme_counts_the_faults_that_were_injected():
    table = (ROOT / "results" / "chaos.md").read_text().splitlines()[2:]
    assert f"{len(table)} kinds of faults" in (ROOT / "README.md").read_text()
    assert all(line.endswith("| yes |") for line in table)


def test_the_citation_is_of_this_version_and_names_the_four_papers():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert citation["version"] == project["version"] and citation["title"].startswith(
        project["name"]
    )
    papers = {paper["title"]: paper["year"] for paper in citation["references"]}
    assert sorted(papers.values()) == [2020, 2021, 2022, 2025]
    assert all(
        author["family-names"] for paper in citation["references"] for author in paper["authors"]
    )
