"""Where a session begins: at a new state, at stored weights, or at a checkpoint of the same run."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np

from actors.states import part
from configs.schema import Config
from learner.loop import Counters
from learner.passes import PassMaker
from learner.records.checkpoint import CheckpointMismatch
from learner.records.run_directory import RunDirectory
from learner.state import LearnerState
from learner.update import UpdateFns, make_put, place
from muzero.types import Params
from scripts.program.assemble import build_learner, build_passes, env_spec
from scripts.training.saver import Saver

REPLAY = "replay"  # of the arrays of a checkpoint, those that are not the actors'


class Start(NamedTuple):
    """What a session is asked to begin at; a new state if nothing else is said."""

    resume: bool = False
    load_params: Callable[[], Params] | None = None  # --init-from
    ray_address: str | None = None


class Beginning(NamedTuple):
    """A learner that can be trained, and what is known of the sessions before it."""

    state: LearnerState  # on the devices
    counters: Counters
    # To go on with exactly; {} unless the run is deterministic and resumed
    actor_states: dict[str, np.ndarray]
    update_fns: UpdateFns
    passes: PassMaker  # what is learned from batches; with a replay, what is stored in it
    saver: Saver


def begin(config: Config, directory: RunDirectory, start: Start) -> Beginning:
    """Returns the learner of a session.

    Raises CheckpointError if `start` is to resume and nothing fits this run.
    """
    spec = env_spec(config.env)
    state, update_fns, mesh = build_learner(config, spec)
    abstract = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), state)
    saver = Saver(config, directory, abstract)
    counters, arrays = Counters(), {}
    if start.resume:
        checkpoint, counters = saver.restore()
        state, arrays = place(checkpoint.state, mesh), checkpoint.arrays
    elif start.load_params is not None:
        state = _with_params(state, start.load_params(), mesh)
    passes = build_passes(config, spec, make_put(mesh), counters, jax.process_index())
    if start.resume:
        _restore_passes(passes, part(REPLAY, arrays), config, directory)
    actor_states = {name: x for name, x in arrays.items() if not name.startswith(f"{REPLAY}/")}
    return Beginning(state, counters, actor_states, update_fns, passes, saver)


def _restore_passes(
    passes: PassMaker, stored: dict[str, np.ndarray], config: Config, directory: RunDirectory
) -> None:
    """Puts back what the session before had stored to learn from, or says that it did not."""
    if config.replay.capacity and not stored:
        num_decisions = config.replay.min_decisions
        print(f"the replay is empty: updates go on after {num_decisions:,} decisions", flush=True)
    try:
        if stored:
            passes.load(stored, workers_go_on=config.deterministic)
    except ValueError as error:
        raise CheckpointMismatch(f"{directory.checkpoints}: {error}") from error


def _with_params(state: LearnerState, params: Params, mesh: jax.sharding.Mesh) -> LearnerState:
    if params.statistics is None:  # of a run that had none
        params = params._replace(statistics=state.params.statistics)

    def fresh():
        return place(params, mesh)

    return state._replace(params=fresh(), search_average=fresh(), target_average=fresh())
