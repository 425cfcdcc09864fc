"""Two loops measured in turn until the interval of their ratio is narrow, and what the figures
belong to.
"""

import math
import os
import statistics
import sys
import time
from collections.abc import Callable, Sequence

import scipy.stats

from learner.records.provenance import provenance
from scripts.benchmarks.pinned import PinnedProcess

Loop = Callable[[float], float]  # runs for so many seconds, returns its rate

HALF_WIDTH = 0.03
CONFIDENCE = 0.95
MATMUL_SIZE = 2048
PACKAGES = (
    "jax",
    "jaxlib",
    "dm-haiku",
    "mctx",
    "optax",
    "rlax",
    "numpy",
    "ray",
    "ale-py",
    "opencv-python-headless",
)
FAST_CORE_GFLOPS = 80.0  # of one core: there the reference figures were taken


def median_interval(values: Sequence[float]) -> tuple[float, float] | None:
    """Returns the exact 95 % interval of the median by order statistics, None for fewer than six
    values.

    The k-th smallest and the k-th largest of n values enclose the median with probability 1 − 2
    P(Bin(n, ½) < k).
    """
    ordered, n = sorted(values), len(values)
    k = int(scipy.stats.binom.ppf((1.0 - CONFIDENCE) / 2, n, 0.5))
    if k == 0 or 2 * scipy.stats.binom.cdf(k - 1, n, 0.5) > 1.0 - CONFIDENCE:
        return None
    return ordered[k - 1], ordered[n - k]


def is_narrow(values: Sequence[float]) -> bool:
    """Returns whether the interval of the median is narrower than ± 0.03."""
    interval = median_interval(values)
    return interval is not None and interval[1] - interval[0] < 2 * HALF_WIDTH


def alternate(
    loops: dict[str, Loop], ours: str, bare: str, *, rounds: int, seconds: float, turns: int = 4
) -> dict[str, list[float]]:
    """Returns the rates of every loop, a round an entry; each loop runs once before, unmeasured
    (compilation).

    A round is several turns, its rate their mean; every second turn runs backwards, so that a
    machine that slows down or speeds up favours nobody.

    Args:
      loops: by name, in the order of the first turn.
      ours, bare: the two whose ratio has to be known to ± 0.03.
      rounds: most rounds.
      seconds: of every loop in a round.
      turns: of a round; 1 for loops that cannot be cut so short.
    """
    for loop in loops.values():
        loop(seconds / turns)
    rates: dict[str, list[float]] = {name: [] for name in loops}
    for number in range(rounds):
        taken: dict[str, list[float]] = {name: [] for name in loops}
        for turn in range(number * turns, (number + 1) * turns):
            for name in list(loops)[:: -1 if turn % 2 else 1]:
                taken[name].append(loops[name](seconds / turns))
        for name, values in taken.items():
            rates[name].append(statistics.mean(values))
        print(
            f"round {number + 1}: { ({n: round(r[-1], 2) for n, r in rates.items()}) }",
            file=sys.stderr,
            flush=True,
        )
        if is_narrow(ratios(rates, ours, bare)):
            break
    return rates


def ratios(rates: dict[str, list[float]], ours: str, bare: str) -> list[float]:
    """Returns the ratio of two loops round by round."""
    return [x / y for x, y in zip(rates[ours], rates[bare], strict=True)]


def summary(values: Sequence[float]) -> dict:
    """Returns median, 95 % interval, smallest, largest and number of some values."""
    return {
        "median": statistics.median(values),
        "interval_95": median_interval(values),
        "smallest": min(values),
        "largest": max(values),
        "rounds": len(values),
    }


def timed_loop(step: Callable[[], float]) -> Loop:
    """Returns a loop that calls `step`, which returns an amount, for some seconds and returns the
    amount per second.
    """

    def loop(seconds: float) -> float:
        amount, started = 0.0, time.perf_counter()
        while (elapsed := time.perf_counter() - started) < seconds or amount == 0.0:
            amount += step()
        return amount / elapsed

    return loop


def report(name: str, rates: dict[str, list[float]], ours: str, bare: str, **more) -> dict:
    """Returns the JSON of a benchmark: rates, their ratio, the speed of the cores, and where all
    that was measured.
    """
    return {
        "benchmark": name,
        "rates": {loop: summary(values) for loop, values in rates.items()},
        "ratio_to_bare_loop": summary(ratios(rates, ours, bare)),
        "matmul_gflops_per_core": matmul_gflops_per_core(),
        **more,
        "load_average": os.getloadavg(),
        "provenance": where_measured(),
    }


def where_measured() -> dict:
    """Returns commit, command, time, machine and the versions of the packages that the figures
    depend on.
    """
    record = provenance(sys.argv, None)
    record["packages"] = {name: record["packages"][name] for name in PACKAGES}
    record["git"] = {"commit": record["git"]["commit"], "is_changed": bool(record["git"]["diff"])}
    return record


def matmul_gflops_per_core() -> list[float]:
    """Returns the single-precision GFLOP/s of a 2048² matrix product on every core of this process,
    one by one.
    """
    rates = []
    for core in sorted(os.sched_getaffinity(0)):
        with PinnedProcess({core}, make_matmul) as process:
            rates.append(max(process.result(1.0) for _ in range(3)) / 1e9)
    return rates


def make_matmul() -> Loop:
    """Returns what multiplies 2048² matrices for some seconds and returns the FLOP/s; runs in a
    pinned process.
    """
    import jax
    import jax.numpy as jnp

    x = jnp.ones((MATMUL_SIZE, MATMUL_SIZE))
    multiply = jax.jit(lambda a, b: a @ b)

    def step():
        return multiply(x, x).block_until_ready() is not None and 2.0 * MATMUL_SIZE**3

    step()
    return timed_loop(step)


def slow_bare_loop(gflops: Sequence[float], rate: float, required: float) -> str | None:
    """Returns why the ratio proves nothing: a bare loop below `required` on fast cores.

    None if all is well.
    """
    if math.isnan(rate) or (min(gflops) >= FAST_CORE_GFLOPS and rate < required):
        return (
            f"bare loop too slow: {rate:.0f} steps/s in sum, at least {required:.0f} expected of "
            f"such cores"
        )
    return None
