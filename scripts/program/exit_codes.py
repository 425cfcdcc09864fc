"""How a program ends: the exit codes of `train.py` and `resume.py`, in one place."""

import enum


class ExitCode(enum.IntEnum):
    """What a program's exit code means.

    A run that ends with any of these can be resumed, `BAD_INPUT` apart.
    """

    DONE = 0
    """The limit of the run was reached; the state is saved."""
    CRASH = 1
    """An exception nobody foresaw, with its traceback; the last checkpoint stands."""
    BAD_INPUT = 2
    """Refused in one line before anything started."""
    ACTORS_LOST = 3
    """The workers kept failing; the cause is printed, the learner's state is saved."""
    NOT_FINITE = 4
    """Too many batches in a row with numbers that are not finite; state and offending batch are
    saved.
    """
    NOT_SAVED = 5
    """A checkpoint or a record could not be written (disk full, say); the older checkpoints stand.
    """
    SIGINT = 130
    """Ctrl-C: the batch under way was finished and saved; pressed twice, nothing was."""
    SIGTERM = 143
    """Told to end: the batch under way was finished and saved within the grace period."""


RESTARTABLE = (ExitCode.CRASH, ExitCode.ACTORS_LOST, ExitCode.NOT_SAVED)
"""After these, and after a death by a signal nobody sent through us, `--max-restarts` goes on from
the checkpoint.
"""
