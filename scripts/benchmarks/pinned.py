"""Child processes that are pinned to cores before they use JAX."""

import multiprocessing
import os
from collections.abc import Callable, Iterable

import jax


class PinnedProcess:
    """A child that builds a loop and runs it for some seconds whenever asked; a context manager.

    Args:
      cores: cores of the child; XLA sizes its thread pool by them.
      make_loop: picklable, called in the child after the pinning, with `args`: returns `seconds ->
        result`.
    """

    def __init__(
        self, cores: Iterable[int], make_loop: Callable[..., Callable[[float], float]], *args
    ):
        # A fork beside the threads of JAX can hang for ever
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._process = context.Process(
            target=_serve, args=(theirs, set(cores), make_loop, args), daemon=True
        )
        self._process.start()
        theirs.close()  # so that a child that dies is seen as the end of its pipe

    def __enter__(self) -> "PinnedProcess":
        return self

    def __exit__(self, *exception) -> None:
        self._connection.close()
        self._process.join(timeout=10)
        self._process.kill()

    def start(self, seconds: float) -> None:
        """Asks for a run of `seconds`; `finish` waits for it."""
        self._connection.send(seconds)

    def finish(self) -> float:
        """Returns the result of the run asked for by `start`; raises EOFError if the child died."""
        return self._connection.recv()

    def result(self, seconds: float) -> float:
        """Returns the result of a run of `seconds`."""
        self.start(seconds)
        return self.finish()


def run_together(processes: Iterable[PinnedProcess], seconds: float) -> list[float]:
    """Returns the results of simultaneous runs."""
    processes = list(processes)
    for process in processes:
        process.start(seconds)
    return [process.finish() for process in processes]


def _serve(connection, cores: set[int], make_loop: Callable, args: tuple) -> None:
    os.sched_setaffinity(0, cores)
    jax.config.update("jax_platforms", "cpu")  # too late for JAX_PLATFORMS: JAX is imported
    loop = make_loop(*args)
    while True:
        try:
            connection.send(loop(connection.recv()))
        except (EOFError, BrokenPipeError):  # the parent is done
            return
