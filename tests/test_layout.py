"""The plan of the house, read from the sources: who may import whom, what is documented, what no
file may name.
"""

import ast
import importlib
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from configs import presets

ROOT = Path(__file__).resolve().parents[1]
ROOMS = ("muzero", "actors", "learner", "configs", "scripts")
# of scripts, in the order in which they may import each other: only what stands further left
INNER_ROOMS = (
    "program", "playing", "training", "inspection", "experiments", "laboratory", "benchmarks",
    "faults",
)  # fmt: skip
MAX_ENTRY_LINES = 60
LEAF = "configs.schema"  # every room may import it: the settings, and the standard library alone
# scripts → {configs, actors, learner} → muzero → LEAF, and what each room must live without
FORBIDDEN = {
    "muzero": {
        "actors", "learner", "configs", "scripts", "ray", "gymnasium", "ale_py", "tensorboard",
        "tensorboardX", "time", "threading", "queue", "os", "io", "pathlib", "shutil", "tempfile",
        "json", "csv", "pickle", "multiprocessing", "subprocess", "socket", "logging", "orbax",
        "tyro", "rich", "imageio", "cv2",
    },
    "actors": {
        "learner", "configs", "scripts", "optax", "haiku", "rlax", "tensorboardX", "orbax", "tyro",
    },
    "learner": {
        "actors", "configs", "scripts", "gymnasium", "ale_py", "cv2", "ray", "tyro", "mctx",
    },
    "configs": {
        "jax", "haiku", "optax", "ray", "gymnasium", "muzero", "actors", "learner", "scripts",
    },
    "scripts": {"haiku", "orbax", "tensorboardX"},
}  # fmt: skip
# The bare loops there do by hand what one module does for the system
BENCHMARKS = ROOT / "scripts" / "benchmarks"
SOURCES = sorted(path for room in ROOMS for path in (ROOT / room).rglob("*.py"))
TEXTS = {".py", ".md", ".toml", ".txt", ".yaml", ".yml", ".json", ".sh", ".cfg", ".ini", ".csv"}
PRIVATE = {
    ".git",
    ".venv",
    "runs",
    "build",
    "__pycache__",
    ".pytest_cache",
    ".ruff_cache",
    ".hypothesis",
}


def relative(path):
    return path.relative_to(ROOT).as_posix()


def parse(path):
    return ast.parse(path.read_text(encoding="utf-8"))


def imports(tree):
    """Yields (line, whole dotted module) of every import, wherever it stands."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.lineno, "." * node.level + (node.module or "")


def offences(room, source):
    """Returns `line: module` of what a module of `room` may not import."""
    return [
        f"{line}: {name}"
        for line, name in imports(ast.parse(source))
        if name != LEAF and name.split(".")[0] in FORBIDDEN[room] | {""}  # "" is a relative import
    ]


def module(path):
    return ".".join(path.relative_to(ROOT).with_suffix("").parts)


MODULES = {module(path): path for path in SOURCES}
ENTRY_POINTS = sorted(
    path for path in (ROOT / "scripts").glob("*.py") if path.name != "__init__.py"
)


def imported_modules(path, source=None):
    """Returns our own modules that a file imports, wherever the import stands."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8") if source is None else source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found & MODULES.keys()


def backward_arrows(path, source=None):
    """Returns the modules that a file of an inner room of `scripts` may not import: rooms further
    right, programs.
    """

    def place(name):
        return INNER_ROOMS.index(name.split(".")[1]) if name.count(".") > 1 else len(INNER_ROOMS)

    ours = {name for name in imported_modules(path, source) if name.startswith("scripts.")}
    return sorted(
        name for name in ours if place(name) > place(module(path)) or MODULES[name] in ENTRY_POINTS
    )


def test_the_inner_rooms_of_scripts_are_there_and_hold_all_that_is_no_program():
    folders = {path.parent.name for path in (ROOT / "scripts").glob("*/__init__.py")}
    assert folders == set(INNER_ROOMS)
    assert len(ENTRY_POINTS) >= 12
    assert all(
        "main" in {name for name, _ in public_definitions(parse(path))} for path in ENTRY_POINTS
    )


@pytest.mark.parametrize(
    "path", [path for path in SOURCES if path.parts[len(ROOT.parts)] == "scripts"], ids=relative
)
def test_no_arrow_between_rooms_runs_backwards_and_nothing_imports_a_program(path):
    assert backward_arrows(path) == []


