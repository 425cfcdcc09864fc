"""A suite: games × seeds × arms, every trial with the same preset, frames and code. A file in `configs/suites/`:

    preset = "minatar"
    games = ["MinAtar/Breakout-v1", "MinAtar/Asterix-v1"]
    seeds = [1, 2, 3]
    frames = 1_000_000            # emulator frames of every trial

    [settings]                    # of every trial: fields of configs/schema.py; "None" stands for None
    value_buffer.push_interval = 625

    [arms.muzero]                 # at least one arm: what it changes
    loss.past_weight = 0.0

    [arms."muzero+past"]

    [resources]                   # may be left out; what Ray reserves for a trial
    cpus = 1                      # of its learner, and of its actors if they are embedded
    gpus = 0
    actors = "embedded"           # "embedded": in a Ray of the trial's own, on its node; "cluster": anywhere

    [audit]                       # may be left out: trained trials are audited then (scripts/look.py audit)
    num_states = 64
    num_rollouts = 16

Every arm sees the same seeds.  Trials are limited by frames alone.
"""

import dataclasses
import difflib
import math
import tomllib
import types
import typing
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

from configs.checks import check
from configs.presets import PRESETS
from configs.schema import Config, ConfigError

_FOLDER = Path(__file__).parent / "suites"


@dataclasses.dataclass(frozen=True)
class Resources:
    """What Ray reserves for a trial."""

    cpus: float = 1.0
    gpus: float = 0.0
    actors: Literal["embedded", "cluster"] = "embedded"


@dataclasses.dataclass(frozen=True)
class AuditSize:
    """How closely the value equivalence of every trained trial is audited."""

    num_states: int = 64
    num_rollouts: int = 16


class Trial(NamedTuple):
    """One run of a suite."""

    game: str
    arm: str
    seed: int


@dataclasses.dataclass(frozen=True)
class Suite:
    """What is compared; see the module's docstring for every field."""

    name: str
    preset: str
    games: tuple[str, ...]
    seeds: tuple[int, ...]
    frames: int
    arms: Mapping[str, Mapping[str, Any]]  # settings by dotted field, by arm
    settings: Mapping[str, Any]  # by dotted field
    resources: Resources = Resources()
    audit: AuditSize | None = None  # None: trials are not audited

    def trials(self) -> list[Trial]:
        """Returns every trial: seed by seed, so that a suite that is cut short has whole seeds; arms side by side."""
        return [Trial(game, arm, seed) for seed in self.seeds for game in self.games for arm in self.arms]

    def changes(self, trial: Trial) -> dict[str, Any]:
        """Returns what a trial changes in its preset, by dotted field."""
        limits = {"stop.num_frames": self.frames, "stop.num_updates": None, "stop.minutes": None}
        return {"env.name": trial.game, "seed": trial.seed, **limits, **self.settings, **self.arms[trial.arm]}

    def config(self, trial: Trial) -> Config:
        """Returns the whole configuration of a trial."""
        return changed(PRESETS[self.preset], self.changes(trial))


def names() -> list[str]:
    """Returns the names of the suites in `configs/suites/`."""
    return sorted(path.stem for path in _FOLDER.glob("*.toml"))


def load(name: str) -> Suite:
    """Returns the suite of that name in `configs/suites/`, or in the .toml file at that path.

    Raises `ConfigError`, one line naming the field, its value and what is allowed.
    """
    path = Path(name) if name.endswith(".toml") else _FOLDER / f"{name}.toml"
    if not path.is_file():
        raise ConfigError(f"suite = {name}: must be one of {', '.join(names())}, or an existing .toml file")
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not TOML: {error}") from error
    try:
        return checked(_build(path.stem, values))
    except ConfigError as error:
        raise ConfigError(f"{path}: {str(error).splitlines()[0]}") from error


def _build(name: str, values: dict) -> Suite:
    required = {"preset": str, "games": list, "seeds": list, "frames": int, "arms": dict}
    optional = {"settings": dict, "resources": dict, "audit": dict}
    for key in values.keys() - required.keys() - optional.keys():
        raise ConfigError(f"{key}: no such field; there are {', '.join([*required, *optional])}")
    for key, kind in (required | optional).items():
        if key in values and type(values[key]) is not kind:
            raise ConfigError(f"{key} = {values[key]!r}: must be {_WORDS[kind]}")
        if key in required and key not in values:
            raise ConfigError(f"{key} is missing: must be {_WORDS[kind]}")
    return Suite(
        name=name,
        preset=values["preset"],
        games=tuple(values["games"]),
        seeds=tuple(values["seeds"]),
        frames=values["frames"],
        arms={arm: dict(_flat(_table(f"arms.{arm}", changes))) for arm, changes in values["arms"].items()},
        settings=dict(_flat(values.get("settings", {}))),
        resources=changed(Resources(), values.get("resources", {}), "resources."),
        audit=changed(AuditSize(), values["audit"], "audit.") if "audit" in values else None,
    )


