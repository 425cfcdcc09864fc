"""Faults of what lies on disk: damaged, foreign, malicious."""

import hashlib
import json
import os
import resource
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np

from configs.presets import PRESETS
from configs.reader import changed
from configs.schema import Config
from configs.serialise import to_dict
from learner.loop import Counters
from learner.records import checkpoint_files
from learner.records.checkpoint import (
    Checkpointer,
    CheckpointError,
    CheckpointMismatch,
    CheckpointWriteError,
    CorruptCheckpoint,
)
from learner.records.run_directory import RunDirectory, RunDirectoryInUse
from scripts.faults.registry import Outcome, fault
from scripts.training.saver import Saver

_FALLS_BACK = "noticed by its SHA-256; the checkpoint before it is loaded, with a warning"
_TOLD = "told in the same step, exit code 5; the older checkpoint loads"
_REFUSED = "refused in one line that names the difference; nothing is loaded"


def _state(step: int) -> dict:
    return {
        "params": {"w": np.full((64, 3), float(step), np.float32)},
        "num_updates": np.array(step, np.int32),
    }


def _open(directory: Path) -> Checkpointer:
    return Checkpointer(directory, max_to_keep=3, abstract_state=None)


def _save(directory: Path, *steps: int) -> None:
    checkpointer = _open(directory)
    for step in steps:
        checkpointer.save(step, _state(step), {"counters": {}}, arrays={"0/tape": np.arange(9)})
    checkpointer.close()


def _loads(directory: Path) -> int:
    """Returns the step that a resume would load, whose weights must be those of that step."""
    checkpoint = _open(directory).restore()
    np.testing.assert_array_equal(
        checkpoint.state["params"]["w"], _state(checkpoint.step)["params"]["w"]
    )
    return checkpoint.step


