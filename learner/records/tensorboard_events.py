"""TensorBoard's record of a run.

A row is with the operating system when `write` returns, and a disk that is full raises there:
tensorboardX's own `SummaryWriter` hands events to a thread, whose death nobody sees until the
program waits for it for ever.
"""

import time
from pathlib import Path

from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.proto.summary_pb2 import Summary


class Board:
    """Appends scalars to a new event file.

    Args:
        folder: of all event files of the run.
        purge_step: TensorBoard forgets what earlier files say from that step on; None: nothing.
    """

    def __init__(self, folder: Path, purge_step: int | None):
        folder.mkdir(parents=True, exist_ok=True)
        number = len(list(folder.glob("events.*")))  # names otherwise repeat within a second
        self._writer = EventsWriter(str(folder / "events"), filename_suffix=f".{number:04d}")
        if purge_step is not None:
            self._write(Event(step=purge_step, session_log=SessionLog(status=SessionLog.START)))

    def write(self, step: int, scalars: dict[str, float]) -> None:
        """Writes the value of every tag at `step`. Raises OSError if it cannot be written."""
        values = [Summary.Value(tag=tag, simple_value=value) for tag, value in scalars.items()]
        self._write(Event(step=step, summary=Summary(value=values)))

    def close(self) -> None:
        """Closes the file."""
        self._writer.close()

    def _write(self, event: Event) -> None:
        event.wall_time = time.time()
        self._writer.write_event(event)
        self._writer.flush()
