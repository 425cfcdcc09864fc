"""Where the numbers of a run come from: code, command, packages, machine."""

import datetime
import importlib.metadata
import os
import platform
import socket
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

_CODE_ROOT = Path(__file__).resolve().parents[2]


def provenance(command: Sequence[str], seeds: Any) -> dict:
    """Returns what is needed to repeat a run: code, command, packages, machine, seeds, UTC time
    (JSON values).
    """
    return {
        "start_time": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "command": list(command),
        "seeds": seeds,
        "git": git_provenance(_CODE_ROOT),
        "python": platform.python_version(),
        "packages": _package_versions(),
        "machine": _machine(),
    }


def git_provenance(root: Path) -> dict:
    """Returns commit, uncommitted changes (`git diff HEAD`) and untracked files of the checkout at
    `root`.

    All are None, with a `reason`, where there is no git program or `root` is not the top of a
    checkout; but an image names its commit in the file `COMMIT`.
    """
    try:
        top = _git(root, "rev-parse", "--show-toplevel").strip()
        if Path(top).resolve() != root.resolve():
            return _no_git(root, "the code is not the top of a git checkout")
        return {
            "commit": _git(root, "rev-parse", "HEAD").strip(),
            "diff": _git(root, "diff", "--no-ext-diff", "--no-color", "HEAD"),
            "untracked": _git(root, "ls-files", "--others", "--exclude-standard").splitlines(),
            "reason": None,
        }
    except FileNotFoundError:
        return _no_git(root, "there is no git program")
    except subprocess.CalledProcessError as error:
        return _no_git(root, error.stderr.strip())


def _no_git(root: Path, reason: str) -> dict:
    file = root / "COMMIT"
    commit = file.read_text(encoding="utf-8").strip() if file.is_file() else None
    return {"commit": commit, "diff": None, "untracked": None, "reason": reason}


def _git(root: Path, *arguments: str) -> str:
    command = ["git", "-C", str(root), *arguments]
    return subprocess.run(
        command, check=True, capture_output=True, encoding="utf-8", errors="replace"
    ).stdout


def _package_versions() -> dict[str, str]:
    # Everything installed, not a list of our own dependencies: theirs change results as well.
    versions = {dist.metadata["Name"]: dist.version for dist in importlib.metadata.distributions()}
    return dict(sorted(versions.items(), key=lambda item: item[0].lower()))


def _machine() -> dict:
    return {
        "platform": platform.platform(),
        "host": socket.gethostname(),
        "cpu": _cpu_model(),
        "num_cores": os.cpu_count(),
        "num_usable_cores": len(os.sched_getaffinity(0)),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
    }


def _cpu_model() -> str:
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.processor()  # ARM kernels print no model name
