"""Rollouts of the tests of pools, and how to wait for what happens in other processes."""

import os
import pathlib
import time

import numpy as np
import ray

from muzero.types import PublishedParams, RolloutResult, Trajectory

PATIENCE = 120.0  # seconds for what has to happen there
SEED = 7
FIRST_SEED = 196984544  # worker 0, incarnation 0 of SEED
SECOND_SEED = 917354989  # worker 0, incarnation 1 of SEED
OTHER_SEED = 37985749  # worker 1, incarnation 0 of SEED
FRAME_BYTES = 300_000  # above Ray's 100 kB for inlined answers: the result lies in the object store


def make_build(act=None):
    """Returns a `build_rollout`; `act(seed, count)` runs inside rollout number `count`.

    Local, so pickled by value.
    """

    class FakeRollout:
        def __init__(self, seed):
            self.seed, self.count = seed, 0

        def run(self, published):
            if act is not None:
                act(self.seed, self.count)
            self.count += 1
            frame = np.full(FRAME_BYTES, self.count, np.uint8)
            trajectory = Trajectory(*([frame] + [np.zeros(1, np.float32)] * 11))
            stats = {"pid": os.getpid(), "seed": self.seed, "version": published.version}
            return RolloutResult(trajectory, [], stats, num_steps=1, num_frames=4)

    return FakeRollout


def published(version):
    return PublishedParams(version, {"w": np.full(100_000, version, np.float32)})


def wait_until(condition, seconds=PATIENCE):
    """Polls until `condition()` holds; fails after `seconds`."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)


def is_alive(pid):
    """Whether the process runs; a zombie does not."""
    try:
        return (
            pathlib.Path(f"/proc/{int(pid)}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
        )
    except (FileNotFoundError, ProcessLookupError):
        return False


def wait_until_answered(pool):
    """Blocks until every request of the pool has been answered."""
    requests = list(pool._in_flight)
    assert requests
    assert len(ray.wait(requests, num_returns=len(requests), timeout=PATIENCE)[0]) == len(requests)
