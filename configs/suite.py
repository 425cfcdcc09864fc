"""A suite: games × seeds × arms, every trial with the same preset, frames and code.

It is a file in `configs/suites/`:

    preset = "minatar"
    games = ["MinAtar/Breakout-v1", "MinAtar/Asterix-v1"]
    seeds = [1, 2, 3]
    frames = 1_000_000            # emulator frames of every trial

    [settings]                    # of every trial: fields of configs/schema.py; "None" is None
    value_buffer.push_interval = 625

    [arms.muzero]                 # at least one arm: what it changes
    loss.past_weight = 0.0

    [arms."muzero+past"]

    [resources]                   # may be left out; what Ray reserves for a trial
    cpus = 1                      # of its learner, and of its actors if they are embedded
    gpus = 0
    actors = "embedded"           # in a Ray of the trial's own, on its node; "cluster": anywhere

    [audit]                       # may be left out: trained trials are audited (look.py audit)
    num_states = 64
    num_rollouts = 16

Every arm sees the same seeds.  Trials are limited by frames alone.
"""

import dataclasses
import itertools
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

from configs.checks import check
from configs.presets import PRESETS
from configs.reader import changed, out_of_bounds, read
from configs.schema import AT_LEAST_TWO, NOT_NEGATIVE, POSITIVE, Config, ConfigError

_FOLDER = Path(__file__).parent / "suites"


@dataclasses.dataclass(frozen=True)
class Resources:
    """What Ray reserves for a trial."""

    cpus: Annotated[float, POSITIVE] = 1.0
    gpus: Annotated[float, NOT_NEGATIVE] = 0.0
    actors: Literal["embedded", "cluster"] = "embedded"


@dataclasses.dataclass(frozen=True)
class AuditSize:
    """How closely the value equivalence of every trained trial is audited."""

    num_states: Annotated[int, AT_LEAST_TWO] = 64
    num_rollouts: Annotated[int, AT_LEAST_TWO] = 16


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
    frames: Annotated[int, POSITIVE]
    arms: dict[str, dict[str, Any]]  # settings by dotted field, by arm
    settings: dict[str, Any] = dataclasses.field(default_factory=dict)  # by dotted field
    resources: Resources = Resources()
    audit: AuditSize | None = None  # None: trials are not audited

    def trials(self) -> list[Trial]:
        """Returns every trial, seed by seed, arms side by side.

        So a suite that is cut short has whole seeds.
        """
        return [
            Trial(game, arm, seed)
            for seed in self.seeds
            for game in self.games
            for arm in self.arms
        ]

    def changes(self, trial: Trial) -> dict[str, Any]:
        """Returns what a trial changes in its preset, by dotted field."""
        limits = {"stop.num_frames": self.frames, "stop.num_updates": None, "stop.minutes": None}
        own = {"env.name": trial.game, "seed": trial.seed}
        return own | limits | self.settings | self.arms[trial.arm]

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
        known = ", ".join(names())
        raise ConfigError(f"suite = {name}: must be one of {known}, or an existing .toml file")
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not TOML: {error}") from error
    try:
        return checked(_build(path.stem, values))
    except ConfigError as error:
        raise ConfigError(f"{path}: {str(error).splitlines()[0]}") from error


def _build(name: str, values: dict) -> Suite:
    if "name" in values:
        raise ConfigError("name: cannot be set here; a suite is called what its file is")
    suite = read(Suite, values | {"name": name})
    arms = {arm: dict(_flat(changes)) for arm, changes in suite.arms.items()}
    return dataclasses.replace(suite, arms=arms, settings=dict(_flat(suite.settings)))


def _flat(values: dict, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", None if value == "None" else value


def checked(suite: Suite) -> Suite:
    """Returns `suite`. Raises `ConfigError` if it cannot be run; its games are not tried."""
    if suite.preset not in PRESETS:
        raise ConfigError(f"preset = {suite.preset}: must be one of {', '.join(PRESETS)}")
    for name, values in (("games", suite.games), ("seeds", suite.seeds), ("arms", suite.arms)):
        if not values:
            raise ConfigError(f"{name} = {list(values)}: must be at least one")
        if len(set(values)) != len(values):
            raise ConfigError(f"{name} = {list(values)}: has duplicates")
    for problem in out_of_bounds(suite):
        raise ConfigError(problem)
    fixed = {"env.name", "seed", "stop.num_frames", "stop.num_updates", "stop.minutes"}
    for field in fixed.intersection([*suite.settings, *itertools.chain(*suite.arms.values())]):
        raise ConfigError(
            f"{field}: cannot be set here; games, seeds and frames of the suite decide it"
        )
    for arm in suite.arms:
        for seed in suite.seeds:
            config = suite.config(Trial(suite.games[0], arm, seed))
            if config.actors.num_workers == "auto":
                raise ConfigError(
                    "actors.num_workers = auto: counts the cores of one machine; a suite needs a "
                    "number"
                )
            check(config)
    return suite


def overridden(
    suite: Suite,
    games: tuple[str, ...] | None,
    seeds: tuple[int, ...] | None,
    frames: int | None,
) -> Suite:
    """Returns `suite` with what the command line gives in place of its own.

    Raises `ConfigError` as `checked`.
    """
    options = {"games": games, "seeds": seeds, "frames": frames}
    given = {name: value for name, value in options.items() if value is not None}
    return checked(dataclasses.replace(suite, **given))