@pytest.mark.parametrize(
    "file, source",
    [
        ("scripts/playing/video.py", "from scripts.training import session"),
        ("scripts/training/session.py", "def f():\n    from scripts.inspection import views"),
        ("scripts/resume.py", "from scripts import train"),
        ("scripts/faults/runs.py", "import scripts.train"),
    ],
)
def test_a_backward_arrow_would_be_seen(file, source):
    assert len(backward_arrows(ROOT / file, source)) == 1


def test_the_tests_mirror_the_rooms():
    folders = {
        path.parent.relative_to(ROOT / "tests") for path in (ROOT / "tests").rglob("test_*.py")
    }
    assert len(folders) > 10
    assert [folder.as_posix() for folder in folders if not (ROOT / folder).is_dir()] == []


def test_the_records_know_nothing_of_the_learner_they_are_of():
    records = [path for path in SOURCES if path.parent == ROOT / "learner" / "records"]
    assert len(records) > 7
    assert {
        name for path in records for name in imported_modules(path) if name.startswith("learner.")
    } <= {module(path) for path in records}


def cycle(arrows):
    """Returns the modules of one circle of imports, in order; [] if there is none."""
    finished, way = set(), []

    def visit(name):
        if name in way:
            return way[way.index(name) :]
        if name in finished:
            return []
        way.append(name)
        found = next((found for other in sorted(arrows[name]) if (found := visit(other))), [])
        way.pop()
        finished.add(name)
        return found

    return next((found for name in sorted(arrows) if (found := visit(name))), [])


def test_no_files_import_each_other_on_any_way_around():
    assert cycle({name: imported_modules(path) for name, path in MODULES.items()}) == []
    assert cycle({"a": {"b"}, "b": {"c"}, "c": {"d", "b"}, "d": set()}) == ["b", "c"]


@pytest.mark.parametrize("path", ENTRY_POINTS, ids=relative)
def test_a_program_is_options_and_a_call(path):
    assert len(path.read_text(encoding="utf-8").splitlines()) <= MAX_ENTRY_LINES


def system_sources():
    return [path for path in SOURCES if BENCHMARKS not in path.parents]


def test_the_rooms_are_there():
    assert len(SOURCES) > 35
    assert {path.relative_to(ROOT).parts[0] for path in SOURCES} == set(ROOMS)


@pytest.mark.parametrize("path", SOURCES, ids=relative)
def test_a_module_imports_only_what_its_room_may(path):
    assert offences(path.relative_to(ROOT).parts[0], path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    "room, source",
    [
        ("muzero", "import time"),
        ("muzero", "def f():\n    from ray.util import x"),
        ("actors", "from learner.records.metrics import Progress"),
        ("learner", "import actors.pool as p"),
        ("configs", "import jax.numpy as jnp"),
        ("muzero", "from configs.checks import check"),
        ("actors", "from configs import presets"),
        ("learner", "from . import state"),
    ],
)
def test_the_rule_would_see_an_offence(room, source):
    assert len(offences(room, source)) == 1


def test_the_settings_are_a_leaf_that_every_room_may_import():
    names = {name.split(".")[0] for _, name in imports(parse(ROOT / "configs" / "schema.py"))}
    assert "dataclasses" in names and names <= sys.stdlib_module_names
    assert offences("muzero", "from configs.schema import LossConfig") == []


@pytest.mark.parametrize(
    "package, user",
    [("mctx", "muzero/search.py"), ("orbax", "learner/records/checkpoint_files.py")],
)
def test_one_module_knows_a_package(package, user):
    found = {
        path: {name.split(".")[0] for _, name in imports(parse(path))} for path in system_sources()
    }
    assert [relative(path) for path, packages in found.items() if package in packages] == [user]


def test_only_the_update_knows_shardings_and_only_three_places_compile():
    """`learner/update.py` is the learner's jit; the two users of the search compile it for
    themselves.

    The laboratory is another program: it compiles what `muzero/tabular` writes down. So is what
    looks into an agent.
    """
    agent = [
        path
        for path in system_sources()
        if not {"laboratory", "inspection"} & set(path.relative_to(ROOT).parts)
    ]

    def users(call):
        return [relative(path) for path in agent if call in ast.unparse(parse(path))]

    assert users("NamedSharding(") == ["learner/update.py"]
    assert users("jax.jit") == ["actors/agent.py", "actors/rollout.py", "learner/update.py"]


