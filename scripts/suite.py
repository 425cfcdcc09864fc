"""Runs every trial of a suite and collects the results: games × seeds × arms.

    python scripts/suite.py run minatar --out runs/minatar
    python scripts/suite.py run minatar --out runs/two --games MinAtar/Breakout-v1 --seeds 7 8 --frames 200000
    python scripts/suite.py run atari57 --out /shared/runs/atari57 --ray-address auto

SUITE is a name in configs/suites/ or a .toml file like those. The same command again goes on after anything died:
finished trials are not repeated, the others continue from their checkpoints. DIR/results.csv grows with every finished
trial; `scripts/report.py` compares the arms. It is also all that has to be kept of a finished trial: put into an empty
DIR on another machine, the suite goes on there. A DIR may grow by games and seeds, and nothing else of its suite may
change. Exit code 1: a trial was given up, the others are finished.
"""

import collections
import dataclasses
import json
import sys
from pathlib import Path
from typing import Annotated, Literal

import ray
import tyro
from ray.exceptions import RayError

from actors.cores import usable_cores
from configs import suite as suites
from configs.schema import ConfigError
from configs.suite import Suite, Trial
from learner.run_directory import RunDirectory
from scripts import cluster, commands, results, trials
from scripts.exit_codes import ExitCode
from scripts.inspection import heldout
from scripts.suite_directory import COMMIT, SUITE, carried_over, identity, open_out, results_file
from scripts.suite_table import SuiteTable

_MAX_ATTEMPTS = 3  # without a frame of progress
_FINAL = (ExitCode.BAD_INPUT, ExitCode.NOT_FINITE)  # another attempt would end the same way
_REFRESH_SECONDS = 1.0


@dataclasses.dataclass(frozen=True)
class Options:
    """What to run, and where to."""

    action: Annotated[Literal["run"], tyro.conf.Positional]
    """`run`: starts the suite, or goes on with it."""
    suite: Annotated[str, tyro.conf.Positional]
    """A suite in configs/suites/, or a .toml file."""
    out: Path
    """Directory of the results and of all runs, on a path that every node sees."""
    games: tuple[str, ...] | None = None
    """In place of the suite's own."""
    seeds: tuple[int, ...] | None = None
    """In place of the suite's own."""
    frames: int | None = None
    """Emulator frames of a trial, in place of the suite's own."""
    jobs: int | None = None
    """Trials at once. Default: as many as Ray has room for, with `actors = "cluster"` as many as fit together now."""
    ray_address: str | None = None
    """A running Ray cluster to join (`auto` or HOST:PORT). Default: an embedded one on this machine."""
    dry_run: bool = False
    """Check everything, print the commands of the trials, start nothing."""


class Driver:
    """Keeps Ray busy with the unfinished trials of a suite; everything it knows is also on disk.

    Args:
      suite: to run.
      out: its directory.
      jobs: trials that are given to Ray at once.
      ray_address: of the cluster, None for an embedded one.
      programs: folder of `train.py` and `resume.py`; None: this one.
    """

    def __init__(self, suite: Suite, out: Path, *, jobs: int, ray_address: str | None, programs: Path | None = None):
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
            num_cpus=resources.cpus, num_gpus=resources.gpus, max_retries=0, name=f"suite {suite.name}"
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
                shown = {trial: trials.progress(self._path(trial)) for trial in self._running.values()}
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
            return f"{trials.trial_name(trial)}: finished ({len(self._finished)} of {len(self._suite.trials())})"
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
        return f"given up at attempt {count}; see {self._out / 'logs' / trials.trial_name(trial)}.log"

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


def _check(suite: Suite, options: Options) -> None:
    """Raises `ConfigError` for what would only show when a trial starts."""
    if options.jobs is not None:
        commands.positive("--jobs", options.jobs)
    if suite.resources.actors == "cluster" and options.ray_address is None and not options.dry_run:
        raise ConfigError(f"suite {suite.name}: its actors need a cluster; give --ray-address")
    first = suite.trials()[0]
    for game in suite.games:
        config = suite.config(first._replace(game=game))
        commands.check_environment(config)
        if suite.audit is not None:
            heldout.check(config)


def main(argv: list[str]) -> int:
    """Runs the program; returns its exit code."""
    options = tyro.cli(Options, prog="suite.py", args=argv, description=__doc__)
    suite = suites.overridden(suites.load(options.suite), options.games, options.seeds, options.frames)
    _check(suite, options)
    out = options.out.absolute()
    if options.dry_run:
        for trial in suite.trials():
            print("python scripts/train.py", *trials.train_arguments(suite, trial, trials.run_path(out, trial)))
        return ExitCode.DONE
    cluster.check_address(options.ray_address)
    open_out(suite, out)
    with RunDirectory(out).lock():
        here = int(usable_cores() // suite.resources.cpus)
        cluster.start_ray(options.ray_address, num_cpus=(options.jobs or max(1, here)) * suite.resources.cpus)
        try:
            cluster.check_shared("--out", out, options.ray_address)
            jobs = options.jobs or _room(suite, options.ray_address)
            is_complete = Driver(suite, out, jobs=jobs, ray_address=options.ray_address).run()
        finally:
            cluster.stop_ray()
    file = results_file(out)
    print(f"results: {file}; compare with: python scripts/report.py {file} --out DIR")
    return ExitCode.DONE if is_complete else ExitCode.CRASH


def _room(suite: Suite, ray_address: str | None) -> int:
    """Returns how many trials the Ray that runs has CPUs for, at least 1.

    All of them where a cluster is left to decide, and to grow. It cannot with actors that trials ask for later,
    anywhere on the cluster: trials that share too few CPUs would wait for each other's.
    """
    if suite.resources.actors == "embedded":
        each = suite.resources.cpus
        if ray_address is not None:
            return len(suite.trials())
    else:
        actors = suite.config(suite.trials()[0]).actors
        each = suite.resources.cpus + actors.num_workers * actors.cpus_per_worker
    return max(1, int(ray.cluster_resources().get("CPU", 0.0) // each))


if __name__ == "__main__":
    sys.exit(commands.run(main))
