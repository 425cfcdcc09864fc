"""A Ray for the tests of pools."""

import pytest
import ray

from actors.pool import ActorPool
from configs.schema import ActorsConfig
from tests.actors.pools import SEED, published


@pytest.fixture(scope="module")
def local_ray():
    with pytest.MonkeyPatch.context() as patch:
        # What workers would inherit if the pool did not say otherwise
        patch.setenv("JAX_PLATFORMS", "cuda")
        ray.init(
            address="local",
            num_cpus=2,
            include_dashboard=False,
            object_store_memory=200_000_000,
            log_to_driver=False,
        )
    yield
    ray.shutdown()


@pytest.fixture
def make_pool(local_ray, tmp_path):
    """Returns a factory of pools that are closed after the test; version 1 is published."""
    pools = []

    def make(build_rollout, publish=True, **settings):
        own = {
            name: settings.pop(name)
            for name in settings.keys() & ActorsConfig.__dataclass_fields__.keys()
        }
        actors = ActorsConfig(**{"num_workers": 1, "cpus_per_worker": 0.5} | own)
        options = {"restart_backoff_seconds": 0.05} | settings
        pools.append(
            ActorPool(build_rollout, actors, seed=SEED, log_dir=tmp_path / "logs", **options)
        )
        if publish:
            pools[-1].publish(published(1))
        return pools[-1]

    yield make
    for pool in pools:
        pool.close()
