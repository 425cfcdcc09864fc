"""The propositions and theorems of the two papers on value equivalence, tried on random cases in
float64.

A row says how many cases were tried, the worst margin and how many were violated by more than
rounding; and, because a check that cannot fail says nothing, how many of `cases_broken` are
violated once an operator has a deliberate fault (the fault that shows most). The statements are in
`muzero/tabular/*_statements.py` and `muzero_bound.py`; theorems 1 and 2 of *Approximate Value
Equivalence*, whose minimum over c and over c-vspan(V) is a linear program, are here.
"""

import dataclasses
import functools
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import scipy.optimize

from muzero.tabular import margins, policies
from muzero.tabular.approximate_statements import APPROXIMATE, error
from muzero.tabular.calibrated_statements import CALIBRATED
from muzero.tabular.class_members import ACTIONS, STATES, Case, random_case
from muzero.tabular.muzero_bound import MUZERO
from muzero.tabular.proper_statements import PROPER
from scripts.laboratory.experiment import Experiment, Row, Unit
from scripts.laboratory.intervals import grouped

ROUNDING = 1e-9  # relative; float64 with condition numbers up to some 1e3 leaves some 1e-13
THEOREMS = ("AVE theorem 1", "AVE theorem 2")
STATEMENTS = PROPER | MUZERO | APPROXIMATE | CALIBRATED


@dataclasses.dataclass(frozen=True)
class Scale:
    """How many cases of each statement: `num_chunks` times `chunk_size`.

    Broken operators are tried on one chunk.
    """

    num_chunks: int
    chunk_size: int


SCALES = {"smoke": Scale(1, 8), "small": Scale(10, 100), "paper": Scale(1000, 100)}


def units(scale: Scale) -> list[Unit]:
    """Returns one unit a statement; the two theorems share their cases."""
    return [{"check": name, "seed": 0} for name in [*STATEMENTS, " and ".join(THEOREMS)]]


def run(scale: Scale, unit: Unit, scratch: Path) -> list[Row]:
    """Tries all cases of a statement with the exact operators, and one chunk with each of the
    broken ones.
    """
    with jax.enable_x64(True):
        keys = jax.random.split(jax.random.key(unit["seed"]), (scale.num_chunks, scale.chunk_size))
        exact = [_margins(unit["check"], _cases(chunk), margins.EXACT) for chunk in keys]
        broken = [_margins(unit["check"], _cases(keys[0]), faults) for faults in margins.BROKEN]
    whole = {name: np.concatenate([chunk[name] for chunk in exact]) for name in exact[0]}
    return [_row(name, margin, [chunk[name] for chunk in broken]) for name, margin in whole.items()]


_cases = jax.jit(jax.vmap(random_case))


def _margins(check: str, cases: Case, faults: margins.Faults) -> dict[str, np.ndarray]:
    """Returns the worst margin of every case [N], by statement."""
    if check not in STATEMENTS:
        return theorem_margins(cases, faults)
    return {check: np.asarray(_worst_margin(cases, faults, check))}


@functools.partial(jax.jit, static_argnums=2)
@functools.partial(jax.vmap, in_axes=(0, None, None))
def _worst_margin(case: Case, faults: margins.Faults, check: str) -> jax.Array:
    return jnp.min(STATEMENTS[check](case, margins.make_operators(faults)))


def _row(name: str, exact: np.ndarray, broken: list[np.ndarray]) -> Row:
    def violated(margin):
        return int(np.sum(~(margin >= -ROUNDING)))  # NaN is a violation

    return {
        "statement": name,
        "cases": len(exact),
        "worst_margin": float(exact.min()),
        "violations": violated(exact),
        "cases_broken": len(broken[0]),
        "violations_when_broken": max(violated(margin) for margin in broken),
    }


def theorem_margins(cases: Case, faults: margins.Faults) -> dict[str, np.ndarray]:
    """Returns the margins [N] of theorems 1 and 2 of AVE for Π = all deterministic policies and V =
    five functions.
    """
    found = {name: [] for name in THEOREMS}
    facts = map(np.asarray, _theorem_facts(cases, faults))
    for apart, lost, tolerance, shrink, functions, values in zip(*facts, strict=True):
        bound = theorem_bound(tolerance, shrink, functions, values)
        found[THEOREMS[0]].append((bound - apart) / (1 + apart))
        found[THEOREMS[1]].append((2 * bound - lost) / (1 + lost))
    return {name: np.asarray(margin) for name, margin in found.items()}


