"""What is done to a process: memory that was given back is not faulted in again, and nobody has to
read along.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from scripts.program import reexecution, streams
from scripts.program.process import tied_command

# The memory of an update, taken and given back by another thread, as XLA's do; prints the page
# faults of the last ten.
PROGRAM = """
import resource, sys, threading
import numpy as np
from scripts.program import reexecution
import pathlib
if "ours" in sys.argv: reexecution.PROGRAMS = pathlib.Path(__file__).resolve().parent
if "debugged" in sys.argv: sys.settrace(lambda *_: None)
if "keep" in sys.argv: reexecution.reexecute_with_jemalloc()
def update():
    np.ones(100 * 2**20, np.uint8)
def updates(count):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(count):
        update()
    faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
faults = []
def work():
    for _ in range(2):
        updates(10)
thread = threading.Thread(target=work)
thread.start()
thread.join()
print(faults[-1])
"""
WORKER = """
import ray
from scripts.program import reexecution
ray.init(num_cpus=1, include_dashboard=False)
maps = ray.remote(lambda: open("/proc/self/maps").read())
with_jemalloc = maps.options(runtime_env={"env_vars": reexecution.jemalloc_env_vars()})
assert "jemalloc" in ray.get(with_jemalloc.remote())
"""
PLAIN = {
    name: value for name, value in os.environ.items() if name not in ("LD_PRELOAD", "MALLOC_CONF")
}
pytestmark = pytest.mark.skipif(
    not reexecution.jemalloc_env_vars(), reason="Ray brings no jemalloc to this machine"
)


def page_faults(command, environment=PLAIN):
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return int(done.stdout)


@pytest.fixture
def program(tmp_path):
    """Returns the path of the program."""
    path = tmp_path / "program.py"
    path.write_text(PROGRAM)
    return str(path)


def test_memory_of_any_thread_is_kept_for_the_next_update(program):
    assert page_faults([sys.executable, program]) > 100  # else this shows nothing here
    # Starts again, once, with its arguments
    assert page_faults([sys.executable, program, "keep", "ours"]) < 10


def test_programs_that_call_ours_and_those_under_a_debugger_do_not_start_again(program):
    assert page_faults([sys.executable, program, "keep"]) > 100
    assert page_faults([sys.executable, program, "keep", "ours", "debugged"]) > 100


def test_a_tied_program_and_a_process_of_that_environment_keep_theirs(program):
    assert page_faults(tied_command(program)) < 10
    assert page_faults([sys.executable, program], PLAIN | reexecution.jemalloc_env_vars()) < 10


def test_what_a_user_preloads_stays(program):
    assert (
        page_faults([sys.executable, program, "keep", "ours"], PLAIN | {"LD_PRELOAD": "libm.so.6"})
        > 100
    )


def test_the_settings_of_a_users_jemalloc_stay(monkeypatch):
    monkeypatch.setenv("MALLOC_CONF", "narenas:1")
    assert reexecution.jemalloc_env_vars()["MALLOC_CONF"] == "narenas:1"


UNREAD = """
import sys, time
from scripts.program import streams
sys.stdout = streams.ClosedPipeSurvivor(sys.stdout)
for n in range(3):
    print(n, flush=True)
    time.sleep(0.5)
print("end", file=sys.stderr)
"""


def test_a_program_outlives_its_reader():
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", 'exec "$0" -c "$1" | head -n 1', sys.executable, UNREAD],
        cwd=Path(__file__).parents[3], capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr) == (0, "0\n", "end\n")


BROKEN = """
import os, pty, sys
from scripts.program import streams
kind = sys.argv[1]
if kind == "terminal":
    ours, theirs = pty.openpty()
    os.close(ours)
    stream = open(theirs, "w")
elif kind == "closed":
    stream = open(os.devnull, "w")
    stream.close()
else:
    stream = {"full": lambda: open("/dev/full", "w"), "none": lambda: None}[kind]()
sys.stdout = streams.ClosedPipeSurvivor(stream)
for n in range(3):
    print("line", n, flush=True)
print("end", file=sys.stderr)
"""


@pytest.mark.parametrize("kind", ["terminal", "full", "closed", "none"])
def test_a_program_outlives_its_terminal_its_disk_and_its_file(kind):
    done = subprocess.run(
        [sys.executable, "-c", BROKEN, kind],
        cwd=Path(__file__).parents[3], capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "end\n")


def test_a_letter_that_a_terminal_lacks_is_spelt_out(tmp_path):
    with open(tmp_path / "log", "w", encoding="ascii") as file:
        print("\N{GREEK SMALL LETTER PI}", file=streams.ClosedPipeSurvivor(file))
    assert (tmp_path / "log").read_text() == "\\u03c0\n"


def test_the_environment_reaches_a_worker_of_ray():
    """Ray takes LD_PRELOAD away from its workers, but not what their own environment says."""
    subprocess.run([sys.executable, "-c", WORKER], env=PLAIN, check=True, capture_output=True)
