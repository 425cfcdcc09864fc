"""Which code a process runs: the driver's processes elsewhere refuse to run with other code or
packages.

Different code on one cluster trains without an error and learns something else: a trajectory whose
fields mean another thing is still an array of the right shape.
"""

import functools
import hashlib
import importlib.metadata
import platform
from pathlib import Path

_ROOT = Path(__file__).resolve().parents[1]
_ROOMS = ("muzero", "actors", "learner", "configs", "scripts")
_PACKAGES = ("jax", "jaxlib", "numpy", "mctx", "dm-haiku", "gymnasium", "ale-py", "ray")


class CodeMismatch(RuntimeError):
    """A worker runs other code than the driver; the message names what differs."""


@functools.cache
def code_identity() -> dict[str, str]:
    """Returns what must be the same in driver and worker: Python, packages, and the SHA-256 of each
    source folder.
    """
    versions = {name: importlib.metadata.version(name) for name in _PACKAGES}
    return (
        {"python": platform.python_version()}
        | versions
        | {room: _digest(_ROOT / room) for room in _ROOMS}
    )


def require_same_code(expected: dict[str, str]) -> None:
    """Raises CodeMismatch unless this process runs the code that `expected` identifies."""
    own = code_identity()
    differing = [
        f"{name}: {expected.get(name)} in the driver, {own.get(name)} here"
        for name in sorted(expected.keys() | own.keys())
        if expected.get(name) != own.get(name)
    ]
    if differing:
        raise CodeMismatch(
            f"host {platform.node()} runs other code than the driver: {'; '.join(differing)}"
        )


def _digest(folder: Path) -> str:
    total = hashlib.sha256()
    for file in sorted(folder.rglob("*.py")):
        total.update(f"{file.relative_to(folder).as_posix()}\n".encode())
        total.update(file.read_bytes())
    return total.hexdigest()[:12]
