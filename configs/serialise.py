"""Configurations as they are stored: JSON-ready dictionaries, read strictly.

A run outlives the version that wrote it. What was added since has its default, which is what the
program did before it was there; what is gone is refused by name.
"""

import dataclasses
import functools
import json
import logging
from collections.abc import Iterator

from configs import reader
from configs.schema import Config, ConfigError

_logger = logging.getLogger(__name__)


def to_dict(config: Config) -> dict:
    """Returns the whole configuration as nested dictionaries, equal to what JSON gives back."""
    return json.loads(json.dumps(dataclasses.asdict(config)))  # tuples become lists


def from_dict(values: dict) -> Config:
    """Returns the configuration stored by `to_dict`, by this version or an older one.

    Says in a line which fields were added since, and what they are taken for. Raises `ConfigError`,
    one line a problem, for fields that are gone and for values of a wrong type or out of bounds.
    """
    try:
        config = reader.read(Config, values)
    except ConfigError as error:
        lines = str(error).splitlines()
        raise ConfigError("\n".join(f"stored configuration: {line}" for line in lines)) from error
    if added := list(_added(to_dict(config), values)):
        _say_once(f"a configuration of an older version, completed with {', '.join(added)}")
    return config


def _added(whole: dict, stored: dict, prefix: str = "") -> Iterator[str]:
    """Yields `name = value` of what `stored` lacks: a section as one, or single fields."""
    for name, value in whole.items():
        if name not in stored:
            yield f"{prefix}{name} = {value}"
        elif isinstance(value, dict):
            yield from _added(value, stored[name], f"{prefix}{name}.")


@functools.cache
def _say_once(line: str) -> None:
    """Says what is read again and again once."""
    _logger.warning(line)


def differences(old: dict, new: dict, prefix: str = "") -> list[str]:
    """Returns one line `path: old -> new` for every field that differs."""
    lines = []
    for name in old.keys() | new.keys():
        left, right = old.get(name), new.get(name)
        if isinstance(left, dict) and isinstance(right, dict):
            lines += differences(left, right, f"{prefix}{name}.")
        elif left != right:
            lines.append(f"{prefix}{name}: {left} -> {right}")
    return sorted(lines)
