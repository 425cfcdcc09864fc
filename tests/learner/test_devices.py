"""The same update on 1 device, 8 devices of one process, and 2 processes of 2 devices each: the
numbers of one.
"""

import functools
import os
import pickle
import socket
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from learner.state import init_state
from learner.update import make_mesh, make_put, make_update, place
from tests import tiny

ROOT = Path(__file__).resolve().parents[2]
NUM_SEQUENCES, NUM_UPDATES, LEARNING_RATE = 8, 3, 0.1


def uneven_batch(number, rows=range(NUM_SEQUENCES)):
    """Returns 8 sequences with games that end anywhere; the first two have one start state, all but
    `rows` none.
    """
    batch = tiny.batch(range(NUM_SEQUENCES * number, NUM_SEQUENCES * (number + 1)), event_prob=0.05)
    is_first = batch.is_first.copy()
    is_first[:2, 1 : tiny.NUM_STARTS], is_first[:2, tiny.NUM_STARTS :] = True, False
    is_first[[row for row in range(NUM_SEQUENCES) if row not in rows], 1:] = True
    return batch._replace(is_first=is_first)


def sgd_that_keeps_the_gradient():
    """Gradient descent whose state is the last gradient. Adam would hide a factor in it."""
    return optax.GradientTransformation(
        init=lambda params: jax.tree.map(jnp.zeros_like, params),
        update=lambda gradient, state, params: (
            jax.tree.map(lambda g: -LEARNING_RATE * g, gradient),
            jax.tree.map(
                lambda new, old: new + 0 * old, gradient, state
            ),  # an unused argument would not be donated
        ),
    )


@functools.cache
def tiny_update(num_devices):
    """Returns the programs for that many devices of every process."""
    # It runs a few times: compiling would cost far more
    jax.config.update("jax_disable_most_optimizations", True)
    loss = tiny.make_loss()
    optimiser, schedule = sgd_that_keeps_the_gradient(), optax.constant_schedule(0.0)
    return make_update(
        loss, optimiser, schedule, make_mesh(num_devices), tiny.RATES, push_interval=2
    )


def run_updates(num_devices, batches=None, own=slice(None)):
    """Returns the first gradient, the first metrics and the last parameters; `own` are the rows of
    this process.
    """
    mesh, fns = make_mesh(num_devices), tiny_update(num_devices)
    state = init_state(
        tiny.MODEL.init,
        sgd_that_keeps_the_gradient(),
        value_buffer_size=3,
        rng_key=jax.random.key(0),
    )
    state = place(state._replace(value_buffer=tiny.buffer_of(tiny.heads(2), 3)), mesh)
    first = None
    for batch in batches or map(uneven_batch, range(NUM_UPDATES)):
        batch = make_put(mesh)(jax.tree.map(lambda x: x[own], batch))
        assert len(batch.action.sharding.device_set) == mesh.size
        state, metrics = tiny.whole(fns, mesh)(state, batch)
        first = first or jax.device_get((state.optimiser_state, metrics))
    assert (fns.prepare._cache_size(), fns.update._cache_size()) == (1, 1)
    return {"gradient": first[0], "metrics": first[1], "params": jax.device_get(state.params)}


def alone(path):
    """Runs on 1, 4 and 8 devices of this process, and on every sequence of the batch by itself."""
    results = {num_devices: run_updates(num_devices) for num_devices in (1, 4, 8)}
    shards = [run_updates(1, [uneven_batch(0, [row])])["gradient"] for row in range(NUM_SEQUENCES)]
    results["mean of shards"] = jax.tree.map(lambda *leaves: sum(leaves) / NUM_SEQUENCES, *shards)
    Path(path).write_bytes(pickle.dumps(results))


def together(path, port, index):
    """Runs on the 2 devices each of 2 processes."""
    address = f"127.0.0.1:{port}"
    jax.distributed.initialize(address, 2, int(index), coordinator_bind_address=address)
    assert (jax.process_count(), jax.local_device_count(), jax.device_count()) == (2, 2, 4)
    half = NUM_SEQUENCES // 2
    result = run_updates(None, own=slice(half * int(index), half * (int(index) + 1)))
    Path(f"{path}.{index}").write_bytes(pickle.dumps(result))


def start(function, *arguments, num_devices):
    """Starts a function of this file in a process with that many devices."""
    env = os.environ | {"JAX_NUM_CPU_DEVICES": str(num_devices), "JAX_PLATFORMS": "cpu"}
    env["PYTHONPATH"] = str(ROOT)
    code = f"import sys; from tests.learner import test_devices as t; t.{function}(*sys.argv[1:])"
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.Popen(command, env=env, stderr=subprocess.PIPE, text=True)


def finish(process):
    _, errors = process.communicate(timeout=280)
    assert process.returncode == 0, errors[-3000:]


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """What every arrangement of devices makes of the same batches."""
    path = tmp_path_factory.mktemp("devices") / "results"
    with (
        socket.socket() as held
    ):  # the coordinator binds it beside us: nobody else is given it meanwhile
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        held.bind(("127.0.0.1", 0))
        port = held.getsockname()[1]
        pair = [start("together", path, port, index, num_devices=2) for index in range(2)]
        for process in pair:
            finish(process)
    finish(start("alone", path, num_devices=8))

    def load(name):
        return pickle.loads(Path(name).read_bytes())

    return load(path) | {"2 x 2": load(f"{path}.0"), "2 x 2, other process": load(f"{path}.1")}


def distance(tree, other):
    """Returns the largest difference of any entry, relative to the largest entry of its leaf."""
    pairs = zip(jax.tree.leaves(tree), jax.tree.leaves(other), strict=True)
    return max(float(np.abs(x - y).max() / max(np.abs(y).max(), 1e-6)) for x, y in pairs)


@pytest.mark.parametrize("many, few", [(8, 1), (4, 1), ("2 x 2", 4), ("2 x 2, other process", 4)])
def test_devices_and_processes_change_no_number(results, many, few):
    for what in ("gradient", "metrics", "params"):
        assert distance(results[many][what], results[few][what]) < 1e-5, what


def test_the_updates_did_something_and_the_comparison_would_see_what_goes_wrong(results):
    one = results[1]
    before = tiny.MODEL.init(jax.random.key(0))
    assert distance(one["params"], before) > 1e-3
    # Summed once too often
    assert distance(jax.tree.map(lambda g: 8 * g, one["gradient"]), one["gradient"]) > 1.0
    # Every device's own mean, averaged
    assert distance(results["mean of shards"], one["gradient"]) > 1e-3
