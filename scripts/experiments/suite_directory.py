"""The directory of a suite: which suite it is of, and what is finished in it."""

import collections
import dataclasses
import hashlib
import json
import math
from pathlib import Path

from configs.presets import PRESETS
from configs.schema import Config, ConfigError
from configs.serialise import differences, to_dict
from configs.suite import Suite, Trial
from learner.records.run_directory import write_atomically
from scripts.experiments import results

SUITE, COMMIT = "suite: ", "commit: "  # comments of results.csv


def results_file(out: Path) -> Path:
    """Returns the file of the results of all finished trials."""
    return out / "results.csv"


def carried_over(suite: Suite, out: Path) -> tuple[list[str], dict[Trial, list[results.Row]]]:
    """Returns what the results in `out` say, this directory's or those of another machine.

    Returns:
      The commits behind them, as comments of the file, and the rows of every trial that is finished
      there.

    Raises:
      ConfigError: they cannot be read, or are those of another suite.
    """
    file = results_file(out)
    if not file.exists():
        return [], {}
    found = results.read(file)
    if (stated := _stated(file, found)) is None:
        raise ConfigError(f"{file}: does not say which suite it is of; choose another directory")
    _require_same(file, stated, suite)
    rows = collections.defaultdict(list)
    for row in found.rows:
        rows[Trial(row.game, row.arm, row.seed)].append(row)
    return [comment for comment in found.comments if comment.startswith(COMMIT)], dict(rows)


def _stated(file: Path, found: results.Results) -> dict | None:
    """Returns what a file of results says of its suite, None if it says nothing.

    Raises `ConfigError` if damaged.
    """
    texts = [comment.removeprefix(SUITE) for comment in found.comments if comment.startswith(SUITE)]
    return _parsed(file, texts[0]) if texts else None


def _parsed(file: Path, text: str) -> dict:
    try:
        return dict(json.loads(text))
    except (ValueError, TypeError) as error:
        raise ConfigError(
            f"{file}: damaged, what it says of its suite is no JSON: {error}"
        ) from error


def _require_same(file: Path, stated: dict, suite: Suite) -> None:
    """Raises `ConfigError` unless `suite` is the one that is stated, or that with more games or
    seeds.
    """
    wanted = identity(suite)
    grown = {
        name: wanted[name]
        for name in ("games", "seeds")
        if set(stated.get(name, ())) < set(wanted[name])
    }
    if changes := differences(stated | grown, wanted):
        raise ConfigError(
            f"{file}: of another suite ({'; '.join(changes)}); choose another directory"
        )


def identity(suite: Suite) -> dict:
    """Returns what must stay the same for the results to be those of one suite; JSON values."""
    values = dataclasses.asdict(suite)
    del values["resources"]
    # What the preset changes, so that a setting that is added later with its default changes
    # nothing.
    settings = json.dumps(differences(to_dict(Config()), to_dict(PRESETS[suite.preset])))
    values["preset_sha256"] = hashlib.sha256(settings.encode()).hexdigest()[:16]
    return json.loads(json.dumps(values))


def what_is_missing(file: Path, found: results.Results) -> list[str]:
    """Returns a line if a file of results lacks trials of the suite that it states."""
    if (stated := _stated(file, found)) is None:
        return []
    num_planned = math.prod(len(stated[name]) for name in ("games", "seeds", "arms"))
    num_found = len({(row.game, row.arm, row.seed) for row in found.rows})
    line = f"{num_found} of {num_planned} trials are in the file: nothing can be concluded yet."
    return [line] if num_found < num_planned else []


def several_commits(comments: tuple[str, ...]) -> list[str]:
    """Returns a line if the trials behind a file of results ran at more than one commit."""
    num_commits = len({comment for comment in comments if comment.startswith(COMMIT)})
    line = (
        f"The trials ran at {num_commits} commits: their wall times may differ for that, and not "
        f"for their arms."
    )
    return [line] if num_commits > 1 else []


def open_out(suite: Suite, out: Path) -> None:
    """Makes the directory of a suite, or raises `ConfigError` if it is another's."""
    carried_over(suite, out)
    file = out / "suite.json"
    try:
        out.mkdir(parents=True, exist_ok=True)
        if file.exists():
            _require_same(file, _parsed(file, file.read_text(encoding="utf-8")), suite)
        write_atomically(file, json.dumps(identity(suite), indent=2) + "\n")
    except OSError as error:
        raise ConfigError(f"--out {out}: {error}") from error
