"""The one typed reader of settings: what is on the command line, in a suite's file or stored.

Types are checked by pydantic, which reads the dataclasses of `schema.py` as they are; bounds stand
there beside the types. Every problem is one line: the field's name, its value, what is allowed.
"""

import dataclasses
import difflib
import functools
import json
import math
import types
import typing
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal, TypeVar

import pydantic

from configs.schema import Bounds, ConfigError

Settings = TypeVar("Settings")
_WORDS = {
    bool: "true or false",
    dict: "a table",
    float: "a number",
    int: "a whole number",
    str: "a string",
    types.NoneType: "None",
}


def read(kind: type[Settings], values: Any, prefix: str = "") -> Settings:
    """Returns a dataclass of settings, made of nested dictionaries.

    A field that is left out has its default.
    Nothing is converted but a whole number where a number is asked for: "4" is no number.

    Args:
      kind: the dataclass, its fields annotated with `Bounds` where they have any.
      values: by field, as JSON or TOML have them.
      prefix: of the names of fields in messages.

    Raises ConfigError, one line a problem: unknown fields, values of another type or out of bounds.
    """
    _refuse(list(_unknown(kind, values, prefix)))
    settings = typed(kind, values, prefix)
    _refuse(list(out_of_bounds(settings, prefix)))
    return settings


def typed(kind: type[Settings], values: Any, prefix: str = "") -> Settings:
    """Returns `read(kind, values, prefix)` without a look at bounds and unknown fields."""
    try:
        # As JSON: in its strict mode only there does pydantic take a dictionary for a dataclass.
        return _adapter(kind).validate_json(json.dumps(values, default=_misfit), strict=True)
    except pydantic.ValidationError as error:
        lines = [_mismatch(kind, values, problem["loc"], prefix) for problem in error.errors()]
        raise ConfigError("\n".join(dict.fromkeys(lines))) from error


def out_of_bounds(settings: Any, prefix: str = "") -> Iterator[str]:
    """Yields a line for every number that is not within the bounds of its field."""
    for name, hint in typing.get_type_hints(type(settings), include_extras=True).items():
        value = getattr(settings, name)
        if dataclasses.is_dataclass(value):
            yield from out_of_bounds(value, f"{prefix}{name}.")
        elif isinstance(value, int | float):
            for bounds in getattr(hint, "__metadata__", ()):
                yield from _violation(f"{prefix}{name} = {value}", value, bounds, hint)


def changed(settings: Settings, changes: Mapping[str, Any], prefix: str = "") -> Settings:
    """Returns `settings` with some dotted fields replaced. Raises ConfigError as `read` does."""
    values = dataclasses.asdict(settings)
    for path, value in changes.items():
        *place, name = path.split(".")
        functools.reduce(_step_into, place, values)[name] = value
    return read(type(settings), values, prefix)


def _step_into(table: dict, name: str) -> dict:
    """Returns the table under `name`; what is none becomes one, and `read` tells what is wrong."""
    if not isinstance(table.get(name), dict):
        table[name] = {}
    return table[name]


def _refuse(problems: list[str]) -> None:
    if problems:
        raise ConfigError("\n".join(problems))


@functools.cache
def _adapter(kind: type) -> pydantic.TypeAdapter:
    return pydantic.TypeAdapter(kind)


def _misfit(value: Any) -> list:
    """Returns what fits no field in place of what is not JSON, such as TOML's dates."""
    return [[]]


def _violation(field: str, value: float, bounds: Bounds, hint: Any) -> Iterator[str]:
    if not bounds.admits(value):
        yield f"{field}: {bounds.words}{', or None' if types.NoneType in _options(hint) else ''}"
    elif value == math.inf and not bounds.allows_infinity:
        yield f"{field}: must be finite"


def _unknown(kind: type, values: Any, prefix: str) -> Iterator[str]:
    """Yields a line for every field that `kind` does not have."""
    if not isinstance(values, dict):
        return  # of another type, which `typed` tells
    hints = typing.get_type_hints(kind)
    for name, value in values.items():
        section = _section(hints.get(name))
        if name not in hints:
            yield f"{prefix}{name}: no such field; {_suggestion(name, list(hints), prefix)}"
        elif section is not None:
            yield from _unknown(section, value, f"{prefix}{name}.")


def _suggestion(name: str, names: list[str], prefix: str) -> str:
    near = difflib.get_close_matches(name, names, 1)
    return f"did you mean {prefix}{near[0]}?" if near else f"there are {', '.join(names)}"


def _mismatch(kind: type, values: Any, place: tuple[str | int, ...], prefix: str) -> str:
    """Returns the line of a value of another type, or of a required one that is missing.

    `place` leads to the value; what follows the field in it (a member of a union, an index) is left
    out.
    """
    path, hint = [], kind
    for name in place:
        section = _section(hint)
        if section is None or not isinstance(values, dict):
            break
        path.append(str(name))
        hint = typing.get_type_hints(section, include_extras=True)[name]
        if name not in values:
            return f"{prefix}{'.'.join(path)} is missing: must be {_allowed(hint)}"
        values = values[name]
    return f"{prefix}{'.'.join(path) or 'settings'} = {values!r}: must be {_allowed(hint)}"


def _allowed(hint: Any) -> str:
    """Returns what may stand in a field of this type, in words."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is Annotated:
        return _allowed(arguments[0])
    if origin is Literal:
        return f"one of {', '.join(map(str, arguments))}"
    if origin is tuple:
        return f"an array of {_allowed(arguments[0]).removeprefix('a ')}s"
    if origin is dict and typing.get_origin(arguments[1]) is dict:
        return "a table of tables"
    if options := _options(hint):
        return " or ".join(map(_allowed, options))
    return _WORDS[dict] if origin is dict or dataclasses.is_dataclass(hint) else _WORDS[hint]


def _options(hint: Any) -> tuple:
    """Returns the members of a union, () for another type.

    `int | Literal["auto"]` is of another class than `int | None`.
    """
    if typing.get_origin(hint) is Annotated:
        return _options(typing.get_args(hint)[0])
    is_union = isinstance(hint, types.UnionType) or typing.get_origin(hint) is typing.Union
    return typing.get_args(hint) if is_union else ()


def _section(hint: Any) -> type | None:
    """Returns the dataclass that a field holds, None if it holds none."""
    return next(filter(dataclasses.is_dataclass, _options(hint) or (hint,)), None)
