"""One batched search of the system against a bare one with the same network and the same Q
normalisation.
"""

import os

import jax
import numpy as np

from scripts.benchmarks import bare, settings
from scripts.benchmarks.measure import alternate, report, summary, timed_loop
from scripts.benchmarks.operations import decision_flops
from scripts.program.assemble import build_model, build_search, env_spec


def run(rounds: int, seconds: float, tiny: bool) -> dict:
    """Returns the report: states searched per second by one process on all of its cores."""
    config = settings.reference(tiny)
    spec, num_environments = env_spec(config.env), config.actors.environments_per_worker
    history = config.network.history_length
    frames = np.random.default_rng(0).integers(
        0, 255, (num_environments, history, *spec.observation_shape), dtype=np.uint8
    )
    actions = np.zeros((num_environments, history - 1), np.int32)
    is_first = np.zeros((num_environments, history), bool)
    params = jax.device_put(build_model(config, spec)[0].init(jax.random.key(0)))
    search, (bare_search, bare_params) = (
        jax.jit(build_search(config, spec)),
        bare.make_search(config),
    )
    key = jax.random.key(0)

    def ours() -> float:
        jax.device_get(search(params, key, frames, actions, is_first))
        return num_environments

    def theirs() -> float:
        np.asarray(bare_search(bare_params, 0, frames[..., 0]))
        return num_environments

    loops = {"search": timed_loop(ours), "bare": timed_loop(theirs)}
    rates = alternate(loops, "search", "bare", rounds=rounds, seconds=seconds)
    sizes = {"environments": num_environments, "cores": len(os.sched_getaffinity(0))}
    flops = decision_flops(config)
    return report(
        "search", rates, "search", "bare", unit="states/s", sizes=sizes,
        flops_per_state=flops, gflops=flops / 1e9 * summary(rates["search"])["median"],
    )  # fmt: skip
