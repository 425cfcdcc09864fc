"""Where a session begins: at a new state, at stored weights, or at a checkpoint of the same run."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np

from configs.schema import Config
from learner.loop import Counters
from learner.records.run_directory import RunDirectory
from learner.state import LearnerState
from learner.update import UpdateFns, place
from muzero.types import Params
from scripts.program.assemble import build_learner, env_spec
from scripts.training.saver import Saver


class Start(NamedTuple):
    """What a session is asked to begin at; a new state if nothing else is said."""

    resume: bool = False
    load_params: Callable[[], Params] | None = None  # --init-from
    ray_address: str | None = None


class Beginning(NamedTuple):
    """A learner that can be trained, and what is known of the sessions before it."""

    state: LearnerState  # on the devices
    counters: Counters
    actor_states: dict[str, np.ndarray]  # to go on with exactly; {} unless the run is deterministic and resumed
    update_fns: UpdateFns
    mesh: jax.sharding.Mesh
    saver: Saver


def begin(config: Config, directory: RunDirectory, start: Start) -> Beginning:
    """Returns the learner of a session. Raises CheckpointError if `start` is to resume and nothing fits this run."""
    state, update_fns, mesh = build_learner(config, env_spec(config.env))
    abstract = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), state)
    saver = Saver(config, directory, abstract)
    counters, actor_states = Counters(), {}
    if start.resume:
        checkpoint, counters = saver.restore()
        state, actor_states = place(checkpoint.state, mesh), dict(checkpoint.arrays)
    elif start.load_params is not None:
        state = _with_params(state, start.load_params(), mesh)
    return Beginning(state, counters, actor_states, update_fns, mesh, saver)


def _with_params(state: LearnerState, params: Params, mesh: jax.sharding.Mesh) -> LearnerState:
    fresh = lambda: place(params, mesh)
    return state._replace(params=fresh(), search_average=fresh(), target_average=fresh())
