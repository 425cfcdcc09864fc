"""Every command line of the pages is one that its program takes."""

import importlib
import re
import shlex
from pathlib import Path

import pytest
import tyro

ROOT = Path(__file__).resolve().parents[1]
PLACEHOLDERS = {"EXPERIMENT": "order-k", "{smoke,small,paper}": "small"}


def command_lines():
    """Yields (page, program, arguments) of every call of a program of ours in a fenced block."""
    for page in ("README.md", "PERFORMANCE.md", "results/atari-trials.md"):
        for block in re.findall(r"^```\w*\n(.*?)^```", (ROOT / page).read_text(), re.S | re.M):
            for line in block.replace("\\\n", " ").splitlines():
                for call in re.findall(r"python scripts/(\w+)\.py(.*)", line):
                    words = shlex.split(call[1], comments=True)
                    yield page, call[0], [PLACEHOLDERS.get(word, word) for word in words]


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
    monkeypatch.setattr(tyro.extras, "overridable_config_cli", until_parsed(tyro.extras.overridable_config_cli))


def test_the_pages_hold_command_lines():
    programs = {program for _, program, _ in LINES}
    assert programs >= {"train", "resume", "evaluate", "suite", "report", "look", "tabular", "benchmark", "memory"}


@pytest.mark.parametrize("page, program, arguments", LINES, ids=[f"{line[1]}-{n}" for n, line in enumerate(LINES)])
def test_every_command_line_parses(page, program, arguments, stop_when_parsed):
    main = importlib.import_module(f"scripts.{program}").main
    if "--help" in arguments:
        with pytest.raises(SystemExit) as end:
            main(arguments)
        assert end.value.code == 0
    else:
        with pytest.raises(Parsed):
            main(arguments)


def test_a_wrong_command_line_would_be_seen(stop_when_parsed):
    with pytest.raises(SystemExit) as end:
        importlib.import_module("scripts.look").main(["tree", "runs/RUN", "--seeds", "3"])
    assert end.value.code == 2
