"""Units on all cores: one process a core, pinned to it before JAX starts there.

XLA's thread pool splits the small matrices of tabular models badly; a process a core leaves it one
thread.
"""

import concurrent.futures
import multiprocessing
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax

from scripts.laboratory.experiment import Experiment, Row, Unit


def cores() -> list[int]:
    """Returns the cores that this process may use."""
    return sorted(os.sched_getaffinity(0))


def run_units(
    experiment: Experiment, scale: Any, units: list[Unit], scratch: Path, num_workers: int
) -> Iterator[tuple[Unit, list[Row]]]:
    """Yields (unit, rows) as units finish. One worker means this process, which is not pinned.

    Raises whatever a unit raises, and `BrokenProcessPool` if a process dies; units that have not
    begun are dropped.
    """
    if num_workers == 1 or len(units) <= 1:
        yield from ((unit, experiment.run(scale, unit, scratch)) for unit in units)
        return
    context = multiprocessing.get_context("spawn")  # JAX has threads here: never fork
    free = context.Queue()
    for number in range(num_workers):
        free.put(cores()[number % len(cores())])
    pool = concurrent.futures.ProcessPoolExecutor(
        num_workers, context, initializer=_pin, initargs=(free,)
    )
    try:
        running = {pool.submit(experiment.run, scale, unit, scratch): unit for unit in units}
        for done in concurrent.futures.as_completed(running):
            yield running[done], done.result()
    finally:
        pool.shutdown(cancel_futures=True)


def _pin(free: multiprocessing.Queue) -> None:
    os.sched_setaffinity(0, {free.get()})
    jax.config.update("jax_platforms", "cpu")  # too late for JAX_PLATFORMS: JAX is imported
