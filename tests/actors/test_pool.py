"""The pool: whom it asks, with which parameters, in which order; workers that die, raise, hang, or
find no place.
"""

import logging
import math
import os
import signal
import sys
import threading
import time

import pytest
import ray
from ray import exceptions

from actors import cores
from actors.patience import Patience
from actors.pool import ActorPoolError
from actors.worker import is_placed, worker_seed
from tests.actors.pools import (
    FIRST_SEED,
    FRAME_BYTES,
    OTHER_SEED,
    PATIENCE,
    SECOND_SEED,
    SEED,
    is_alive,
    make_build,
    published,
    wait_until,
    wait_until_answered,
)

pytestmark = pytest.mark.timeout(300)  # Ray may take a minute to start on a busy machine


# order and bounds
def test_a_rollout_acts_with_the_parameters_that_are_the_newest_when_it_is_asked_for(make_pool):
    pool = make_pool(make_build())
    versions = [pool.next_rollout().search_stats["version"]]
    pool.publish(published(2))
    pool.publish(published(3))
    versions += [pool.next_rollout().search_stats["version"] for _ in range(2)]
    assert versions == [1, 3, 3]  # version 2 reached nobody


def test_in_rounds_nobody_acts_on_while_others_are_waited_for(make_pool):
    pool, other = (
        make_pool(make_build(), num_workers=2, in_rounds=in_rounds) for in_rounds in (True, False)
    )
    versions = [pool.next_rollout().search_stats["version"] for _ in range(2)]
    assert pool.num_in_flight == 0
    pool.publish(published(2))
    versions += [pool.next_rollout().search_stats["version"] for _ in range(2)]
    assert versions == [1, 1, 2, 2]
    # Else one is asked again
    assert [other.next_rollout() and other.num_in_flight for _ in range(2)] == [
        1,
        1,
    ]


def test_in_flight_is_bounded_and_nothing_acts_unasked(make_pool, tmp_path):
    tape = tmp_path / "tape"
    tape.touch()

    def act(seed, count):
        with open(tape, "a") as file:
            file.write("x")

    pool = make_pool(make_build(act), max_in_flight=2)
    time.sleep(0.3)
    assert tape.read_text() == ""
    pool.next_rollout()
    wait_until(lambda: len(tape.read_text()) >= 2)
    time.sleep(0.3)
    assert tape.read_text() == "xx"  # one handed over, one in flight, no third before the next call
    assert pool.num_dropped == 0


def test_answers_are_handed_over_in_the_order_of_their_requests(make_pool):
    pool = make_pool(make_build(), num_workers=2)
    pool.next_rollout()
    seeds = []
    for _ in range(6):
        # The other worker's; a call asks the one that delivered last again
        wait_until_answered(pool)
        seeds.append(pool.next_rollout().search_stats["seed"])
    assert sorted(seeds[:2]) == sorted([FIRST_SEED, OTHER_SEED])
    assert seeds == seeds[:2] * 3  # a busy caller starves no worker


def test_a_drained_pool_is_idle_and_goes_on_when_asked(make_pool):
    pool = make_pool(make_build(), num_workers=2)
    pool.next_rollout()
    wait_until_answered(pool)
    # The other worker's; the first has not been asked again
    assert (pool.num_in_flight, pool.num_waiting) == (
        1,
        1,
    )
    assert len(pool.drain()) == 1
    assert (pool.num_in_flight, pool.num_waiting) == (0, 0)
    assert pool.drain() == []
    pool.next_rollout()


def test_arrays_are_read_only_and_references_are_dropped(make_pool):
    def num_references():
        return len(ray._private.worker.global_worker.core_worker.get_all_reference_counts())

    pool = make_pool(make_build())
    result = pool.next_rollout()
    assert result.trajectory.observation.shape == (FRAME_BYTES,)
    assert not result.trajectory.observation.flags.writeable
    del result
    before = num_references()
    for version in range(2, 12):
        pool.publish(published(version))
        pool.next_rollout()
    wait_until(lambda: num_references() <= before)


# the worker's process
def test_worker_pins_before_it_unpickles_and_keeps_jax_off_the_gpu(make_pool, tmp_path):
    build_rollout = make_build()

    class Builder:
        def __init__(self):
            self.seen = "a state, or __setstate__ is not called"

        def __setstate__(self, state):
            self.seen = {"jax": "jax" in sys.modules, "cores": os.sched_getaffinity(0)}

        def __call__(self, seed):
            rollout = build_rollout(seed)
            env = {"env": os.environ["JAX_PLATFORMS"], "threads": os.environ["PJRT_NPROC"]}
            run, seen = rollout.run, self.seen | env
            rollout.run = lambda published: run(published)._replace(search_stats=seen)
            return rollout

    env_vars = {"TMPDIR": str(tmp_path)}  # claims of its own
    stats = make_pool(Builder(), cores_per_worker=1, env_vars=env_vars).next_rollout().search_stats
    may_pin = cores._quota() == math.inf
    assert len(stats.pop("cores") & os.sched_getaffinity(0)) == (
        1 if may_pin else len(os.sched_getaffinity(0))
    )
    assert stats == {"jax": False, "env": "cpu", "threads": "1"}


