"""An agent as a small folder, to play with and nothing else.

    <folder>/agent.safetensors    the search average, a leaf each: `representation/encoder/~/conv/w`
             agent.json           settings, counters, and the SHA-256 of the weights
             README.md            its card: what it scored, and where it came from

None of them needs this repository to be read, and reading executes nothing.
"""

import hashlib
import json
from pathlib import Path

import numpy as np
from safetensors.numpy import load, save

from configs.schema import Config, ConfigError
from configs.serialise import from_dict, to_dict
from learner.records.run_directory import RunDirectory, write_atomically
from muzero.types import Params
from scripts.playing import card, evaluation

WEIGHTS, DESCRIPTION, CARD = "agent.safetensors", "agent.json", "README.md"
_FORMAT = 2


def export_agent(run_dir: str | Path, folder: Path, checkpoint: int | str) -> None:
    """Writes the agent of a run to `folder`, which must not hold one.

    Args:
      run_dir: of the run.
      folder: made where it is missing.
      checkpoint: "latest", "best" or a number of updates.

    Raises ConfigError if `folder` holds an agent, and like `evaluation.load_params`.
    """
    if is_exported(folder):
        raise ConfigError(f"--out {folder}: holds an agent already; nothing is overwritten")
    directory = RunDirectory.open(run_dir)
    config = from_dict(directory.read_config())
    params, num_updates = evaluation.load_params(directory, checkpoint)
    content = save({name: np.ascontiguousarray(leaf) for name, leaf in _flat(params).items()})
    description = {
        "format": _FORMAT,
        "config": to_dict(config),
        "num_updates": num_updates,
        "sha256": hashlib.sha256(content).hexdigest(),
    }
    (folder / WEIGHTS).write_bytes(content)
    write_atomically(folder / CARD, card.write(directory, config, num_updates))
    # Last: a folder that was not written whole holds no agent.
    write_atomically(folder / DESCRIPTION, json.dumps(description, indent=2) + "\n")


def is_exported(folder: Path) -> bool:
    """Returns whether `export_agent` has written to `folder`."""
    return (folder / DESCRIPTION).is_file()


def read_config(folder: Path) -> Config:
    """Returns the settings of the run that the agent came from. Raises ConfigError."""
    return from_dict(_description(folder)["config"])


def read_params(folder: Path) -> tuple[Params, int]:
    """Returns the search average and its number of updates.

    Raises ConfigError if the files do not belong together, or are of a newer format.
    """
    description, content = _description(folder), (folder / WEIGHTS).read_bytes()
    if hashlib.sha256(content).hexdigest() != description["sha256"]:
        raise ConfigError(f"{folder / WEIGHTS}: its SHA-256 is not that of {DESCRIPTION}")
    return _nested(load(content)), description["num_updates"]


def _description(folder: Path) -> dict:
    description = json.loads((folder / DESCRIPTION).read_text(encoding="utf-8"))
    if description["format"] > _FORMAT:
        raise ConfigError(f"{folder}: format {description['format']}, this program reads {_FORMAT}")
    return description


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
