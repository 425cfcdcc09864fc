"""The memory of a run over time: every process of a training run is sampled,
and what grew is told.
"""

import csv
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import psutil

from learner.records.run_directory import read_rows
from scripts.program.process import run_as_module

SAMPLE_SECONDS = 5.0
WARM_UP_MINUTES, MAX_GROWTH = 5.0, 0.02
MEGABYTE = 2**20


class Sample(NamedTuple):
    """The resident memory of one process at one time."""

    minutes: float
    pid: int
    name: str
    bytes: int


def record(command: list[str]) -> list[Sample]:
    """Returns samples of a program and all its children, until it ends."""
    program, started, samples = subprocess.Popen(command), time.monotonic(), []
    while program.poll() is None:
        minutes = (time.monotonic() - started) / 60
        samples += [Sample(minutes, *process) for process in family(program.pid)]
        time.sleep(SAMPLE_SECONDS)
    if program.returncode != 0:
        print(
            f"error: {' '.join(command)} ended with exit code {program.returncode}", file=sys.stderr
        )
        raise SystemExit(program.returncode)
    return samples


def family(pid: int) -> list[tuple[int, str, int]]:
    """Returns (pid, name, resident bytes) of a process and its descendants; what ends meanwhile is
    left out.
    """
    found = []
    try:
        root = psutil.Process(pid)
        for process in [root, *root.children(recursive=True)]:
            found.append((process.pid, title(process), process.memory_info().rss))
    except psutil.NoSuchProcess:
        pass
    return found


def title(process: psutil.Process) -> str:
    """Returns what a process calls itself: Ray's write it where the command was."""
    command = process.cmdline()
    return command[0] if command and "::" in command[0] else process.name()


def growth(samples: list[Sample]) -> dict[str, float]:
    """Returns, of each process that lived from the end of the warm-up to the end, the growth of its
    memory.

    That time in tenths, the median of each: single samples jump with the garbage of an update. The
    last is compared with the lowest, so that memory given back late does not hide what grows
    afterwards.
    """
    end = max(sample.minutes for sample in samples)
    tenth = (end - WARM_UP_MINUTES) / 10
    grown = {}
    for pid in {sample.pid for sample in samples}:
        rows = [
            sample for sample in samples if sample.pid == pid and sample.minutes > WARM_UP_MINUTES
        ]
        parts = [[] for _ in range(10)]
        for row in rows:
            parts[min(9, int((row.minutes - WARM_UP_MINUTES) / tenth))].append(row.bytes)
        if all(parts):
            medians = [float(statistics.median_high(part)) for part in parts]
            grown[f"{rows[-1].name} ({pid})"] = medians[-1] / min(medians) - 1.0
    return grown


def late_compilations(metrics: Path) -> int:
    """Returns how many programs the learner compiled after the warm-up, from its metrics.jsonl."""
    counts = [
        row["perf/compilations"]
        for row in read_rows(metrics)
        if row["wall_seconds"] >= 60 * WARM_UP_MINUTES
    ]
    return int(counts[-1] - counts[0]) if counts else 0


def write(samples: list[Sample], out: Path) -> None:
    """Writes OUT.csv and OUT.png."""
    out.parent.mkdir(parents=True, exist_ok=True)
    with out.with_suffix(".csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(Sample._fields)
        writer.writerows((f"{row.minutes:.2f}", *row[1:]) for row in samples)
    figure, axes = plt.subplots(figsize=(8, 4.5))
    for pid in dict.fromkeys(row.pid for row in samples):
        rows = [row for row in samples if row.pid == pid]
        if max(row.bytes for row in rows) > 100 * MEGABYTE:  # Ray's helpers are many and small
            axes.plot(
                [row.minutes for row in rows],
                [row.bytes / MEGABYTE for row in rows],
                label=rows[-1].name,
            )
    axes.set(xlabel="minutes", ylabel="resident memory (MiB)", ylim=(0, None))
    axes.legend(fontsize="small")
    figure.tight_layout()
    figure.savefig(out.with_suffix(".png"), dpi=120)


def watch_training(preset: str, out: Path, run_dir: Path, minutes: float) -> int:
    """Trains `preset` for some minutes and writes OUT.csv and OUT.png; returns 1 if anything grew
    or was compiled late.

    Args:
      preset: of `train.py`.
      out: path of the record without its ending.
      run_dir: of the new run.
      minutes: length of the run; too short a one is refused with exit code 2.
    """
    if minutes < 2 * WARM_UP_MINUTES:
        least = (
            f"must be at least {2 * WARM_UP_MINUTES:g}, of which {WARM_UP_MINUTES:g} are warm-up"
        )
        print(f"error: --minutes = {minutes:g}: {least}", file=sys.stderr)
        return 2
    command = [sys.executable, *run_as_module("train", preset, "--run-dir", str(run_dir))]
    only_time = [
        "--stop.minutes",
        str(minutes),
        "--stop.num-frames",
        "None",
        "--stop.num-updates",
        "None",
    ]
    samples = record([*command, *only_time, "--log.evaluation-episodes", "1"])
    write(samples, out)
    grown, compiled = growth(samples), late_compilations(run_dir / "metrics.jsonl")
    for name, fraction in sorted(grown.items()):
        print(f"{100 * fraction:+.2f} %  {name}")
    print(f"{compiled} programs compiled after minute {WARM_UP_MINUTES:g}")
    return int(compiled > 0 or any(fraction >= MAX_GROWTH for fraction in grown.values()))
