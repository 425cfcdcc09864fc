"""What is looked into: a checkpoint's networks and stored heads, or an exported agent."""

from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np

from actors.environments import EnvironmentSpec
from configs.schema import Config, ConfigError
from learner.records.checkpoint import restore_params
from muzero.model import Model
from muzero.support import Support
from muzero.types import Params, PyTree
from muzero.value_buffer import ValueBuffer
from scripts.playing import evaluation
from scripts.playing.saved import open_saved
from scripts.program import commands
from scripts.program.assemble import build_model

_FIELDS = ("search_average", "target_average", "value_buffer")


class Stored(NamedTuple):
    """One checkpoint of a run, or an exported agent, which has no target average and no buffer."""

    config: Config
    spec: EnvironmentSpec
    model: Model
    support: Support
    search_average: Params  # what plays and plans: the model that is looked at
    target_average: Params | None  # whose latents define the policies of the stored heads
    buffer: ValueBuffer | None
    num_updates: int

    def head(self, push_update: int) -> PyTree:
        """Returns the parameters of the head that was stored after so many updates."""
        slot = int(np.flatnonzero(self.buffer.push_update == push_update)[0])
        return jax.tree.map(lambda x: x[slot], self.buffer.head_params)

    def heads(self) -> list[int]:
        """Returns the numbers of updates after which heads were stored, oldest first."""
        return sorted(int(update) for update in self.buffer.push_update if update >= 0)


def load(run_dir: Path, checkpoint: str) -> Stored:
    """Returns a checkpoint of a run: "latest", "best" or a number of updates, as text; or an
    exported agent.

    Raises `ConfigError`, `RunDirectoryError` or `CheckpointError` in one line if there is none.
    """
    saved, which = open_saved(run_dir), commands.checkpoint_name(checkpoint)
    config = saved.config
    if saved.run is None:
        params, num_updates = saved.load_params(which)
        spec = commands.check_environment(config)
        return Stored(config, spec, *build_model(config, spec), params, None, None, num_updates)
    evaluation.require_checkpoint(saved.run, which)
    spec = commands.check_environment(config)
    stored = restore_params(saved.run.checkpoints, which, fields=_FIELDS)
    model, support = build_model(config, spec)
    return Stored(
        config,
        spec,
        model,
        support,
        Params(**stored.state["search_average"]),
        Params(**stored.state["target_average"]),
        ValueBuffer(**stored.state["value_buffer"]),
        stored.step,
    )


def choose_heads(stored: Stored, wanted: tuple[int, ...]) -> list[int]:
    """Returns the heads named by `wanted`, all for none.

    Raises `ConfigError` if there is no head, or not those.
    """
    if stored.buffer is None:
        raise ConfigError("an exported agent has no past heads: audit the run that it came from")
    present = stored.heads()
    if not present:
        every = stored.config.value_buffer.push_interval
        raise ConfigError(
            f"the value buffer is empty after {stored.num_updates} updates: the first head is "
            f"stored after {every}"
        )
    if missing := sorted(set(wanted) - set(present)):
        raise ConfigError(
            f"--heads {missing[0]}: no such head; stored are those of updates {present}"
        )
    return sorted(set(wanted)) or present
