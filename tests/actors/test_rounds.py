"""The pool of a deterministic run."""

import os
import signal
import time

import numpy as np
import pytest

from actors.pool import ActorPoolError
from actors.rounds import RoundPool
from configs.schema import ActorsConfig
from tests.actors.pools import FIRST_SEED, OTHER_SEED, SEED, make_build, published

pytestmark = pytest.mark.timeout(300)  # Ray may take a minute to start on a busy machine


# in rounds
@pytest.fixture
def make_rounds(local_ray, tmp_path):
    """Returns a factory of pools in rounds with two workers; version 1 is published."""
    pools = []

    def make(build_rollout, seed=SEED, **settings):
        actors = ActorsConfig(num_workers=2, cpus_per_worker=0.5)
        pool = RoundPool(build_rollout, actors, seed=seed, log_dir=tmp_path, **settings)
        pools.append(pool)
        pool.publish(published(1))
        return pool

    yield make
    for pool in pools:
        pool.close()


def counting_rollout(act=None):
    """Returns `build_rollout` of a fake whose whole state is its count."""
    base = make_build(act)

    class Counting(base):
        def run(self, published):
            result = super().run(published)
            return result._replace(search_stats=result.search_stats | {"count": self.count})

        def save(self):
            return {"count": np.array(self.count)}

        def load(self, arrays):
            self.count = int(arrays["count"])

    return Counting


def next_in_round(pool, count):
    results = [pool.next_rollout() for _ in range(count)]
    return [
        (r.origin.worker_id, r.search_stats["count"], r.search_stats["version"]) for r in results
    ]


def test_in_rounds_workers_deliver_in_their_order_with_the_parameters_of_the_round(make_rounds):
    def slow_first(seed, count):
        return time.sleep(0.2 if seed == FIRST_SEED else 0.0)

    pool = make_rounds(counting_rollout(slow_first))
    assert next_in_round(pool, 3) == [(0, 1, 1), (1, 1, 1), (0, 2, 1)]
    pool.publish(published(2))  # in the middle of a round
    assert next_in_round(pool, 3) == [(1, 2, 1), (0, 3, 2), (1, 3, 2)]


def test_states_go_into_new_workers_between_rounds_only(make_rounds):
    pool = make_rounds(counting_rollout())
    next_in_round(pool, 4)
    saved = pool.save()
    assert {name: int(array) for name, array in saved.items()} == {"0/count": 2, "1/count": 2}
    next_in_round(pool, 1)
    with pytest.raises(ActorPoolError, match="not at rest"):
        pool.save()
    other = make_rounds(counting_rollout(), seed=SEED + 1)
    other.load(saved)
    assert next_in_round(other, 2) == [(0, 3, 1), (1, 3, 1)]


def test_in_rounds_a_failure_is_final(make_rounds):
    def act(seed, count):
        if count == 1 and seed == OTHER_SEED:
            os.kill(os.getpid(), signal.SIGKILL)

    pool = make_rounds(counting_rollout(act))
    assert len(next_in_round(pool, 3)) == 3
    with pytest.raises(ActorPoolError, match="where none is replaced"):
        pool.next_rollout()
    with pytest.raises(ActorPoolError):
        pool.save()
