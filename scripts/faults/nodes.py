"""Faults of nodes in Ray clusters on this machine: one dies, another joins, with actors or the
learner; one is full.
"""

import concurrent.futures
import contextlib
import json
import os
import secrets
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import ray
from ray._private import internal_api
from ray._private.authentication.authentication_token_setup import enable_token_auth_by_default
from ray.cluster_utils import Cluster

from actors.pool import ActorPool
from muzero.types import PublishedParams
from scripts.faults import marked, runs
from scripts.faults.registry import Outcome, fault

STORE_BYTES = 80 * 2**20  # Ray takes no less
_ATTEMPTS = 5
_RAY = Path(sys.executable).with_name("ray")


@contextlib.contextmanager
def ray_cluster(**head: object) -> Iterator[Cluster]:
    """Yields a cluster of one node that this process has joined; nothing of it outlives the
    context.

    It asks for a token, that of an embedded Ray before it if there was one; programs started
    meanwhile inherit it.
    """
    ray.shutdown()
    os.environ.setdefault("RAY_worker_niceness", "0")  # as `start_ray`
    os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
    enable_token_auth_by_default()  # `ray.init` does so, `Cluster` does not
    settings = {"include_dashboard": False, "object_store_memory": STORE_BYTES, **head}
    cluster = _patiently(lambda: Cluster(initialize_head=True, head_node_args=settings))
    try:
        ray.init(address=cluster.address, log_to_driver=False)
        yield cluster
    finally:
        ray.shutdown()
        cluster.shutdown()


def _patiently(start_node: Callable[[], Any]) -> Any:
    """Returns `start_node()`, called again if it took longer than the 30 s that Ray grants, on a
    busy machine.
    """
    before = set(psutil.Process().children(recursive=True))
    for _ in range(_ATTEMPTS - 1):
        try:
            return start_node()
        except Exception as error:
            if "timed out during startup" not in str(error):
                raise
        for process in set(psutil.Process().children(recursive=True)) - before:
            process.kill()
    return start_node()


def add_node(cluster: Cluster) -> Any:
    """Returns a new node with room for one actor."""
    return _patiently(lambda: cluster.add_node(num_cpus=1, object_store_memory=STORE_BYTES))


def _processes(node) -> list[int]:
    """Returns the raylet of a node and all that it has started."""
    raylet = psutil.Process(node.all_processes["raylet"][0].process.pid)
    return [raylet.pid, *(child.pid for child in raylet.children(recursive=True))]


@fault(
    injected="SIGKILL of one of two nodes with an actor on it; then another node joins "
    "(ray.cluster_utils.Cluster)",
    promised="the actor on the other node plays on; what was in flight is dropped and counted; the "
    "capacity returns",
    is_quick=False,
)
def node_killed_and_another_joins(folder: Path) -> Outcome:
    """The raylet is killed, and its workers die with it."""
    with ray_cluster(num_cpus=1) as cluster:
        node = add_node(cluster)
        with (
            marked.pool(folder, num_bytes=10**6) as pool,
            concurrent.futures.ThreadPoolExecutor(1) as thread,
        ):
            before, lost = marked.collect_from(pool, marked.NUM_WORKERS), _processes(node)
            rest = thread.submit(marked.collect_from, pool, marked.NUM_WORKERS + 1, before)
            cluster.remove_node(node, allow_graceful=False)
            left = [pid for pid in lost if not marked.is_gone(pid)]
            num_alone = len(marked.pids(folder))
            node = add_node(cluster)
            marks = rest.result()
            is_there = bool(set(marked.pids(folder)) & set(_processes(node)))
    is_unique = len(set(marks)) == len(marks)
    held = is_there and is_unique and pool.num_dropped > 0 and num_alone == 1 and not left
    told = (
        f"{'replaced on the new node' if is_there else 'NOT replaced'}, {pool.num_dropped} dropped"
    )
    once = "once each" if is_unique else "some TWICE"
    return Outcome(
        held,
        f"{told}, {len(marks)} delivered {once}, {len(left)} processes left",
        pool.num_dropped,
        0,
    )