def _flip(file: Path, position: int) -> None:
    content = bytearray(file.read_bytes())
    content[position // 8] ^= 1 << position % 8
    file.write_bytes(content)


@fault(
    injected="one random bit flipped, in every file of a checkpoint in turn",
    promised=_FALLS_BACK,
    is_quick=True,
)
def flipped_bit(folder: Path) -> Outcome:
    """Each copy of a run has one bit wrong."""
    _save(folder / "run", 1, 2)
    rng = np.random.default_rng(0)
    files = [
        file.relative_to(folder / "run")
        for file in (folder / "run" / "2").rglob("*")
        if file.is_file()
    ]
    noticed = []
    for number, file in enumerate(files):
        copy = shutil.copytree(folder / "run", folder / str(number))
        _flip(copy / file, int(rng.integers(8 * (copy / file).stat().st_size)))
        noticed.append(_loads(copy) == 1)
    return Outcome(
        len(files) > 5 and all(noticed),
        f"{sum(noticed)} of {len(files)} noticed, and step 1 loaded",
    )


@fault(
    injected="every file of a checkpoint cut to half its length in turn",
    promised=_FALLS_BACK,
    is_quick=True,
)
def truncated_file(folder: Path) -> Outcome:
    """What a full disk or a lost machine leaves."""
    _save(folder / "run", 1, 2)
    files = [
        file.relative_to(folder / "run")
        for file in (folder / "run" / "2").rglob("*")
        if file.is_file()
    ]
    noticed = []
    for number, file in enumerate(files):
        copy = shutil.copytree(folder / "run", folder / str(number))
        os.truncate(copy / file, (copy / file).stat().st_size // 2)
        noticed.append(_loads(copy) == 1)
    return Outcome(all(noticed), f"{sum(noticed)} of {len(files)} noticed, and step 1 loaded")


def _resume_with(folder: Path, stored: Config, own: Config) -> Outcome:
    """Returns what a run of `own` settings says to a checkpoint of `stored` ones."""
    directory = RunDirectory.create(folder / "run", to_dict(stored), ["chaos"], {})
    saver = Saver(stored, directory, None)
    saver.save(_state(1), Counters(num_updates=1), {})
    saver.close()
    try:
        Saver(own, directory, None).restore()
    except CheckpointMismatch as error:
        return Outcome("\n" not in str(error), _told(error, folder))
    return Outcome(False, "loaded")


def _told(error: Exception, folder: Path) -> str:
    return f"refused: {str(error).replace(str(folder), '…')}"


@fault(
    injected="the checkpoint of another game in a run's directory", promised=_REFUSED, is_quick=True
)
def other_game(folder: Path) -> Outcome:
    """Breakout's, four actions, offered to a run of Seaquest."""
    return _resume_with(
        folder, PRESETS["smoke"], changed(PRESETS["smoke"], {"env.name": "seaquest"})
    )


@fault(
    injected="the checkpoint of another network in a run's directory",
    promised=_REFUSED,
    is_quick=True,
)
def other_network(folder: Path) -> Outcome:
    """A latent of another length."""
    return _resume_with(
        folder, PRESETS["smoke"], changed(PRESETS["smoke"], {"network.latent_size": 17})
    )


@fault(injected="a checkpoint of a newer format", promised=_REFUSED, is_quick=True)
def newer_format(folder: Path) -> Outcome:
    """As a later version of this program would write it."""
    version = checkpoint_files.FORMAT_VERSION
    checkpoint_files.FORMAT_VERSION = version + 1
    try:
        _save(folder / "run", 1)
    finally:
        checkpoint_files.FORMAT_VERSION = version
    try:
        return Outcome(False, f"loaded {_loads(folder / 'run')}")
    except CheckpointMismatch as error:
        return Outcome("\n" not in str(error), _told(error, folder))


class _Bomb:
    """Unpickling it leaves a file behind."""

    def __init__(self, path: Path):
        self._path = str(path)

    def __reduce__(self):
        return open, (self._path, "w")


def _sign(slot: Path, more: dict[str, str]) -> None:
    """Writes a manifest that is right for everything in the slot: an attacker can hash as well."""
    files = [file for file in slot.rglob("*") if file.is_file() and file.name != "manifest.json"]
    hashes = {
        file.relative_to(slot).as_posix(): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in files
    }
    (slot / "manifest.json").write_text(json.dumps({"files": hashes | more}))


@fault(injected="a pickle in place of a checkpoint's arrays, with a right "
                "manifest", promised="never executed; the "
       "checkpoint before it is loaded", is_quick=True)  # fmt: skip
def malicious_pickle(folder: Path) -> Outcome:
    """The pickle would create a file."""
    _save(folder / "run", 1, 2)
    slot = folder / "run" / "2"
    with (slot / "arrays.npz").open("wb") as file:
        np.savez(file, **{"/0/tape": np.array([_Bomb(folder / "executed")], object)})
    _sign(slot, {})
    step, executed = _loads(folder / "run"), (folder / "executed").exists()
    return Outcome(
        step == 1 and not executed,
        f"{'executed' if executed else 'not executed'}, step {step} loaded",
    )


@fault(injected="a manifest that names ../outside and /etc/passwd, with right "
                "sums", promised="refused before it is "
       "read; the checkpoint before it is loaded", is_quick=True)  # fmt: skip
def path_out_of_the_checkpoint(folder: Path) -> Outcome:
    """A reader of such a path would tell whether its content is known."""
    refused = []
    _save(folder / "run", 1, 2)
    for name in ("../outside", "/etc/passwd", "state/../../outside"):
        (folder / "run" / "outside").write_text("secret")
        target = Path(name) if name.startswith("/") else folder / "run" / "outside"
        _sign(folder / "run" / "2", {name: hashlib.sha256(target.read_bytes()).hexdigest()})
        try:
            checkpoint_files.read(folder / "run" / "2")
        except CorruptCheckpoint as error:
            refused.append(
                "leads out of its directory" in str(error) and _loads(folder / "run") == 1
            )
    return Outcome(refused == [True] * 3, f"{sum(refused)} of 3 refused, and step 1 loaded")


def _fails_to_write(
    folder: Path, prepare: Callable[[], None], restore: Callable[[], None]
) -> Outcome:
    """Returns whether a write that fails is told at once and the checkpoint before it stays."""
    checkpointer = _open(folder / "run")
    checkpointer.save(1, _state(1), {}, wait=True)
    prepare()
    try:
        checkpointer.save(2, {"w": np.random.default_rng(0).random(500_000)}, {}, wait=True)
        told = ""
    except CheckpointWriteError as error:
        told = str(error)
    finally:
        restore()
    step = _loads(folder / "run")
    return Outcome(
        bool(told) and step == 1, f"{'told at once' if told else 'not told'}; step {step} loads"
    )


@fault(
    injected="a file size limit reached while writing (injected: RLIMIT_FSIZE)",
    promised=_TOLD,
    is_quick=True,
)
def file_too_large(folder: Path) -> Outcome:
    """What a full disk looks like to the program, without root."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)

    def limit(size):
        return resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))

    return _fails_to_write(folder, lambda: limit(1_000_000), lambda: limit(soft))


@fault(injected="two programs train in one directory", promised="the second is refused with the "
                                                                "pid of the first",
       is_quick=True)  # fmt: skip
def two_runs_in_one_directory(folder: Path) -> Outcome:
    """The lock goes with the process."""
    directory = RunDirectory.create(folder / "run", {}, ["chaos"], {})
    with directory.lock():
        try:
            with RunDirectory.open(folder / "run").lock():
                return Outcome(False, "both train")
        except RunDirectoryInUse as error:
            named = f"process {os.getpid()} on host " in str(error)
            return Outcome(named, f"refused: in use, {'with' if named else 'WITHOUT'} pid and host")


@fault(injected="no checkpoint at all is left", promised="refused in one line", is_quick=True)
def all_checkpoints_gone(folder: Path) -> Outcome:
    """Both manifests were removed."""
    _save(folder / "run", 1, 2)
    for manifest in (folder / "run").rglob("manifest.json"):
        manifest.unlink()
    try:
        return Outcome(False, f"loaded {_loads(folder / 'run')}")
    except CheckpointError as error:
        return Outcome("\n" not in str(error), _told(error, folder))
