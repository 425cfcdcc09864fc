"""Config ↔ plain dictionaries, strictly: an unknown or missing field is an error."""

import dataclasses
import typing

from configs.schema import Config, ConfigError


def to_dict(config: Config) -> dict:
    """Returns the whole configuration as JSON-ready nested dictionaries."""
    return dataclasses.asdict(config)


def from_dict(values: dict) -> Config:
    """Returns the configuration stored by `to_dict`. Raises `ConfigError` on unknown or missing fields."""
    return _build(Config, values, "")


def _build(cls: type, values: dict, prefix: str):
    if not isinstance(values, dict):
        raise ConfigError(f"stored configuration {prefix or 'top level'}: {values!r}: must be an object")
    names = {field.name for field in dataclasses.fields(cls)}
    unknown, missing = sorted(values.keys() - names), sorted(names - values.keys())
    if unknown or missing:
        raise ConfigError(
            f"stored configuration {prefix or 'top level'}: unknown {unknown}, missing {missing}; it was written by "
            "another version of this code (the commit is in the run's provenance.json)"
        )
    types = typing.get_type_hints(cls)
    built = {
        name: _build(types[name], value, f"{prefix}{name}.") if dataclasses.is_dataclass(types[name]) else value
        for name, value in values.items()
    }
    return cls(**built)


def section(config_section) -> dict:
    """Returns one section as the keyword arguments of its builder."""
    return dataclasses.asdict(config_section)


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