@fault(
    injected="SIGKILL of the learner with its whole machine (a PID namespace with a Ray node), "
    "resumed on the other",
    promised="the other machine goes on from the shared run directory without gap or overlap; no "
    "process is left",
    is_quick=False,
)
def learner_restarted_on_another_node(folder: Path) -> Outcome:
    """Ray's head is on the first machine, the learner on the second, then on the first; the actor
    has room on both.
    """
    run = folder / "run"
    often = ("--log.interval-seconds", "1e-6", "--log.checkpoint-interval-minutes", "0.01")
    with ray_cluster(num_cpus=1) as cluster:
        train = (
            "smoke",
            "--run-dir",
            run,
            "--ray-address",
            cluster.address,
            *often,
            "--stop.num-updates",
            10**6,
        )
        with runs.start(folder, "train", *train, through=_machine(cluster.address)) as machine:
            runs.wait_for(lambda: len(runs.rows(run)) > 3 and len(runs.steps(run)) > 1, machine)
            lost = [child.pid for child in psutil.Process(machine.pid).children(recursive=True)]
            machine.kill()
        reached, saved = runs.rows(run)[-1]["num_updates"], runs.steps(run)[-1]
        runs.run(
            folder,
            "resume",
            run,
            "--ray-address",
            cluster.address,
            "--stop.num-updates",
            reached + 20,
        )
        actors = [
            pid
            for pid in _processes(cluster.head_node)
            if "RolloutWorker" in psutil.Process(pid).name()
        ]
    left = [pid for pid in [*lost, *actors] if not marked.is_gone(pid)]
    sessions = [entry["event"] for entry in json.loads((run / "provenance.json").read_text())]
    updates, frames = (
        [row[name] for row in runs.rows(run)] for name in ("num_updates", "num_frames")
    )
    is_whole = updates == list(range(1, reached + 21)) and frames == sorted(set(frames))
    told = f"killed after {reached} updates, resumed from {saved}, {len(updates)} rows"
    held = is_whole and sessions[-1] == "resume" and len(lost) > 3 and not left
    told += f" {'without a gap' if is_whole else 'with a GAP'}, {len(left)} processes left"
    return Outcome(held, told, None, reached - saved)


def _machine(address: str) -> list[str]:
    """Returns the command that runs another one on a machine of its own, beside a Ray node that has
    joined `address`.

    A driver connects to the node whose processes it sees: here that is this one. They all die at
    once with the first.
    """
    alone = [
        "unshare",
        "--user",
        "--map-root-user",
        "--pid",
        "--fork",
        "--mount-proc",
        "--kill-child",
    ]
    size = f"--num-cpus 1 --object-store-memory {STORE_BYTES}"
    return [*alone, "sh", "-c", f'"{_RAY}" start --address "$0" {size} && "$@"', address]


@fault(
    injected="120 MB of others' objects and rollouts of 8 MB in an object store of 80 MB",
    promised="Ray moves them to the disk and the run goes on; nothing is left in memory or on the "
    "disk",
    is_quick=False,
)
def object_store_at_its_limit(folder: Path) -> Outcome:
    """New parameters of 5 MB at every rollout as well; the others' objects are held all the
    time.
    """
    store, spilled = folder / "store", folder / "spilled"
    store.mkdir()
    places = {"plasma_directory": str(store), "object_spilling_directory": str(spilled)}
    with ray_cluster(num_cpus=marked.NUM_WORKERS, **places):
        others = [ray.put(np.full(10**7, number, np.uint8)) for number in range(12)]
        with marked.pool(folder, num_bytes=8 * 10**6) as pool:
            marks = _collect_and_publish(pool, 40)
            num_spilled, num_dropped = _store().spilled_bytes_total // 10**6, pool.num_dropped
        are_whole = all(int(ray.get(other)[-1]) == number for number, other in enumerate(others))
        del others
        kept = _bytes_left()
    files = [path for path in spilled.rglob("*") if path.is_file()]
    maps = [process.pid for process in psutil.process_iter() if _maps(process.pid, store)]
    played = len(set(marks)) == len(marks) == 40 and num_dropped == 0
    held = played and num_spilled > 0 and are_whole and not (kept or files or maps)
    told = (
        f"{len(set(marks))} of 40 delivered once each, {num_spilled} MB spilled, {num_dropped} "
        f"dropped; left: "
    )
    return Outcome(
        held,
        f"{told}{kept} B in the store, {len(files)} files, {len(maps)} processes",
        num_dropped,
        0,
    )


def _collect_and_publish(pool: ActorPool, count: int) -> list[tuple[int, int]]:
    marks = []
    for version in range(count):
        pool.publish(PublishedParams(version, np.zeros(5 * 10**6, np.uint8)))
        marks += marked.collect(pool, 1)
    return marks


def _store() -> Any:
    """Returns Ray's statistics of the object store of this cluster: others may run here."""
    state = internal_api.get_state_from_address(ray.get_runtime_context().gcs_address)
    return internal_api.get_memory_info_reply(state).store_stats


def _bytes_left() -> int:
    """Returns what is still in the object store when nobody holds any of it, after some seconds of
    grace.
    """
    deadline = time.monotonic() + 20.0
    while (used := _store().object_store_bytes_used) and time.monotonic() < deadline:
        time.sleep(0.2)
    return used


def _maps(pid: int, folder: Path) -> bool:
    """Returns whether a process holds memory of a store: its files have no names."""
    try:
        return str(folder) in Path(f"/proc/{pid}/maps").read_text()
    except OSError:
        return False
