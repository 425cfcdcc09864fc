"""Which sampled losses have the right minimiser (Calibrated Value-Aware Model Learning,
propositions 2 to 5).

    python scripts/tabular.py calibration --scale small --out results/tabular

A row of the table is a loss in many random problems: how far its minimiser is from the truth, from
the closed form ("exact") and as found from samples ("measured"). Errors are in standard deviations:
of V after one step where a model is learned (2, 3, 5), of T V_target over states where a value is
(4, eq. 5). The spread is that of V under the learned model, or of the learned V over states, in the
same unit: 0 is a model without variance.
"""

import dataclasses
import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import matplotlib.figure
import numpy as np

from muzero.tabular import calibration, vaml
from scripts.laboratory.experiment import Experiment
from scripts.laboratory.intervals import grouped, mean_and_interval

DISCOUNT = 0.9
_MODEL_STEPS = {"td": 0, "muzero-m2": 2, "muzero-m3": 3}  # m of (m, 1); 1 of all others
_NUM_KNOTS = 1001  # of a continuous value function on [0, 1]

CASES = [  # statement, loss, rollouts n
    ("prop. 2", "itervaml", 1),
    ("prop. 2", "itervaml", 2),
    ("prop. 2", "muzero", 1),
    ("prop. 3", "itervaml-calibrated", 2),
    ("prop. 3", "muzero-calibrated", 2),
    ("prop. 4", "td", 1),
    ("prop. 4", "muzero", 1),
    ("prop. 4", "muzero-calibrated", 2),
    ("prop. 4", "muzero-m2", 1),
    ("prop. 4", "muzero-m3", 1),
    ("eq. 5, states", "muzero-calibrated", 2),
    ("eq. 5, expectation", "muzero-calibrated", 2),
    ("prop. 5, finite", "itervaml-deterministic", 1),
    ("prop. 5, connected", "itervaml-deterministic", 1),
]


@dataclasses.dataclass(frozen=True)
class Scale:
    """The size of the table."""

    num_problems: int
    num_updates: int
    batch_size: int
    num_windows: int
    num_states: int = 8
    learning_rate: float = 0.05


SCALES = {
    "smoke": Scale(2, 20, 16, 1000),
    "small": Scale(64, 2000, 128, 100_000),
    "paper": Scale(1000, 10_000, 512, 1_000_000),
}


def units(scale):
    """Returns a unit a row of the table."""
    return [dict(zip(("statement", "loss", "num_samples"), case, strict=True)) for case in CASES]


class Problem(NamedTuple):
    """A random chain, what its values are bootstrapped from, and a continuous value with a
    distribution over places.
    """

    seed: np.ndarray  # int32
    transition: np.ndarray  # [S, S]
    reward: np.ndarray  # [S]
    value_target: np.ndarray  # [S]


