"""Stand-ins for the programs of a trial and for Ray."""

import time
from pathlib import Path

from scripts.experiments import driver, suite_directory, trials

ROOT = Path(__file__).resolve().parents[3]
SECONDS = 500  # on a busy machine; some 30 on an idle one
SUITE = """
preset = "cartpole"
games = ["CartPole-v1"]
seeds = [1, 2]
frames = 1000
[arms.muzero]
loss.past_weight = 0.0
[arms."muzero+past"]
"""


# Ten checkpoints of 100 frames; every start and every end leaves a line in `history`, beside the
# run directory.
PROGRAM = """
import json, os, pathlib, sys, time
is_new = sys.argv[0].endswith("train.py")
path = pathlib.Path(sys.argv[sys.argv.index("--run-dir") + 1] if is_new else sys.argv[1])
history = path.parent.parent / "history"
def note(text):
    with history.open("a") as file:
        file.write(f"{path.name} {text}\\n")
def done():
    return max([0, *(int(slot.parent.name) for slot in path.glob("checkpoints/*/manifest.json"))])
if is_new and path.exists():
    sys.exit("exists")
(path / "evaluations").mkdir(parents=True, exist_ok=True)
(path / "provenance.json").write_text(json.dumps([{"git": {"commit": "of the trial"}}]))
note(f"{'train' if is_new else 'resume'} {done()} {os.getpid()}")
rows = []
if not is_new:
    lines = (path / "metrics.jsonl").read_text().splitlines()
    rows = [json.loads(row) for row in lines][:done()]
while len(rows) < 10:
    time.sleep(PAUSE)
    n = len(rows) + 1
    rows.append({"num_frames": 100 * n, "wall_seconds": 2.0 * n, "episode/return": 5.0})
    (path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\\n" for row in rows))
    slot = path / "checkpoints" / str(len(rows))
    slot.mkdir(parents=True)
    (slot / "manifest.json").write_text("{}")
frames = [row["num_frames"] for row in rows]
episodes = [{"num_frames": number, "episode": [number / 10, 1, 1]} for number in frames]
(path / "episodes.jsonl").write_text("".join(json.dumps(row) + "\\n" for row in episodes))
note("end")
for name in ("final", "random"):
    file = path / "evaluations" / f"{name}.json"
    file.write_text(json.dumps({"mean": 7.0, "standard_error": 0.5, "returns": [6.5, 7.5]}))
"""


def make_programs(folder, pause):
    folder.mkdir()
    for name in ("train.py", "resume.py"):
        (folder / name).write_text(PROGRAM.replace("PAUSE", str(pause)))
    return folder.name


def history(out):
    path = out / "history"
    return [line.split() for line in path.read_text().splitlines()] if path.exists() else []


def is_alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def wait_for(condition, seconds=SECONDS):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "nothing happened"
        time.sleep(0.05)


class Ray:
    """Stands for Ray: runs a trial at once, and says what became of it."""

    def __init__(self, monkeypatch, run):
        self.run, self.refused = run, 0
        monkeypatch.setattr(driver.ray, "remote", lambda function: self)
        monkeypatch.setattr(
            driver.ray, "wait", lambda references, timeout: (references[:1], references[1:])
        )
        monkeypatch.setattr(driver.ray, "get", lambda reference: reference())

    def options(self, **resources):
        self.resources = resources
        return self

    def remote(self, *arguments):
        return lambda: self.run(*arguments)


def run_all(found, out, programs, monkeypatch):
    """Runs a suite with a stand-in of Ray; returns the trials that were run."""
    ran = []
    Ray(
        monkeypatch,
        lambda suite, trial, *others: ran.append(trial) or trials.run(suite, trial, *others),
    )
    suite_directory.open_out(found, out)
    assert driver.Driver(found, out, jobs=1, ray_address=None, programs=programs).run()
    return ran
