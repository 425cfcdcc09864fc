"""One directory a run: where everything lies, who may write, and where the numbers came from.

    <run>/config.json         every setting, fixed for the life of the run
          provenance.json     a list: one record of the start, one of every resume
          lock                held (flock) while a process trains here
          metrics.jsonl       one row per interval
          episodes.jsonl      every whole game as played
          nonfinite-*.npz     the batch that stopped the run
          tensorboard/  checkpoints/  evaluations/  logs/

Paths are made absolute once, here: Ray workers and Orbax do not share our working directory.
"""

import contextlib
import datetime
import fcntl
import json
import os
import re
import secrets
import socket
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from learner.records.provenance import provenance

_FOLDERS = ("tensorboard", "checkpoints", "evaluations", "logs")


class RunDirectoryError(RuntimeError):
    """A directory cannot be used as asked. The message names it and what to do instead."""


class RunDirectoryInUse(RunDirectoryError):
    """Another process trains in this directory; the message names its pid and host."""


class NotWritten(RuntimeError):
    """A record of the run cannot be written: no space, no permission, no such disk.

    What was there before stands.
    """


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Raises NotWritten, which names the file, where the operating system refuses."""
    try:
        yield
    except OSError as error:
        raise NotWritten(f"{path} cannot be written: {error}") from error


def write_atomically(path: Path, text: str) -> None:
    """Writes `text` to `path` so that a reader, or a kill at any moment, sees the old file or the
    new one.
    """
    temporary = _write_temporary(path, text)
    try:
        os.replace(temporary, path)
    except OSError:
        temporary.unlink()
        raise


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise RunDirectoryError(f"{path} is damaged, it is no JSON: {error}") from error


def read_rows(path: Path) -> list[dict]:
    """Returns the whole rows of a .jsonl file, none if there is no file; a run that trains may have
    written half a row.

    Raises RunDirectoryError for a whole line that is no row.
    """
    lines = path.read_text(encoding="utf-8").split("\n")[:-1] if path.exists() else []
    try:
        return [json.loads(line) for line in lines]
    except ValueError as error:
        raise RunDirectoryError(
            f"{path} is damaged: {error}; take the bad line out to go on"
        ) from error


def cut_rows(path: Path, max_frames: int) -> list[dict]:
    """Drops rows beyond `max_frames` and a half-written last line from the file; returns the rows
    that stay.

    Raises RunDirectoryError for a whole line that is no row, NotWritten if the disk is full, say.
    """
    kept = [row for row in read_rows(path) if row["num_frames"] <= max_frames]
    with writing(path):
        write_atomically(path, "".join(f"{json.dumps(row)}\n" for row in kept))
    return kept


def _write_temporary(path: Path, text: str) -> Path:
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            os.fchmod(descriptor, 0o644)  # mkstemp's 0600 would hide the run from colleagues
            file.write(text)
            file.flush()
            os.fsync(descriptor)
    except BaseException:
        os.unlink(name)
        raise
    return Path(name)


def default_path(
    preset: str, environment: str, seed: int, *, now: datetime.datetime | None = None
) -> Path:
    """Returns runs/<preset>-<environment>-<seed>-<UTC time>-<four random digits>, relative to the
    working directory: two runs of one second have directories of their own.

    Args:
        preset: name of the preset.
        environment: any spelling; characters that do not belong in a file name become `_`.
        seed: of the run.
        now: UTC time of the start; None for the clock's.
    """
    now = now or datetime.datetime.now(datetime.UTC)
    name = f"{preset}-{environment}-{seed}-{now:%Y%m%dT%H%M%SZ}-{secrets.token_hex(2)}"
    return Path("runs") / re.sub(r"[^\w.-]+", "_", name)


class RunDirectory:
    """The files of one run.

    Make one with `create` or `open`; reading needs no lock, training does.
    """

    def __init__(self, path: Path):
        if re.search(r"[\[\\]", str(path)):
            raise RunDirectoryError(
                f"{path}: no [ and no \\ in the path of a run: TensorStore takes them for a "
                "pattern and cannot read the checkpoints that it wrote; choose or rename"
            )
        self.path = path
        self.config_file = path / "config.json"
        self.provenance_file = path / "provenance.json"
        self.lock_file = path / "lock"
        self.metrics_file = path / "metrics.jsonl"
        self.tensorboard, self.checkpoints, self.evaluations, self.logs = (
            path / name for name in _FOLDERS
        )

    @classmethod
    def create(
        cls, path: str | Path, config: dict, command: Sequence[str], seeds: Any
    ) -> "RunDirectory":
        """Returns a new run directory with its configuration and first provenance record.

        Args:
            path: may exist, if it holds no run.
            config: every setting; JSON values.
            command: the command line, one entry an argument.
            seeds: JSON value with the seeds of the run.

        Raises RunDirectoryError if the directory already holds a run, or part of one.
        """
        run = cls(Path(path).absolute())
        if run._holds_a_run():
            raise run._already_used()
        for folder in _FOLDERS:
            (run.path / folder).mkdir(parents=True, exist_ok=True)
        run._write_config(config)
        run._append_provenance({"event": "start", **provenance(command, seeds)})
        return run

    @classmethod
    def open(cls, path: str | Path) -> "RunDirectory":
        """Returns an existing run directory. Raises RunDirectoryError if `path` holds no run."""
        run = cls(Path(path).absolute())
        if not run.config_file.is_file():
            raise RunDirectoryError(
                f"{run.path} holds no run: there is no config.json. scripts/train.py starts one."
            )
        return run

    def read_config(self) -> dict:
        """Returns the settings the run was created with.

        Raises RunDirectoryError if the file is damaged.
        """
        return _read_json(self.config_file)

    def read_provenance(self) -> list[dict]:
        """Returns the record of the start and of every resume.

        Raises RunDirectoryError if the file is damaged.
        """
        return _read_json(self.provenance_file)

    def read_evaluations(self) -> list[dict]:
        """Returns the results in `evaluations/`, by name of their files.

        Raises RunDirectoryError if a file is damaged.
        """
        return [_read_json(path) for path in sorted(self.evaluations.glob("*.json"))]

    def is_empty(self) -> bool:
        """Returns whether nothing has been recorded yet."""
        return not self.metrics_file.exists() or self.metrics_file.stat().st_size == 0

    def was_given(self, option: str) -> bool:
        """Returns whether the run was started with a command-line option."""
        return any(
            word.partition("=")[0].replace("_", "-") == option
            for word in self.read_provenance()[0]["command"]
        )

    def record_resume(self, command: Sequence[str], seeds: Any) -> None:
        """Appends the provenance of a resume; arguments as in `create`. Call it while holding the
        lock.

        Raises NotWritten if the disk is full, say.
        """
        with writing(self.provenance_file):
            self._append_provenance({"event": "resume", **provenance(command, seeds)})

    def record_devices(self, devices: Sequence[str]) -> None:
        """Adds the devices of the learner to the last provenance record, which is made before JAX
        has any.

        Raises NotWritten if the disk is full, say.
        """
        *earlier, last = self.read_provenance()
        records = [*earlier, last | {"jax_devices": list(devices)}]
        with writing(self.provenance_file):
            write_atomically(self.provenance_file, json.dumps(records, indent=2) + "\n")

    def withdraw(self) -> None:
        """Takes back what `create` has made, so that the directory can be used again. Call it while
        holding the lock.

        Does nothing once something has been recorded.
        """
        if self.is_empty() and not any(self.checkpoints.glob("*")):
            self.config_file.unlink()
            self.provenance_file.unlink()

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Holds the exclusive right to train here; the operating system takes it back when the
        process dies.

        Raises RunDirectoryInUse, naming pid and host of the holder, RunDirectoryError where nothing
        can be locked.
        """
        with self.lock_file.open("a+", encoding="utf-8") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise self._in_use() from error
            except OSError as error:
                raise RunDirectoryError(
                    f"{self.path}: its file system has no locks ({error}), so that two programs "
                    f"could train in it "
                    "unseen. Mount it with them (Lustre: -o flock), or choose another directory."
                ) from error
            file.truncate(0)
            file.write(json.dumps({"pid": os.getpid(), "host": socket.gethostname()}))
            file.flush()
            yield

    def _in_use(self) -> RunDirectoryInUse:
        try:
            holder = json.loads(self.lock_file.read_text(encoding="utf-8"))
        except ValueError:  # the holder has the lock but has not written its name yet
            holder = {"pid": "unknown", "host": "unknown"}
        return RunDirectoryInUse(
            f"{self.path} is in use: process {holder['pid']} on host {holder['host']} trains in "
            f"it. "
            "Wait until it ends, or stop it; the lock goes with the process."
        )

    def _holds_a_run(self) -> bool:
        files = (self.config_file, self.metrics_file, self.provenance_file)
        return any(file.exists() for file in files) or any(self.checkpoints.glob("*"))

    def _already_used(self) -> RunDirectoryError:
        return RunDirectoryError(
            f"{self.path} already holds a run. Continue it with scripts/resume.py, or choose "
            f"another directory."
        )

    def _write_config(self, config: dict) -> None:
        temporary = _write_temporary(self.config_file, json.dumps(config, indent=2) + "\n")
        try:
            # Unlike a rename, fails if another process was faster
            os.link(temporary, self.config_file)
        except FileExistsError as error:
            raise self._already_used() from error
        finally:
            temporary.unlink()

    def _append_provenance(self, record: dict) -> None:
        records = self.read_provenance() if self.provenance_file.exists() else []
        write_atomically(self.provenance_file, json.dumps([*records, record], indent=2) + "\n")
