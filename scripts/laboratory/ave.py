"""Planning with low-rank models that are right about few or many functions (Approximate Value
Equivalence, figure 2).

    python scripts/tabular.py ave --scale small --out results/tabular

Models of Four Rooms are learned towards order-1 value equivalence for all policies and D functions
v(s) ~ U(-10, 10), at transition ranks up to R. `planning` is the mean over states of what the
model's optimal policy is worth, as a share of v*; `loss` is the mean square of the model's error in
r + γ P v. A seed draws the functions and the model's start.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import matplotlib.figure
import numpy as np
import optax

from muzero.tabular import mdp, value_equivalence, worlds
from scripts.laboratory.experiment import Experiment
from scripts.laboratory.intervals import grouped, mean_and_interval

_FUNCTION_RANGE = 10.0


@dataclasses.dataclass(frozen=True)
class Scale:
    """The grid; the paper's own learning schedule is not in its text."""

    ranks: tuple[int, ...]
    nums_functions: tuple[int, ...]
    num_seeds: int
    num_updates: int
    learning_rate: float = 0.02


SCALES = {
    "smoke": Scale((2,), (1, 3), 2, 10),
    "small": Scale((1, 11, 31, 61, 101), (1, 5, 20, 60, 101), 8, 1500),
    "paper": Scale(tuple(range(1, 102, 10)), tuple(range(1, 102, 10)), 10, 50_000),
}


def units(scale):
    """Returns a unit a cell of the histogram."""
    return [
        {"rank": rank, "functions": number}
        for rank in scale.ranks
        for number in scale.nums_functions
    ]


def learn(environment, params, function, num_updates, learning_rate):
    """Returns (model, loss) learned by Adam towards r + γ P v of the environment for every
    `function` [D, S].
    """
    optimiser = optax.adam(optax.cosine_decay_schedule(learning_rate, num_updates))
    to_model = functools.partial(value_equivalence.to_mdp, discount=environment.discount)

    def loss_fn(params):
        return value_equivalence.action_value_loss(to_model(params), environment, function)

    def update(_, carry):
        params, state = carry
        step, state = optimiser.update(jax.grad(loss_fn)(params), state)
        return optax.apply_updates(params, step), state

    params, _ = jax.lax.fori_loop(0, num_updates, update, (params, optimiser.init(params)))
    return to_model(params), loss_fn(params)


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def evaluate(scale, rank, num_functions, seed):
    """Returns planning value and loss of the models of `seed` [N], learned as one batch."""
    environment = worlds.four_rooms()
    num_actions, num_states = environment.reward.shape
    best = jnp.mean(mdp.optimal_value(environment))

    def one(seed):
        function_key, params_key = jax.random.split(jax.random.key(seed))
        shape = (num_functions, num_states)
        function = jax.random.uniform(
            function_key, shape, minval=-_FUNCTION_RANGE, maxval=_FUNCTION_RANGE
        )
        params = value_equivalence.init_params(params_key, num_actions, num_states, rank)
        model, loss = learn(environment, params, function, scale.num_updates, scale.learning_rate)
        return {"planning": jnp.mean(mdp.planning_value(environment, model)) / best, "loss": loss}

    return jax.vmap(one)(seed)


def run(scale, unit, scratch):
    """Returns a row a seed."""
    seeds = range(scale.num_seeds)
    columns = {
        name: np.asarray(x) for name, x in evaluate(scale, *unit.values(), np.array(seeds)).items()
    }
    return [
        {"seed": seed} | {name: float(x[seed]) for name, x in columns.items()} for seed in seeds
    ]


def summarise(scale, rows):
    """Returns the mean planning value and loss of every cell, with 95 % intervals over seeds."""
    result = []
    for (rank, functions), group in grouped(rows, "rank", "functions").items():
        row = {"rank": rank, "functions": functions, "seeds": len(group)}
        for metric in ("planning", "loss"):
            row[metric], row[f"{metric}_ci"] = mean_and_interval(
                [member[metric] for member in group]
            )
        result.append(row)
    return sorted(result, key=lambda row: (row["rank"], row["functions"]))


def draw(scale, rows, scratch):
    """Returns the figure: the paper's histogram, ranks from left to right, numbers of functions
    from the bottom.
    """
    cells = {(row["rank"], row["functions"]): row for row in summarise(scale, rows)}
    planning = np.array(
        [[cells[r, d]["planning"] for r in scale.ranks] for d in scale.nums_functions]
    )
    figure = matplotlib.figure.Figure(figsize=(5.6, 4.4), layout="constrained")
    axis = figure.subplots()
    image = axis.imshow(planning, origin="lower", cmap="viridis", aspect="auto")
    for (y, x), value in np.ndenumerate(planning):
        cell = cells[scale.ranks[x], scale.nums_functions[y]]
        ink = "white" if value < planning.max() / 2 else "black"
        axis.text(
            x,
            y,
            f"{value:.2f}\n±{cell['planning_ci']:.2f}",
            ha="center",
            va="center",
            fontsize=7,
            color=ink,
        )
    axis.set_xticks(range(len(scale.ranks)), scale.ranks)
    axis.set_yticks(range(len(scale.nums_functions)), scale.nums_functions)
    axis.set(xlabel="max rank", ylabel="number of functions")
    figure.colorbar(image, label="value of the model's optimal policy (share of v*)")
    return figure


EXPERIMENT = Experiment(SCALES, units, run, summarise, draw)