def _problem(seed, statement, num_states):
    """Returns the problem of a seed; for values its chain is conditioned well, with twins where eq.
    5 is shown.
    """
    rng = np.random.default_rng(seed)
    transition = rng.dirichlet(np.ones(num_states), num_states)
    move = np.roll(np.eye(num_states), 1, axis=1)
    if statement.startswith(
        "eq. 5"
    ):  # 2 i and 2 i + 1 are twins: no state leads to one more often than to the other
        transition = np.repeat(transition[:, ::2] + transition[:, 1::2], 2, axis=1) / 2
        move = np.kron(np.roll(np.eye(num_states // 2), 1, axis=1), np.full((2, 2), 0.5))
    if _learner_of(statement) is _learn_value:
        transition = 0.3 * transition + 0.7 * move
    return Problem(
        np.int32(seed), transition, rng.normal(size=num_states), rng.normal(size=num_states)
    )


def _learn_model(scale, statement, loss, num_samples, problem):
    """Propositions 2 and 3: p̂(·|x) of one state, V fixed at what a true model needs, uniform at
    the start.
    """
    seed, transition, reward, value_target = problem
    b, calibrated = int(loss.startswith("muzero")), loss.endswith("calibrated")
    value = vaml.target_moments(transition, reward, value_target, 0, b, DISCOUNT).mean
    truth = vaml.Moments(*(moment[0] for moment in vaml.prediction_moments(transition, value, 1)))

    def target_fn(key, batch_size):
        windows = calibration.sample_windows(
            key, jnp.zeros(batch_size, int), transition, reward, 1 + b
        )
        return vaml.bootstrapped_target(windows, lambda state: value_target[state], 1, DISCOUNT)

    settings = {
        name: getattr(scale, name) for name in ("batch_size", "num_updates", "learning_rate")
    }
    settings |= dict(
        error_fn=vaml.calibrated_error if calibrated else vaml.squared_error,
        num_samples=num_samples,
    )
    fitted = calibration.fit_row(
        jax.random.key(seed), jnp.zeros_like(value), value, target_fn, **settings
    )
    mean = fitted @ value
    exact = calibration.minimising_mean(value, truth.mean, math.inf if calibrated else num_samples)
    spread = jnp.sqrt(fitted @ jnp.square(value - mean))
    return _row(jnp.array([mean, exact]) - truth.mean, jnp.sqrt(truth.variance), spread)


def _learn_value(scale, statement, loss, num_samples, problem):
    """Proposition 4: V of every state with the true model,
    from windows of uniformly drawn states.
    """
    seed, transition, reward, value_target = problem
    truth = vaml.target_moments(transition, reward, value_target, 0, 1, DISCOUNT).mean
    calibrated, m = loss.endswith("calibrated"), _MODEL_STEPS.get(loss, 1)
    start_key, window_key, model_key = jax.random.split(jax.random.key(seed), 3)
    start = jax.random.randint(start_key, (scale.num_windows,), 0, scale.num_states)
    windows = calibration.sample_windows(window_key, start, transition, reward, m + 1)
    target = vaml.bootstrapped_target(windows, lambda state: value_target[state], m, DISCOUNT)
    model = jnp.linalg.matrix_power(transition, m)
    states = calibration.sample_states(model_key, model[start], num_samples)
    measured = calibration.sampled_minimising_value(states, target, scale.num_states, calibrated)
    weight = 0.0 if calibrated else 1 / num_samples
    exact = calibration.minimising_value(model, model @ truth, weight)
    seen = model if statement == "eq. 5, expectation" else jnp.eye(scale.num_states)
    return _row(
        jnp.stack([measured, exact]) @ seen.T - seen @ truth, jnp.std(truth), jnp.std(measured)
    )


def _learn_deterministic(scale, statement, loss, num_samples, problem):
    """Proposition 5: one next state for a stochastic one, among finitely many or on the interval
    [0, 1].
    """
    value, row = problem.value_target, problem.transition[0]
    connected = statement.endswith("connected")
    if (
        connected
    ):  # V is linear between its states, the distribution between the knots of a fine grid
        place = jnp.linspace(0, scale.num_states - 1, _NUM_KNOTS)
        value, row = (
            jnp.interp(place, jnp.arange(scale.num_states), array) for array in (value, row)
        )
        row /= jnp.sum(row)
    mean = row @ value
    sampled_mean = jnp.mean(
        jax.random.choice(jax.random.key(problem.seed), value, (scale.num_windows,), p=row)
    )
    error = (
        jnp.stack(
            [_deterministic_value(value, target, connected) for target in (sampled_mean, mean)]
        )
        - mean
    )
    return _row(error, jnp.sqrt(row @ jnp.square(value - mean)), jnp.zeros(()))


def _deterministic_value(value, mean, connected):
    if not connected:  # a model without variance: its squared error is least at the nearest value
        return value[jnp.argmin(jnp.abs(value - mean))]
    point = calibration.deterministic_state(value, mean)
    return jnp.interp(point * (len(value) - 1), jnp.arange(len(value)), value)


def _row(errors, scale, spread):
    """Returns the columns of a problem from the errors [2, ...] of the measured and of the exact
    minimiser.
    """

    def rms(error):
        return jnp.sqrt(jnp.mean(jnp.square(error))) / scale

    measured, exact = errors
    return {
        "exact_error": rms(exact),
        "measured_error": rms(measured),
        "gap": rms(measured - exact),
        "spread": spread / scale,
    }


def _learner_of(statement):
    """Returns the function that poses and solves the problems of a statement."""
    learners = {"prop. 2": _learn_model, "prop. 3": _learn_model, "prop. 5": _learn_deterministic}
    return learners.get(statement.split(",")[0], _learn_value)


@functools.partial(jax.jit, static_argnums=(0, 1, 2, 3))
def _solve(scale, statement, loss, num_samples, problems):
    solve = functools.partial(_learner_of(statement), scale, statement, loss, num_samples)
    if _learner_of(statement) is _learn_model:
        return jax.vmap(solve)(problems)
    return jax.lax.map(solve, problems)  # one after another: each holds a table of its windows


def run(scale, unit, scratch):
    """Returns the rows of one loss, one a problem, in float64."""
    with jax.enable_x64(True):
        problems = [
            _problem(seed, unit["statement"], scale.num_states)
            for seed in range(scale.num_problems)
        ]
        columns = _solve(
            scale,
            *unit.values(),
            Problem(*(np.stack(field) for field in zip(*problems, strict=True))),
        )
        columns = {name: np.asarray(values) for name, values in columns.items()}
    return [
        {"seed": seed} | {name: float(values[seed]) for name, values in columns.items()}
        for seed in range(scale.num_problems)
    ]


def summarise(scale, rows):
    """Returns the table: mean errors over problems, the measured one with its 95 % interval."""
    result = []
    for (statement, loss, num_samples), group in grouped(
        rows, "statement", "loss", "num_samples"
    ).items():
        mean = {
            name: mean_and_interval([row[name] for row in group]) for name in list(group[0])[4:]
        }
        row = {"statement": statement, "loss": loss, "n": num_samples, "problems": len(group)}
        row |= {"exact_error": mean["exact_error"][0], "measured_error": mean["measured_error"][0]}
        row |= {
            "measured_ci": mean["measured_error"][1],
            "gap": mean["gap"][0],
            "spread": mean["spread"][0],
        }
        result.append(row)
    return sorted(result, key=lambda row: CASES.index((row["statement"], row["loss"], row["n"])))


def draw(scale, rows, scratch):
    """Returns the figure: error of the exact and of the measured minimiser, a line a loss."""
    table = summarise(scale, rows)[::-1]
    figure = matplotlib.figure.Figure(figsize=(7, 0.32 * len(table) + 1), layout="constrained")
    axis = figure.subplots()
    place = np.arange(len(table))
    measured, width = ([row[name] for row in table] for name in ("measured_error", "measured_ci"))
    axis.barh(
        place,
        [row["exact_error"] for row in table],
        color="lightsteelblue",
        label="exact minimiser",
    )
    axis.errorbar(
        measured, place, xerr=width, fmt="k.", capsize=3, label="found from samples, 95 %"
    )
    axis.set_yticks(place, [f"{row['statement']}: {row['loss']}, n = {row['n']}" for row in table])
    axis.set_xlabel("error of the minimiser (standard deviations)")
    axis.legend(frameon=False)
    return figure


EXPERIMENT = Experiment(SCALES, units, run, summarise, draw)
