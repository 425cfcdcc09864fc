"""An agent as two small files, to play with and nothing else: weights as safetensors, the rest as
JSON.

    agent.safetensors    the search average, a tensor a leaf: `representation/encoder/~/conv/w`
    agent.json           settings, counters, and the SHA-256 of the weights

Neither needs this repository to be read, and reading executes nothing.
"""

import hashlib
import json
from pathlib import Path

import numpy as np
from safetensors.numpy import load, save

from actors.agent import Agent
from configs.schema import ConfigError
from configs.serialise import from_dict, to_dict
from learner.records.run_directory import RunDirectory, write_atomically
from muzero.types import Params
from scripts.playing import evaluation

SUFFIX = ".safetensors"
_FORMAT = 1


def export_agent(run_dir: str | Path, out: Path, checkpoint: int | str) -> None:
    """Writes the agent of a run to `out` and its description beside it, with the ending `.json`.

    Args:
      run_dir: of the run.
      out: ends in `.safetensors`.
      checkpoint: "latest", "best" or a number of updates.

    Raises ConfigError for another ending, and like `evaluation.load_params`.
    """
    if out.suffix != SUFFIX:
        raise ConfigError(f"--out {out}: must end in {SUFFIX}")
    directory = RunDirectory.open(run_dir)
    params, num_updates = evaluation.load_params(directory, checkpoint)
    content = save({name: np.ascontiguousarray(leaf) for name, leaf in _flat(params).items()})
    description = {
        "format": _FORMAT,
        "config": to_dict(from_dict(directory.read_config())),
        "num_updates": num_updates,
        "sha256": hashlib.sha256(content).hexdigest(),
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_bytes(content)
    write_atomically(out.with_suffix(".json"), json.dumps(description, indent=2) + "\n")


def load_exported_agent(path: str | Path) -> Agent:
    """Returns the agent that `export_agent` wrote to `path`: `.act(observation)`, `.reset()`
    between games.

    Raises ConfigError if the two files do not belong together, or are of a newer format.
    """
    path = Path(path)
    content, description = (
        path.read_bytes(),
        json.loads(path.with_suffix(".json").read_text(encoding="utf-8")),
    )
    if description["format"] > _FORMAT:
        raise ConfigError(f"{path}: format {description['format']}, this program reads {_FORMAT}")
    if hashlib.sha256(content).hexdigest() != description["sha256"]:
        raise ConfigError(f"{path}: its SHA-256 is not that of {path.with_suffix('.json').name}")
    return evaluation.make_agent(
        from_dict(description["config"]), _nested(load(content)), num_environments=1, seed=0
    )


def _flat(params: Params) -> dict[str, np.ndarray]:
    # Haiku's module names hold slashes of their own, so that a name is split at its first and its
    # last one.
    return {
        f"{net}/{module}/{name}": leaf
        for net, modules in params._asdict().items()
        if modules is not None
        for module, leaves in modules.items()
        for name, leaf in leaves.items()
    }


def _nested(flat: dict[str, np.ndarray]) -> Params:
    nets: dict[str, dict] = {}
    for path, leaf in flat.items():
        net, rest = path.split("/", 1)
        module, name = rest.rsplit("/", 1)
        nets.setdefault(net, {}).setdefault(module, {})[name] = leaf
    return Params(**nets)