_WORDS = {str: "a string", list: "an array", int: "an integer", dict: "a table"}


def _table(name: str, value) -> dict:
    if type(value) is not dict:
        raise ConfigError(f"{name} = {value!r}: must be a table")
    return value


def _flat(values: dict, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", None if value == "None" else value


def checked(suite: Suite) -> Suite:
    """Returns `suite`. Raises `ConfigError` if it cannot be run; the games themselves are not tried."""
    if suite.preset not in PRESETS:
        raise ConfigError(f"preset = {suite.preset}: must be one of {', '.join(PRESETS)}")
    for name, values, kind in (("games", suite.games, str), ("seeds", suite.seeds, int), ("arms", suite.arms, str)):
        if not values or any(type(value) is not kind for value in values):
            raise ConfigError(f"{name} = {list(values)}: must be at least one {_WORDS[kind].split(' ', 1)[1]}")
        if len(set(values)) != len(values):
            raise ConfigError(f"{name} = {list(values)}: has duplicates")
    if suite.frames <= 0:
        raise ConfigError(f"frames = {suite.frames}: must be above 0")
    if not 0 < suite.resources.cpus < math.inf or not 0 <= suite.resources.gpus < math.inf:
        raise ConfigError(f"resources = {suite.resources}: cpus must be above 0, gpus not negative, both finite")
    if suite.audit is not None and min(suite.audit.num_states, suite.audit.num_rollouts) < 2:
        raise ConfigError(f"audit = {suite.audit}: num_states and num_rollouts must be at least 2")
    fixed = {"env.name", "seed", "stop.num_frames", "stop.num_updates", "stop.minutes"}
    for field in {*suite.settings, *(field for changes in suite.arms.values() for field in changes)} & fixed:
        raise ConfigError(f"{field}: cannot be set here; games, seeds and frames of the suite decide it")
    for arm in suite.arms:
        for seed in suite.seeds:
            config = suite.config(Trial(suite.games[0], arm, seed))
            if config.actors.num_workers == "auto":
                raise ConfigError("actors.num_workers = auto: counts the cores of one machine; a suite needs a number")
            check(config)
    return suite


def changed(settings, changes: Mapping[str, Any], prefix: str = ""):
    """Returns a settings dataclass with some dotted fields replaced. Raises `ConfigError` for what does not fit."""
    for path, value in changes.items():
        name, _, rest = path.partition(".")
        hints = typing.get_type_hints(type(settings))
        if name not in hints or bool(rest) != dataclasses.is_dataclass(hints[name]):
            near = difflib.get_close_matches(name, hints, 1)
            raise ConfigError(f"{prefix}{path}: no such field" + (f"; did you mean {prefix}{near[0]}?" if near else ""))
        if rest:
            value = changed(getattr(settings, name), {rest: value}, f"{prefix}{name}.")
        elif not _fits(value, hints[name]):
            raise ConfigError(f"{prefix}{path} = {value!r}: must be {_allowed(hints[name])}")
        settings = dataclasses.replace(settings, **{name: value})
    return settings


def _allowed(hint) -> str:
    if typing.get_origin(hint) is Literal:
        return f"one of {', '.join(map(str, typing.get_args(hint)))}"
    if options := _options(hint):
        return " or ".join(map(_allowed, options))
    return "None" if hint is types.NoneType else hint.__name__


def _fits(value, hint) -> bool:
    if typing.get_origin(hint) is Literal:
        return value in typing.get_args(hint)
    if options := _options(hint):
        return any(_fits(value, option) for option in options)
    return type(value) in ((int, float) if hint is float else (hint,))


def _options(hint) -> tuple:
    """Returns the alternatives of a union; `int | Literal["auto"]` is of another class than `int | None`."""
    is_union = isinstance(hint, types.UnionType) or typing.get_origin(hint) is typing.Union
    return typing.get_args(hint) if is_union else ()


def overridden(suite: Suite, games: tuple[str, ...] | None, seeds: tuple[int, ...] | None, frames: int | None) -> Suite:
    """Returns `suite` with the lists of the command line in place of its own. Raises `ConfigError` as `checked`."""
    given = {"games": games, "seeds": seeds, "frames": frames}
    return checked(dataclasses.replace(suite, **{name: value for name, value in given.items() if value is not None}))