@jax.jit
@functools.partial(jax.vmap, in_axes=(0, None))
def _theorem_facts(case, faults):
    """Returns what the bound is made of: max ‖ṽ_π − v_π‖, ‖v* − v_π̃‖, ε, γ^k, V, V_Π."""
    op = margins.make_operators(faults)
    everyone = policies.all_deterministic_policies(ACTIONS, STATES)
    true, ours = (
        jax.vmap(lambda pi, m=m: op.value(m, pi))(everyone) for m in (case.environment, case.model)
    )
    tolerance = jnp.max(
        jax.vmap(lambda pi: error(case._replace(policy=pi), op, case.functions, case.k))(everyone)
    )
    lost = margins.norm(jnp.max(true, axis=0) - op.value(case.environment, op.optimal(case.model)))
    apart = jnp.max(margins.norm(ours - true))
    return apart, lost, tolerance, case.environment.discount**case.k, case.functions, true


def theorem_bound(
    tolerance: float, shrink: float, functions: np.ndarray, values: np.ndarray
) -> float:
    """Returns min_{c ≥ 1} (c ε + 2 γ^k β(c-vspan(V)‖V_Π)) / (1 − γ^k), exactly: it is one linear
    program.

    Unknowns: c, the distance t = β, and for each value function the positive and negative parts of
    its weights.

    Args:
      tolerance: ε.
      shrink: γ^k.
      functions: [n, S], V.
      values: [m, S], V_Π.
    """
    count, size = len(values), len(functions)

    def every(block):
        return np.kron(np.eye(count), block)

    def column(number, rows):
        return np.full((rows, 1), number)

    mixture = every(np.hstack([functions.T, -functions.T]))  # [m S, 2 m n]
    magnitude, total = (
        every(np.ones((1, 2 * size))),
        every(np.repeat([[1.0, -1.0]], size, axis=1).reshape(1, -1)),
    )
    rows = len(mixture)
    near = [
        np.hstack([column(0, rows), column(-1, rows), mixture]),
        np.hstack([column(0, rows), column(-1, rows), -mixture]),
        np.hstack([column(-1, count), column(0, count), magnitude]),
    ]
    solution = scipy.optimize.linprog(
        np.concatenate([[tolerance, 2 * shrink], np.zeros(2 * count * size)]),
        A_ub=np.vstack(near),
        b_ub=np.concatenate([values.ravel(), -values.ravel(), np.zeros(count)]),
        A_eq=np.hstack([np.zeros((count, 2)), total]),
        b_eq=np.ones(count),
        bounds=[(1, None)] + [(0, None)] * (1 + 2 * count * size),
    )
    if not solution.success:
        raise RuntimeError(f"the linear program of the theorems: {solution.message}")
    return solution.fun / (1 - shrink)


def summarise(scale: Scale, rows: list[Row]) -> list[Row]:
    """Returns a row per statement over all seeds."""

    def sums(members, *keys):
        return {key: sum(member[key] for member in members) for key in keys}

    return [
        {"statement": name, "worst_margin": min(member["worst_margin"] for member in members)}
        | sums(members, "cases", "violations", "cases_broken", "violations_when_broken")
        for (name,), members in grouped(rows, "statement").items()
    ]


def draw(scale: Scale, rows: list[Row], scratch: Path):
    """Returns the figure: the worst margin of every statement; equalities lie at rounding, left of
    the line.
    """
    from matplotlib import pyplot

    summary = summarise(scale, rows)[::-1]
    figure, panel = pyplot.subplots(figsize=(7, 0.3 * len(summary) + 1))
    panel.axvline(-ROUNDING, color="C3", linewidth=1, label="violated below")
    panel.plot([row["worst_margin"] for row in summary], range(len(summary)), "o")
    panel.set_xscale("symlog", linthresh=1e-16)
    panel.set_yticks(
        range(len(summary)), [f"{row['statement']} ({row['cases']:,} cases)" for row in summary]
    )
    panel.set_xticks([-1e-8, -1e-12, 0, 1e-12, 1e-8, 1e-4, 1])
    panel.set(xlabel="worst margin, relative", xlim=(-1e-8, 3))
    panel.set_title("Worst margin of each statement")
    panel.legend(frameon=False, fontsize=8)
    figure.tight_layout()
    return figure


EXPERIMENT = Experiment(SCALES, units, run, summarise, draw)
