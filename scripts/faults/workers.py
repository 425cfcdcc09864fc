"""Faults of actors, on the real pool and the real Ray: killed, stopped, raising, looping, gone with
their node.

One Ray serves them all.
"""

import os
import signal
import threading
from pathlib import Path

import ray

from actors.patience import Patience
from actors.pool import ActorPoolError
from scripts.faults import marked
from scripts.faults.registry import Outcome, fault
from scripts.training import cluster

_REPLACED = (
    "replaced with back-off by a new process with a new seed; what it had in flight is dropped and "
    "counted"
)


def _kill(folder: Path, number: int) -> None:
    if number == 3 and marked.once(folder, "killed"):
        os.kill(os.getpid(), signal.SIGKILL)


def _stop(folder: Path, number: int) -> None:
    if number == 3 and marked.once(folder, "stopped"):
        (folder / "stopped-pid").write_text(str(os.getpid()))
        os.kill(os.getpid(), signal.SIGSTOP)


def _raise(folder: Path, number: int) -> None:
    if number == 3 and marked.once(folder, "raised"):
        raise RuntimeError("the environment broke (injected)")


def _always_raise(folder: Path, number: int) -> None:
    raise RuntimeError("the environment is broken (injected)")


@fault(
    injected="SIGKILL of an actor in the middle of a sequence", promised=_REPLACED, is_quick=False
)
def actor_killed(folder: Path) -> Outcome:
    """One of two workers, once."""
    with marked.pool(folder, _kill) as pool:
        return marked.survived(pool, marked.collect(pool, 40), num_lost=1)


@fault(
    injected="SIGSTOP of an actor",
    promised=f"meets its deadline (5 s here); {_REPLACED}",
    is_quick=False,
)
def actor_stopped(folder: Path) -> Outcome:
    """A process that hangs without dying."""
    with marked.pool(folder, _stop, patience=Patience(least_seconds=5.0)) as pool:
        outcome = marked.survived(pool, marked.collect(pool, 40), num_lost=1)
    gone = marked.is_gone(int((folder / "stopped-pid").read_text()))
    return Outcome(
        outcome.held and gone,
        f"{outcome.happened}; stopped process {'gone' if gone else 'LEFT'}",
        1,
        0,
    )


@fault(injected="an exception of the environment", promised=_REPLACED, is_quick=False)
def environment_exception(folder: Path) -> Outcome:
    """Raised in the third rollout of one worker."""
    with marked.pool(folder, _raise) as pool:
        return marked.survived(pool, marked.collect(pool, 40), num_lost=1)


@fault(
    injected="actors that crash at every rollout",
    promised="the budget of restarts ends it: an error with the cause (exit code 3), all workers "
    "gone",
    is_quick=False,
)
def crash_looping_actor(folder: Path) -> Outcome:
    """With a budget of two restarts."""
    with marked.pool(folder, _always_raise, max_restarts=2) as pool:
        try:
            return Outcome(False, f"delivered {marked.collect(pool, 1)}")
        except ActorPoolError as error:
            told = " ".join(str(error).split())
    gone = marked.all_gone(folder)
    held = "failed 3 times in a row" in told and "the environment is broken" in told and gone
    return Outcome(held, f"{told[:60]} …, {'no process left' if gone else 'processes LEFT'}")


@fault(injected="all actors killed at once, from outside", promised=_REPLACED, is_quick=False)
def all_actors_killed(folder: Path) -> Outcome:
    """As the out-of-memory killer does."""

    def kill_all() -> None:
        for pid in marked.pids(folder):
            os.kill(pid, signal.SIGKILL)

    with marked.pool(folder) as pool:
        before = marked.collect_from(pool, marked.NUM_WORKERS)
        threading.Timer(0.2, kill_all).start()
        outcome = marked.survived(
            pool, before + marked.collect(pool, 40), num_lost=marked.NUM_WORKERS
        )
    return outcome


@fault(
    injected="workers with other code than the driver's (injected: another digest)",
    promised="refused with what differs before anything is built; exit code 3",
    is_quick=False,
)
def other_code_on_a_worker(folder: Path) -> Outcome:
    """The digest of `scripts` in the driver is changed; the workers compute their own."""
    from actors import identity

    own = identity.code_identity()["scripts"]
    identity.code_identity()["scripts"] = "other"
    try:
        with marked.pool(folder, max_restarts=0) as pool:
            return Outcome(False, f"delivered {marked.collect(pool, 1)}")
    except ActorPoolError as error:
        difference = str(error).rpartition("runs other code than the driver: ")[2].split(",")[0]
        return Outcome(difference == "scripts: other in the driver", f"refused: {difference}")
    finally:
        identity.code_identity()["scripts"] = own


@fault(
    injected="a process without the token joins the embedded Ray",
    promised="refused",
    is_quick=False,
)
def stranger_without_a_token(folder: Path) -> Outcome:
    """A child with an empty home and none of our environment joins by address."""
    import subprocess
    import sys

    if not ray.is_initialized():
        cluster.start_ray(None, num_cpus=1)
    address = ray.get_runtime_context().gcs_address
    code = f"import ray; ray.init(address={address!r}, log_to_driver=False); print('joined')"
    environment = {name: x for name, x in os.environ.items() if not name.startswith("RAY_")} | {
        "HOME": str(folder)
    }
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=300
    )
    refused = done.returncode != 0 and "joined" not in done.stdout
    return Outcome(
        refused,
        "refused by Ray (InvalidAuthToken)" if "AuthToken" in done.stderr else done.stderr[-200:],
    )