# failures
def test_killed_worker_is_replaced_with_another_seed(make_pool, tmp_path):
    def act(seed, count):
        if seed == FIRST_SEED and count == 1:
            time.sleep(600)

    pool = make_pool(make_build(act), max_in_flight=2)
    first = pool.next_rollout().search_stats
    os.kill(first["pid"], signal.SIGKILL)
    second = pool.next_rollout().search_stats
    assert (first["seed"], second["seed"]) == (FIRST_SEED, SECOND_SEED)
    assert second["pid"] != first["pid"]
    assert pool.num_dropped == 2
    log = (tmp_path / "logs" / "worker-000.log").read_text()
    assert log.count("starts: incarnation 0") == 1 and log.count("starts: incarnation 1") == 1


def test_raising_worker_is_logged_replaced_and_forgiven_after_a_rollout(
    make_pool, tmp_path, caplog
):
    def act(seed, count):
        if count == 1:
            raise ValueError("broken emulator")

    pool = make_pool(make_build(act), max_restarts=1)
    with caplog.at_level(logging.ERROR, logger="actors.pool"):
        stats = [pool.next_rollout().search_stats for _ in range(3)]
    assert [row["seed"] for row in stats] == [FIRST_SEED, SECOND_SEED, worker_seed(SEED, 0, 2)]
    assert pool.num_dropped == 2  # twice in all, but never twice in a row
    assert (
        "worker 0 (incarnation 0) failed" in caplog.text
        and "in act\n    raise ValueError" in caplog.text
    )
    log = (tmp_path / "logs" / "worker-000.log").read_text()
    assert log.count("Traceback") >= 2 and "ValueError: broken emulator" in log
    wait_until(lambda: not is_alive(stats[0]["pid"]))


def test_an_exception_that_nobody_else_can_read_is_a_failure_like_any_other(make_pool, caplog):
    class TwoArguments(Exception):
        def __init__(self, what, where):
            super().__init__(f"{what} in {where}")  # unpickled with one argument: it cannot be

    def act(seed, count):
        if seed == FIRST_SEED and count == 1:
            raise TwoArguments("broken", "emulator")

    pool = make_pool(make_build(act))
    assert [pool.next_rollout().search_stats["seed"] for _ in range(2)] == [FIRST_SEED, SECOND_SEED]
    assert pool.num_dropped == 1 and "worker 0 (incarnation 0) failed" in caplog.text


@pytest.mark.parametrize("num_errors, seed", [(1, FIRST_SEED), (2, SECOND_SEED)])
def test_unreachable_worker_is_asked_again_once_and_then_replaced(
    make_pool, monkeypatch, num_errors, seed
):
    """A node that died without a word answers so for half a minute:
    the restarts must outlast it.
    """
    pool = make_pool(make_build())
    first = pool.next_rollout().search_stats
    real_get, errors = ray.get, [exceptions.ActorUnavailableError("network", None)] * num_errors
    monkeypatch.setattr(
        ray, "get", lambda ref: real_get(ref) if not errors else (_ for _ in ()).throw(errors.pop())
    )
    second = pool.next_rollout().search_stats
    assert not errors
    assert second["seed"] == seed and (second["pid"] == first["pid"]) == (num_errors == 1)
    assert pool.num_dropped == num_errors


def test_crash_loop_ends_with_the_last_cause(make_pool, tmp_path):
    """On a busy machine Ray may see the process end before it hears why; the worker's log has the
    reason always.
    """

    def build(seed):
        raise LookupError(f"no such game {seed}")

    pool = make_pool(build, max_restarts=1)
    reason = rf"(no such game {SECOND_SEED}|The actor died unexpectedly)"
    with pytest.raises(
        ActorPoolError, match=rf"(?s)incarnation 1\) failed 2 times in a row, at last: .*{reason}"
    ) as info:
        pool.next_rollout()
    assert f"no such game {SECOND_SEED}" in (tmp_path / "logs" / "worker-000.log").read_text()
    assert isinstance(info.value.__cause__, exceptions.ActorDiedError)
    assert pool.num_dropped == 2
    with pytest.raises(ActorPoolError, match="closed"):
        pool.next_rollout()


def test_rests_double_up_to_a_minute(make_pool):
    pool = make_pool(make_build(), restart_backoff_seconds=8.0)
    rests = []
    for _ in range(5):
        pool._lose(pool._workers[0], TimeoutError("again"))
        rests.append(pool._workers[0].due - time.monotonic())
    assert rests == pytest.approx([8, 16, 32, 60, 60], abs=1.0)
    with pytest.raises(ActorPoolError, match="6 times in a row, at last: again"):
        pool._lose(pool._workers[0], TimeoutError("again"))


