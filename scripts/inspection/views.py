"""The three looks into an agent, with their options: search tree, imagination, audit."""

import dataclasses
import sys
from pathlib import Path
from typing import Annotated

import tyro

from configs.schema import ConfigError
from scripts.program import commands, reexecution

RunDir = Annotated[Path, tyro.conf.Positional]


@dataclasses.dataclass(frozen=True)
class Tree:
    """Draws the search tree of one state of a greedy game: visits, Q, prior and reward of every
    visited node.
    """

    run_dir: RunDir
    """Directory of the run, or of an exported agent."""
    out: Path
    """The .svg."""
    checkpoint: str = "latest"
    """`latest`, `best` or a number of updates."""
    seed: int = 0
    """Seed of the game."""
    step: int = 0
    """Decisions played before the state that is searched."""


@dataclasses.dataclass(frozen=True)
class Imagine:
    """Draws the values and rewards that the model imagines along a greedy game against what
    happened.
    """

    run_dir: RunDir
    """Directory of the run, or of an exported agent."""
    out: Path
    """The .png."""
    checkpoint: str = "latest"
    """`latest`, `best` or a number of updates."""
    seed: int = 0
    """Seed of the game."""
    steps: int | None = None
    """Imagined steps. Default: those of training (K)."""


@dataclasses.dataclass(frozen=True)
class Audit:
    """Audits the value equivalence of the model: predicted values of the stored past policies
    against real returns.
    """

    run_dir: RunDir
    """Directory of the run."""
    out: Path
    """Directory of audit.csv and audit.png."""
    checkpoint: str = "latest"
    """`latest`, `best` or a number of updates."""
    num_states: int = 64
    """States of held-out games."""
    num_rollouts: int = 16
    """Rollouts of every policy from every state."""
    heads: tuple[int, ...] = ()
    """Numbers of updates of the heads to audit. Default: all that are stored."""
    tail: float = 0.01
    """Rollouts end with the learning episode (a lost life ends it), or once γⁿ is below this."""
    seed: int = 0
    """Seed of games, rollouts and intervals."""


def show(options: Tree | Imagine | Audit) -> None:
    """Draws what was asked for. Raises `ConfigError` for options that cannot be."""
    if not 0 <= options.seed < 2**20:
        raise ConfigError(f"--seed = {options.seed}: must be 0 to {2**20 - 1}")
    {Tree: _tree, Imagine: _imagine, Audit: _audit}[type(options)](options)


def _tree(options: Tree) -> None:
    _require_ending(options.out, ".svg")
    if options.step < 0:
        raise ConfigError(f"--step = {options.step}: must be 0 or above")
    from scripts.inspection import stored, tree

    checkpoint = stored.load(options.run_dir, options.checkpoint)
    commands.make_folder_of("--out", options.out)
    found, names = tree.searched(checkpoint, seed=options.seed, step=options.step)
    title = f"{_title(checkpoint)}, game {options.seed}, decision {options.step}"
    options.out.write_text(tree.draw(found, names, title), encoding="utf-8")
    print(f"written: {options.out}, {int((found.visits > 0).sum())} visited nodes")


def _imagine(options: Imagine) -> None:
    _require_ending(options.out, ".png")
    if options.steps is not None:
        commands.positive("--steps", options.steps)
    from scripts.inspection import imagine, stored

    checkpoint = stored.load(options.run_dir, options.checkpoint)
    commands.make_folder_of("--out", options.out)
    num_steps = options.steps or checkpoint.config.loss.num_unroll_steps
    imagined = imagine.imagine(checkpoint, seed=options.seed, num_steps=num_steps)
    imagine.plot(options.out, imagined, f"{_title(checkpoint)}, game {options.seed}")
    value, reward = imagine.errors(imagined)
    print(
        f"root mean square error of values, k = 0..{num_steps}:  "
        f"{' '.join(f'{x:.3g}' for x in value)}"
    )
    print(
        f"root mean square error of rewards, k = 1..{num_steps}: "
        f"{' '.join(f'{x:.3g}' for x in reward)}"
    )
    print(f"written: {options.out}")


def _audit(options: Audit) -> None:
    for name in ("num_states", "num_rollouts"):
        if getattr(options, name) < 2:
            raise ConfigError(
                f"--{name.replace('_', '-')} = {getattr(options, name)}: must be at least 2"
            )
    if not 0 < options.tail < 1:
        raise ConfigError(f"--tail = {options.tail}: must be between 0 and 1")
    reexecution.reexecute_with_jemalloc()
    import rich.progress

    from scripts.inspection import audit, audit_report, audit_table, heldout, stored

    checkpoint = stored.load(options.run_dir, options.checkpoint)
    heldout.check(checkpoint.config)
    heads = stored.choose_heads(checkpoint, options.heads)
    commands.make_folder("--out", options.out)
    states = heldout.collect(checkpoint, num_states=options.num_states, seed=options.seed)
    with rich.progress.Progress(disable=not sys.stdout.isatty()) as progress:
        task = progress.add_task(
            "rollouts", total=len(heads) * options.num_states * options.num_rollouts
        )
        audits = audit.run(
            checkpoint,
            states,
            heads,
            num_rollouts=options.num_rollouts,
            tail=options.tail,
            seed=options.seed,
            on_done=lambda count: progress.advance(task, count),
        )
    table = audit_table.rows(
        audits,
        num_updates=checkpoint.num_updates,
        num_states=options.num_states,
        num_rollouts=options.num_rollouts,
    )
    audit_table.write(options.out / "audit.csv", table)
    audit_report.plot(options.out / "audit.png", table, _title(checkpoint))
    print(audit_report.summary(table))
    print(f"written: {options.out / 'audit.csv'}, {options.out / 'audit.png'}")


def _title(checkpoint) -> str:
    config = checkpoint.config
    return f"{config.env.name}, seed {config.seed}, {checkpoint.num_updates:,} updates"


def _require_ending(path: Path, ending: str) -> None:
    if path.suffix != ending:
        raise ConfigError(f"--out {path}: must end in {ending}")
