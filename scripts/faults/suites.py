"""Faults of whole suites: the driver dies twice, and a node with the trial that it played."""

import contextlib
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

from configs import suite as suites
from scripts.experiments import results, trials
from scripts.faults import nodes, runs
from scripts.faults.registry import Outcome, fault

_NUM_UPDATES = 400
_SUITE = f"""
preset = "smoke"
games = ["breakout", "pong"]
seeds = [1, 2]
frames = {_NUM_UPDATES * 40}  # about: 2 sequences of 5 new decisions, 4 emulator frames each

[settings]
log.interval_seconds = 1e-6
log.checkpoint_interval_minutes = 0.01

[arms.only]
"""


@fault(
    injected="SIGKILL of a suite's driver, twice, and of one of two nodes; 4 trials "
    "(ray.cluster_utils.Cluster)",
    promised="the same command goes on: every trial ends once, the finished ones are left alone, "
    "no result is lost",
    is_quick=False,
)
def suite_killed_twice(folder: Path) -> Outcome:
    """The driver dies when a trial has ended; then a node, in the middle of two trials, and soon
    the driver again.
    """
    file, out = folder / "four.toml", folder / "out"
    file.write_text(_SUITE)
    suite = suites.load(str(file))
    paths = [trials.run_path(out, trial) for trial in suite.trials()]

    def finished():
        return [path for path in paths if trials.is_finished(suite, path)]

    def num_rows():
        return sum(len(runs.rows(path)) for path in paths)

    with nodes.ray_cluster(num_cpus=1) as cluster:
        node = nodes.add_node(cluster)
        command = (folder, "suite", "run", file, "--out", out, "--ray-address", cluster.address)
        with _killed(*command) as driver:
            runs.wait_for(lambda: len(finished()) > 0, driver)
        before = _contents(finished())
        with _killed(*command) as driver:
            _wait_for_more(num_rows, driver)
            cluster.remove_node(node, allow_graceful=False)
            _wait_for_more(num_rows, driver)
        runs.run(*command)
    updates = [[row["num_updates"] for row in runs.rows(path)] for path in paths]
    is_whole = all(found == list(range(1, len(found) + 1)) for found in updates)
    is_alone = before.items() <= _contents(paths).items()
    scored = {
        (row.game, row.seed)
        for row in results.read(out / "results.csv").rows
        if row.kind == results.GREEDY
    }
    happened = f"{len(finished())} of 4 trials ended, {len(scored)} in the results"
    happened += f", {'without' if is_whole else 'WITH'} gap or overlap"
    happened += f"; files of those finished before {'unchanged' if is_alone else 'CHANGED'}"
    return Outcome(len(finished()) == len(scored) == 4 and is_whole and is_alone, happened)


def _wait_for_more(num_rows: Callable[[], int], driver: subprocess.Popen) -> None:
    """Returns when the trials have gone on for a while."""
    least = num_rows() + 20
    runs.wait_for(lambda: num_rows() >= least, driver)


@contextlib.contextmanager
def _killed(*command: object):
    """Yields a running program; it alone is killed at the end."""
    with runs.start(*command) as process:
        try:
            yield process
        finally:
            process.send_signal(signal.SIGKILL)


def _contents(paths: list[Path]) -> dict[Path, bytes]:
    """Returns all files of these runs."""
    return {file: file.read_bytes() for path in paths for file in path.rglob("*") if file.is_file()}