@pytest.mark.parametrize("num_workers", [1, 2])
def test_hung_worker_meets_its_deadline_while_others_deliver(make_pool, num_workers, monkeypatch):
    def act(seed, count):
        time.sleep(600 if seed == FIRST_SEED and count == 1 else 0.02)

    pool = make_pool(make_build(act), num_workers=num_workers)
    pids, seeds = {}, []

    def hand_over():
        stats = pool.next_rollout().search_stats
        pids[stats["seed"]] = stats["pid"]
        seeds.append(stats["seed"])

    while len(pids) < num_workers:
        hand_over()
    hung = pool._workers[0]
    assert 500 < hung.due - time.monotonic() <= 600  # the default
    arm = pool._arm

    def arm_impatiently(
        worker,
    ):  # only now, when all processes run: a start may take long on a busy machine
        arm(worker)
        if (worker.worker_id, worker.incarnation) == (0, 0):
            worker.due = time.monotonic() + 0.5

    monkeypatch.setattr(pool, "_arm", arm_impatiently)
    if pool._requests_of(hung):
        hung.due = time.monotonic() + 0.5
    while SECOND_SEED not in seeds:
        hand_over()
    assert seeds.count(FIRST_SEED) == 1
    assert seeds.count(OTHER_SEED) >= 3 * (num_workers - 1)
    assert pool.num_dropped == 1
    wait_until(lambda: not is_alive(pids[FIRST_SEED]))


def test_a_worker_without_a_place_waits_for_one_and_has_not_failed(make_pool, caplog):
    pool = make_pool(make_build(), num_workers=2, cpus_per_worker=2.0)  # Ray has 2 CPUs: one place
    assert pool.next_rollout().search_stats["seed"] == FIRST_SEED
    waiting = pool._workers[1]
    assert [is_placed(worker.handle) for worker in pool._workers] == [True, False]
    waiting.due = 0.0
    pool.next_rollout()
    assert "worker 1 waits: Ray has had no place for it in 600 s" in caplog.text
    assert waiting.num_failures == 0 and waiting.incarnation == 0 and waiting.due > time.monotonic()


def test_a_worker_that_owes_nothing_does_not_hang(make_pool):
    """In rounds, with a rollout of the round still here: who has delivered is not asked again."""
    pool = make_pool(make_build(), num_workers=2, in_rounds=True)
    pids = {pool.next_rollout().search_stats["pid"]}
    wait_until_answered(pool)
    for worker in pool._workers:
        worker.due = 0.0  # the caller was away for long
    pids |= {pool.next_rollout().search_stats["pid"] for _ in range(3)}
    assert len(pids) == 2 and pool.num_dropped == 0


def test_patience_is_long_for_the_first_rollout_and_follows_the_slowest():
    patience = Patience(least_seconds=10.0, first_seconds=100.0)
    assert patience.seconds == 100.0
    seen = []
    for seconds in (1.0, 4.0, 2.0):
        patience.note(seconds)
        seen.append(patience.seconds)
    assert seen == [10.0, 20.0, 20.0]


def test_a_rollout_says_how_long_it_took(make_pool):
    pool = make_pool(make_build(lambda seed, count: time.sleep(0.2)))
    assert 0.2 <= pool.next_rollout().seconds < 60.0


def test_a_late_caller_is_not_a_hung_worker(make_pool):
    pool = make_pool(make_build(), num_workers=2)
    pids = [pool.next_rollout().search_stats["pid"]]
    wait_until_answered(pool)
    for worker in pool._workers:
        # The answer of one of them has been waiting here for that long
        worker.due = time.monotonic() - 1.0
    pids += [pool.next_rollout().search_stats["pid"] for _ in range(3)]
    assert len(set(pids)) == 2
    assert pool.num_dropped == 0


# the end
def test_close_leaves_no_process_and_wakes_a_blocked_caller(make_pool):
    def act(seed, count):
        if count == 1:
            time.sleep(600)

    pool = make_pool(make_build(act), num_workers=2)
    pids = [pool.next_rollout().search_stats["pid"] for _ in range(2)]
    assert len(set(pids)) == 2 and all(map(is_alive, pids))
    raised = []

    def block():
        with pytest.raises(ActorPoolError, match="closed"):
            pool.next_rollout()
        raised.append(True)

    thread = threading.Thread(target=block)
    thread.start()
    time.sleep(0.3)
    assert thread.is_alive()
    pool.close()
    pool.close()
    thread.join(PATIENCE)
    assert raised == [True]
    wait_until(lambda: not any(map(is_alive, pids)))
    # In the middle of a batch, whose updates are to be counted: the next rollout says why
    pool.publish(published(2))
    assert pool._published is None
    with pytest.raises(ActorPoolError, match="closed"):
        pool.next_rollout()


def test_close_wakes_a_caller_whose_workers_never_found_a_cpu(make_pool):
    pool = make_pool(make_build(), cpus_per_worker=64)
    threading.Timer(0.5, pool.close).start()
    with pytest.raises(ActorPoolError, match="closed"):
        pool.next_rollout()


def test_misuse_is_refused(make_pool, monkeypatch):
    with pytest.raises(ActorPoolError, match="publish"):
        make_pool(make_build(), publish=False).next_rollout()
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    with pytest.raises(ActorPoolError, match="ray.init"):
        make_pool(make_build())
