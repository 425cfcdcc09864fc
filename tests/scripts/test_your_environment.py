"""The environment of docs/your-environment.md, as a user runs it."""

import re
import sys
from pathlib import Path

import gymnasium
import pytest

from scripts import train

PAGE = Path(__file__).resolve().parents[2] / "docs" / "your-environment.md"


@pytest.fixture
def catch(tmp_path, monkeypatch):
    """Makes the page's module one of the current directory."""
    (code,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    (tmp_path / "catch.py").write_text(code, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    yield
    sys.modules.pop("catch", None)
    for name in ("Catch-v0", "SlipperyCatch-v0"):
        gymnasium.registry.pop(name, None)


@pytest.mark.parametrize(
    "arguments",
    [
        ("cartpole", "--env.name", "catch:Catch-v0"),
        ("minatar", "--env.name", "catch:Catch-v0", "--env.kwargs", "size=10", "pixels=true"),
        ("cartpole", "--env.name", "catch:SlipperyCatch-v0"),
    ],
)
def test_what_the_page_says_passes_the_checks(catch, call, arguments):
    code, output, error = call(train, *arguments, "--dry-run")
    assert (code, error) == (0, "") and "catch:" in output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--env.name", "Catch-v0"), "an own one is module:Catch-v0"),
        (("--env.name", "catch:Catch-v0", "--env.kwargs", "size"), "'size', allowed: name=value"),
        (
            ("--env.name", "catch:Catch-v0", "--env.kwargs", "sise=3"),
            "it cannot be made: TypeError: .*sise",
        ),
        (("--env.name", "pong", "--env.kwargs", "mode=1"), "Atari games have fields of their own"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(catch, call, arguments, message):
    code, _, error = call(train, "cartpole", *arguments, "--dry-run")
    assert code == 2 and re.search(message, error) and len(error.splitlines()) == 1
