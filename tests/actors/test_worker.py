"""A worker without a pool: its seed, its log, what it asks of Ray."""

import pytest

from actors.worker import RolloutWorker, device_options, worker_seed
from tests.actors.pools import FIRST_SEED, OTHER_SEED, SECOND_SEED, SEED, make_build, published

pytestmark = pytest.mark.timeout(300)  # Ray may take a minute to start on a busy machine


# the plain worker, without Ray
def test_worker_seed_is_fixed_and_differs_by_worker_and_incarnation():
    seeds = [worker_seed(SEED, *place) for place in [(0, 0), (0, 1), (1, 0)]]
    assert seeds == [FIRST_SEED, SECOND_SEED, OTHER_SEED]
    many = {
        worker_seed(0, worker_id, incarnation)
        for worker_id in range(50)
        for incarnation in range(20)
    }
    assert len(many) == 1000
    assert 0 <= min(many) and max(many) < 2**31


def test_plain_worker_runs_in_this_process_and_logs_tracebacks(tmp_path):
    def act(seed, count):
        if count == 1:
            raise ValueError("broken emulator")

    worker = RolloutWorker(
        make_build(act), worker_id=3, incarnation=2, seed=SEED, log_dir=tmp_path / "new"
    )
    assert worker.rollout(published(5)).search_stats["version"] == 5
    with pytest.raises(ValueError, match="broken emulator"):
        worker.rollout(published(5))
    log = (tmp_path / "new" / "worker-003.log").read_text()
    assert "worker 3 starts: incarnation 2" in log and f"seed {worker_seed(SEED, 3, 2)}" in log
    assert log.count("Traceback") == 1 and "ValueError: broken emulator" in log


def test_the_devices_of_a_worker_are_asked_of_ray_and_shared_by_memory():
    assert device_options("cpu", 1.0) == ({}, {"JAX_PLATFORMS": "cpu"})
    gpu, env_vars = device_options("gpu", 0.25)
    assert gpu == {"num_gpus": 0.25}
    assert env_vars == {"JAX_PLATFORMS": "cuda,cpu", "XLA_PYTHON_CLIENT_MEM_FRACTION": "0.225"}
    assert device_options("gpu", 4)[1]["XLA_PYTHON_CLIENT_MEM_FRACTION"] == "0.9"
    assert device_options("tpu", 1.0) == ({"resources": {"TPU": 1.0}}, {"JAX_PLATFORMS": "tpu,cpu"})


def test_failing_build_is_logged(tmp_path):
    def build(seed):
        raise LookupError("no such game")

    with pytest.raises(LookupError):
        RolloutWorker(build, worker_id=0, incarnation=0, seed=SEED, log_dir=tmp_path)
    assert "LookupError: no such game" in (tmp_path / "worker-000.log").read_text()
