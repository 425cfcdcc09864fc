"""Order of the test files, and no deadline for hypothesis (its 200 ms measure the other jobs of a
machine).

`make test` deals the files out to two processes, in this order (`--no-loadscope-reorder`). The
tests of the pool and of the groups start Ray in their process and come before JAX has threads
there: Ray forks, and a fork beside a lock that another thread holds can hang for ever. The longest
files come next: no process ends with one of them alone. The second file that needs the smoke run
starts when the first has made it.
"""

import atexit
import os
import shutil
import tempfile
from pathlib import Path

import hypothesis
import jax
import pytest

# The programs that the tests start share what XLA has made, by way of the environment: most of what
# a short run costs. JAX has read it here already: in the tests' own processes, which hardly compile
# a function twice, keys and files would cost as much as they save. The first process makes the
# directory and removes it.
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    os.environ["JAX_COMPILATION_CACHE_DIR"] = tempfile.mkdtemp(prefix="compiled-")
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
    os.environ["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "-1"
    atexit.register(shutil.rmtree, os.environ["JAX_COMPILATION_CACHE_DIR"], ignore_errors=True)
# One thread a process for XLA's products: there are two processes for two cores, and batched solves
# in a pool of two can wait for each other's thread for ever (`muzero.tabular.mdp.policy_value`).
os.environ.setdefault("PJRT_NPROC", "1")
hypothesis.settings.register_profile("busy machine", deadline=None)
hypothesis.settings.load_profile("busy machine")
_FIRST = (
    "actors/test_pool.py",
    "actors/test_rounds.py",
    "scripts/training/test_group.py",
    "scripts/test_train.py",
    "configs/test_paper.py",
    "scripts/test_resume.py",
    "scripts/experiments/test_driver.py",
    "scripts/experiments/test_trials.py",
    "test_docker.py",
    "learner/test_devices.py",
)
_HERE = Path(__file__).parent
_ORDER = {_HERE / name: place for place, name in enumerate(_FIRST)}


def pytest_collection_modifyitems(items):
    """Moves the tests of `_ORDER` to the front; the sort is stable."""
    items.sort(key=lambda item: _ORDER.get(item.path, len(_ORDER)))


@pytest.fixture(scope="module")
def quick_compilation():
    """Has XLA compile quickly: for tests that run a program a few times, whose compilation costs
    far more.
    """
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)
