"""Runs the trials of a suite: keeps Ray busy with them, goes on after anything died, collects their
results.
"""

import collections
import json
from pathlib import Path

import ray
from ray.exceptions import RayError

from actors.cores import usable_cores
from configs.schema import ConfigError
from configs.suite import Suite, Trial
from learner.records.run_directory import RunDirectory
from scripts.experiments import results, trials
from scripts.experiments.suite_directory import (
    COMMIT,
    SUITE,
    carried_over,
    identity,
    open_out,
    results_file,
)
from scripts.experiments.suite_table import SuiteTable
from scripts.inspection import heldout
from scripts.program import commands, process
from scripts.program.exit_codes import ExitCode
from scripts.training import cluster

_MAX_ATTEMPTS = 3  # without a frame of progress
_FINAL = (ExitCode.BAD_INPUT, ExitCode.NOT_FINITE)  # another attempt would end the same way
_REFRESH_SECONDS = 1.0


def run_suite(
    suite: Suite, out: Path, *, jobs: int | None, ray_address: str | None, dry_run: bool
) -> int:
    """Runs a suite, or goes on with it; returns the exit code, 1 if a trial was given up.

    Args:
      suite: to run.
      out: directory of the results and of all runs, on a path that every node sees.
      jobs: trials at once, None for as many as there is room for.
      ray_address: of a running Ray cluster, None for an embedded one.
      dry_run: only check, and print the commands of the trials.

    Raises `ConfigError` for what would only show when a trial starts, and if `out` is of another
    suite.
    """
    _check(suite, jobs, is_on_cluster=ray_address is not None or dry_run)
    out = out.absolute()
    if dry_run:
        for trial in suite.trials():
            print(
                process.spelling("train"),
                *trials.train_arguments(suite, trial, trials.run_path(out, trial)),
            )
        return ExitCode.DONE
    cluster.check_address(ray_address)
    open_out(suite, out)
    with RunDirectory(out).lock():
        here = int(usable_cores() // suite.resources.cpus)
        cluster.start_ray(ray_address, num_cpus=(jobs or max(1, here)) * suite.resources.cpus)
        try:
            cluster.check_shared("--out", out, ray_address)
            num_jobs = jobs or _room(suite, ray_address)
            is_complete = Driver(suite, out, jobs=num_jobs, ray_address=ray_address).run()
        finally:
            cluster.stop_ray()
    file = results_file(out)
    print(f"results: {file}; compare with: {process.spelling('report')} {file} --out DIR")
    return ExitCode.DONE if is_complete else ExitCode.CRASH


class Driver:
    """Keeps Ray busy with the unfinished trials of a suite; everything it knows is also on disk.

    Args:
      suite: to run.
      out: its directory.
      jobs: trials that are given to Ray at once.
      ray_address: of the cluster, None for an embedded one.
      programs: package of `train` and `resume`.
    """

    def __init__(
        self,
        suite: Suite,
        out: Path,
        *,
        jobs: int,
        ray_address: str | None,
        programs: str = "scripts",
    ):
        self._suite, self._out = suite, out
        self._where = ray_address, programs
        self._jobs = jobs
        self._commits, self._carried = carried_over(suite, out)
        self._finished: dict[Trial, list[results.Row]] = {}
        self._failed: set[Trial] = set()
        self._waiting: collections.deque[Trial] = collections.deque()
        self._running: dict[ray.ObjectRef, Trial] = {}
        self._attempts: dict[Trial, tuple[int, int]] = {}  # attempts without progress, frames then
        resources = suite.resources
        self._run = ray.remote(trials.run).options(
            num_cpus=resources.cpus,
            num_gpus=resources.gpus,
            max_retries=0,
            name=f"suite {suite.name}",
        )

    def run(self) -> bool:
        """Runs until every trial is finished or has failed; returns whether all are finished."""
        all_trials = self._suite.trials()
        for trial in all_trials:
            if trials.is_finished(self._suite, self._path(trial)):
                self._collect(trial)
            elif trial in self._carried:
                self._finished[trial] = self._carried[trial]
            else:
                self._waiting.append(trial)
        if self._finished:
            self._write()
        with SuiteTable(self._suite, len(all_trials)) as table:
            table.event(f"{len(self._finished)} of {len(all_trials)} trials are finished already")
            while self._waiting or self._running:
                self._start()
                ended, _ = ray.wait(list(self._running), timeout=_REFRESH_SECONDS)
                for reference in ended:
                    table.event(self._end(reference))
                shown = {
                    trial: trials.progress(self._path(trial)) for trial in self._running.values()
                }
                table.show(shown, num_finished=len(self._finished), num_failed=len(self._failed))
        return not self._failed

    def _path(self, trial: Trial) -> Path:
        return trials.run_path(self._out, trial)

    def _start(self) -> None:
        while self._waiting and len(self._running) < self._jobs:
            trial = self._waiting.popleft()
            self._running[self._run.remote(self._suite, trial, self._out, *self._where)] = trial

    def _end(self, reference: ray.ObjectRef) -> str:
        """Takes in a trial whose programs have ended; returns what to say about it."""
        trial = self._running.pop(reference)
        try:
            code = ray.get(reference)
            reason = f"exit code {code}"
        except RayError as error:  # the node died, or was taken away
            code, reason = None, type(error).__name__
        if trials.is_finished(self._suite, self._path(trial)):
            self._collect(trial)
            self._write()
            return (
                f"{trials.trial_name(trial)}: finished ({len(self._finished)} of "
                f"{len(self._suite.trials())})"
            )
        return f"{trials.trial_name(trial)}: {reason}, {self._try_again(trial, code)}"

    def _try_again(self, trial: Trial, code: int | None) -> str:
        frames = trials.progress(self._path(trial)).num_frames
        count, before = self._attempts.get(trial, (0, 0))
        count = 1 if frames > before else count + 1
        self._attempts[trial] = count, frames
        if count < _MAX_ATTEMPTS and code not in _FINAL:
            self._waiting.append(trial)
            return f"will go on from {frames:,} frames"
        self._failed.add(trial)
        return (
            f"given up at attempt {count}; see {self._out / 'logs' / trials.trial_name(trial)}.log"
        )

    def _collect(self, trial: Trial) -> None:
        path = self._path(trial)
        self._finished[trial] = trials.rows(self._suite, trial, path)
        self._commits += [f"{COMMIT}{commit}" for commit in trials.commits(path)]

    def _write(self) -> None:
        """Writes the results of all finished trials, in the suite's order."""
        commits = dict.fromkeys(self._commits)
        rows = [row for trial in self._suite.trials() for row in self._finished.get(trial, ())]
        comments = (f"{SUITE}{json.dumps(identity(self._suite))}", *commits)
        results.write(results_file(self._out), results.Results(comments, tuple(rows)))


def _check(suite: Suite, jobs: int | None, *, is_on_cluster: bool) -> None:
    """Raises `ConfigError` for what would only show when a trial starts."""
    if jobs is not None:
        commands.positive("--jobs", jobs)
    if suite.resources.actors == "cluster" and not is_on_cluster:
        raise ConfigError(f"suite {suite.name}: its actors need a cluster; give --ray-address")
    first = suite.trials()[0]
    for game in suite.games:
        config = suite.config(first._replace(game=game))
        commands.check_environment(config)
        if suite.audit is not None:
            heldout.check(config)


def _room(suite: Suite, ray_address: str | None) -> int:
    """Returns how many trials the Ray that runs has CPUs for, at least 1.

    All of them where a cluster is left to decide, and to grow. It cannot with actors that trials
    ask for later, anywhere on the cluster: trials that share too few CPUs would wait for each
    other's.
    """
    if suite.resources.actors == "embedded":
        each = suite.resources.cpus
        if ray_address is not None:
            return len(suite.trials())
    else:
        actors = suite.config(suite.trials()[0]).actors
        each = suite.resources.cpus + actors.num_workers * actors.cpus_per_worker
    return max(1, int(ray.cluster_resources().get("CPU", 0.0) // each))