def test_all_packages_come_from_this_folder():
    """Five generic names: an installed stranger called `configs` must not win."""
    for name in ROOMS:
        assert Path(importlib.import_module(name).__file__).resolve().parents[1] == ROOT


def test_the_packages_that_are_installed_are_the_rooms():
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert sorted(settings["tool"]["setuptools"]["packages"]["find"]["include"]) == sorted(
        f"{room}*" for room in ROOMS
    )


def test_every_preset_file_is_offered_under_its_name():
    files = {path.stem for path in (ROOT / "configs").glob("*.py")}
    others = {"__init__", "schema", "reader", "checks", "serialise", "presets", "suite"}
    assert files - others == {name.replace("-", "_") for name in presets.PRESETS}
    assert all(presets.DESCRIPTIONS[name].strip() for name in presets.PRESETS)


def public_definitions(tree, prefix=""):
    """Yields (qualified name, node) of public functions, classes and methods; a nested function is
    no interface.
    """
    for node in tree.body:
        if isinstance(
            node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef
        ) and not node.name.startswith("_"):
            yield f"{prefix}{node.name}", node
            if isinstance(node, ast.ClassDef):
                yield from public_definitions(node, f"{prefix}{node.name}.")


@pytest.mark.parametrize(
    "path", [path for path in SOURCES if path.name != "__init__.py"], ids=relative
)
def test_everything_public_has_a_docstring(path):
    tree = parse(path)
    assert ast.get_docstring(tree), "the module"
    assert [name for name, node in public_definitions(tree) if not ast.get_docstring(node)] == []


def texts():
    for path in sorted(ROOT.rglob("*")):
        parts = path.relative_to(ROOT).parts
        made = parts[0].startswith(".venv") or any(part.endswith(".egg-info") for part in parts)
        private = made or PRIVATE & set(parts)
        if (
            not private
            and path.is_file()
            and (path.suffix in TEXTS or path.name in {"Makefile", "Dockerfile"})
        ):
            yield path


# Split, so that this file does not offend.
MACHINE = re.compile(
    "--(extra-)?"
    + "index-url|--find-"
    + r"links|(?<![\w.])/wor"
    + r"k/|(?<![\w.])/ho"
    + r"me/\w|(?<![\w.])/ro"
    r"ot/|/opt/" + "wheels|pypi" + r"\.org|files\." + "pythonhosted|PIP_" + "INDEX"
)


def test_no_file_names_a_package_index_or_a_path_of_this_machine():
    found = [
        f"{relative(path)}:{number}: {line.strip()[:80]}"
        for path in texts()
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if MACHINE.search(line)
    ]
    assert len(list(texts())) > 60
    assert found == []


@pytest.mark.parametrize(
    "line",
    [
        "pip install --index-" + "url x",
        "cd /wor" + "k/main",
        "'/ho" + "me/me'",
        "https://pypi." + "org/simple",
    ],
)
def test_the_pattern_would_see_an_offence(line):
    assert MACHINE.search(line)
    assert not MACHINE.search("runs/home/work.py /shared/runs")


def functions(tree):
    """Yields (name, lines without the docstring, functions it is nested in) of every function."""

    def visit(node, depth):
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
                doc = child.body[0] if ast.get_docstring(child) else None
                length = (
                    child.end_lineno
                    - child.lineno
                    + 1
                    - (doc.end_lineno - doc.lineno + 1 if doc else 0)
                )
                yield child.name, length, depth
                yield from visit(child, depth + 1)
            else:
                yield from visit(child, depth)

    yield from visit(tree, 0)


def test_functions_are_short_and_flat():
    found = [
        (f"{relative(path)} {name}", *sizes)
        for path in SOURCES
        for name, *sizes in functions(parse(path))
    ]
    lengths = sorted(length for _, length, _ in found)
    assert lengths[len(lengths) // 2] <= 12
    assert lengths[int(0.9 * len(lengths))] <= 40
    assert [name for name, length, depth in found if length > 60 or depth > 2] == []


@pytest.mark.parametrize("path", SOURCES, ids=relative)
def test_a_file_can_be_read_in_one_sitting(path):
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 400


def test_importing_muzero_types_pulls_in_nothing_heavy():
    heavy = ("jax", "ray", "rlax", "haiku", "gymnasium")
    code = f"import sys, muzero.types; print([name for name in {heavy} if name in sys.modules])"
    out = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    assert out.strip() == "[]"
