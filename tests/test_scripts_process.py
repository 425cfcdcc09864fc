"""What is done to a process before JAX starts in it: memory that was given back is not faulted in again."""

import os
import subprocess
import sys

import pytest

from scripts import process

# The memory of an update, taken and given back by another thread, as XLA's do; prints the page faults of the last ten.
PROGRAM = """
import resource, threading
import numpy as np
from scripts import process
if {keep}: process.keep_heap()
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
glibc_only = pytest.mark.skipif("CS_GNU_LIBC_VERSION" not in os.confstr_names, reason="glibc's malloc alone is told")


def page_faults(keep, **environment):
    command = [sys.executable, "-c", PROGRAM.format(keep=keep)]
    done = subprocess.run(command, env=os.environ | environment, capture_output=True, text=True, check=True)
    return int(done.stdout)


@glibc_only
def test_memory_of_any_thread_is_kept_for_the_next_update():
    assert page_faults(keep=False) > 100  # else this shows nothing here
    assert page_faults(keep=True) < 10


@glibc_only
def test_workers_are_told_the_same_by_their_environment():
    assert page_faults(keep=False, **process.WORKER_ENV_VARS) < 10
