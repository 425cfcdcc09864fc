"""Spaces of order-k value-equivalent models (Proper Value Equivalence, figure 3 and A.3.5).

Models of stochastic Four Rooms are led from random starts towards M^k(Π, V). Every snapshot of
every model is a vector of its rewards and transitions; each class is projected on the first two
principal components of all its snapshots. What is asked: does the diameter of the converged models
grow with k, and do they plan well?

Every model has policies, functions and minibatches of its own. `small` keeps the world, the losses
and the optimiser, and has lower orders (20 and 30 do not converge in so few updates), fewer models,
updates and pairs, smaller batches and a larger step.
"""

import dataclasses
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from muzero.tabular import policies, worlds
from muzero.tabular.value_equivalence import Equations, init_params, order_k_batch, proper_batch
from scripts.laboratory import model_fitting, speed
from scripts.laboratory.experiment import Experiment, Row, Unit
from scripts.laboratory.intervals import grouped, mean_and_interval
from scripts.laboratory.model_fitting import DISCOUNT, PROPER
from scripts.laboratory.principal_plane import diameter, principal_components

_CHUNK = 1000  # pairs whose targets are computed at once


@dataclasses.dataclass(frozen=True)
class Scale:
    """How much of the paper's experiment."""

    orders: tuple[float, ...]
    """k; `inf` for proper value equivalence."""
    num_models: int
    """Per order; in `num_groups` groups for the interval of the diameter."""
    num_updates: int
    num_snapshots: int
    learning_rate: float
    batch_size: int
    num_pairs: int
    """Policies with a function each, per model."""
    num_groups: int = 4


SCALES = {
    "smoke": Scale((2, PROPER), 4, 20, 2, 1e-2, 5, 20, num_groups=2),
    "small": Scale((1, 5, 10, PROPER), 8, 24_000, 12, 1e-2, 20, 4000),
    "paper": Scale((1, 30, 40, 50, 60, PROPER), 120, 500_000, 500, 1e-3, 50, 100_000),
}


def units(scale: Scale) -> list[Unit]:
    """Returns one unit a model; the seed of a model is the same in every class."""
    return [
        {"order": order, "seed": seed} for seed in range(scale.num_models) for order in scale.orders
    ]


def run(scale: Scale, unit: Unit, scratch: Path) -> list[Row]:
    """Trains one model; keeps its snapshots in `scratch` and returns where it ended."""
    start_key, data_key, train_key = jax.random.split(jax.random.key(unit["seed"]), 3)
    world = worlds.four_rooms(discount=DISCOUNT)
    data = make_data(data_key, world, unit["order"], scale.num_pairs)
    learner = model_fitting.make_learner(
        init_params(start_key, *world.reward.shape), scale.learning_rate
    )
    settings = dict(
        order=model_fitting.operator_order(unit["order"]), learning_rate=scale.learning_rate
    )
    interval = scale.num_updates // scale.num_snapshots
    snapshots, scores = [], []
    for number in range(scale.num_snapshots):
        key = jax.random.fold_in(train_key, number)
        learner, loss = model_fitting.train(
            learner, data, key, **settings, batch_size=scale.batch_size, num_updates=interval
        )
        snapshots.append(to_vector(learner.params))
        scores.append(model_fitting.planning_score(learner.params))
    np.savez(
        _file(scratch, unit["order"], unit["seed"]),
        vectors=np.array(snapshots, np.float16),
        scores=scores,
    )
    gap = jnp.linalg.norm(
        to_vector(learner.params)[world.reward.size :] - world.transition.reshape(-1)
    )
    return [{"loss": float(loss), "planning": scores[-1], "transition_distance": float(gap)}]


def make_data(rng_key: jax.Array, world, order: float, num_pairs: int) -> Equations:
    """Returns `num_pairs` random policies, each with a function U(-1, 1) or, for `PROPER`, its
    value.
    """
    chunk = min(_CHUNK, num_pairs)
    parts = [
        _make_chunk(key, world, order, chunk)
        for key in jax.random.split(rng_key, num_pairs // chunk)
    ]
    return jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *parts)


def _pairs(rng_key: jax.Array, world, order: float, num_pairs: int) -> Equations:
    policy_key, value_key = jax.random.split(rng_key)
    num_actions, num_states = world.reward.shape

    def draw(key):
        return policies.mixed_policy(key, num_actions, num_states)

    policy = jax.vmap(draw)(jax.random.split(policy_key, num_pairs))
    if order == PROPER:
        return proper_batch(world, policy)
    value = jax.random.uniform(value_key, (num_pairs, num_states), minval=-1, maxval=1)
    return order_k_batch(world, policy, value, order)


_make_chunk = jax.jit(_pairs, static_argnums=(2, 3))


def to_vector(params) -> np.ndarray:
    """Returns [A·S + A·S·S], rewards and transition probabilities of a model."""
    (logits,) = params.logits
    return np.concatenate([np.ravel(params.reward), np.ravel(jax.nn.softmax(logits, axis=-1))])


def _file(scratch: Path, order: float, seed: int) -> Path:
    return scratch / f"order-{order:g}-seed-{seed}.npz"


def complete(scale: Scale, rows: list[Row], scratch: Path) -> list[Row]:
    """Returns the rows with what only a class as a whole can say: where its models end in its
    principal plane, and the largest distance to another model of the group, in the plane and in all
    dimensions.
    """
    new = []
    for (order,), members in grouped(rows, "order").items():
        files = [_file(scratch, order, row["seed"]) for row in members]
        mean, components = principal_components(
            lambda files=files: (np.load(file)["vectors"] for file in files)
        )
        clouds = np.array([(np.load(file)["vectors"] - mean) @ components.T for file in files])
        np.savez(
            scratch / f"plane-{order:g}.npz",
            clouds=clouds,
            scores=[np.load(file)["scores"] for file in files],
        )
        ends = np.array([np.load(file)["vectors"][-1] for file in files], np.float64)
        for group in np.array_split(np.arange(len(members)), scale.num_groups):
            whole = {
                "diameter": diameter(ends[group]),
                "plane_diameter": diameter(clouds[group, -1]),
            }
            new += [members[index] | {"group": int(group[0])} | whole for index in group]
    return new


def summarise(scale: Scale, rows: list[Row]) -> list[Row]:
    """Returns a row per order: diameters over groups, planning and loss over models."""
    summary = []
    for (order,), members in grouped(rows, "order").items():
        groups = [group[0] for group in grouped(members, "group").values()]
        row: Row = {"order": order, "models": len(members), "groups": len(groups)}
        for name, of in (
            ("plane_diameter", groups),
            ("diameter", groups),
            ("planning", members),
            ("transition_distance", members),
            ("loss", members),
        ):
            row[name], row[f"{name}_interval"] = mean_and_interval([member[name] for member in of])
        summary.append(row)
    return summary


def draw(scale: Scale, rows: list[Row], scratch: Path):
    """Returns the figure: the clouds coloured by progress (top) and by planning (bottom), and the
    diameters.
    """
    from matplotlib import pyplot

    width = len(scale.orders) + 1
    figure, panels = pyplot.subplots(2, width, figsize=(2.6 * width, 5.2), squeeze=False)
    for column, order in enumerate(scale.orders):
        stored = np.load(scratch / f"plane-{order:g}.npz")
        clouds, scores = stored["clouds"], stored["scores"]
        progress = np.broadcast_to(np.linspace(0, 1, clouds.shape[1]), clouds.shape[:2])
        for panel, colour in zip(panels[:, column], (progress, scores), strict=True):
            dots = panel.scatter(
                *clouds.reshape(-1, 2).T, c=colour.ravel(), s=5, vmin=0, vmax=1, rasterized=True
            )
            panel.set(title=f"k = {_name(order)}", aspect="equal")
    _share_limits(panels[:, :-1].ravel())
    panels[0, 0].set_ylabel("colour: progress")
    panels[1, 0].set_ylabel("colour: planning")
    figure.colorbar(dots, ax=panels[1, -2])
    for panel, name in zip(panels[:, -1], ("plane_diameter", "diameter"), strict=True):
        _draw_diameters(panel, summarise(scale, rows), name)
    figure.tight_layout()
    return figure


def _draw_diameters(panel, summary: list[Row], name: str) -> None:
    values = [[row[key] for row in summary] for key in (name, f"{name}_interval")]
    panel.errorbar(range(len(summary)), values[0], values[1], marker="o", capsize=3)
    panel.set_xticks(range(len(summary)), [_name(row["order"]) for row in summary])
    panel.set(
        title="diameter, " + ("plane" if name == "plane_diameter" else "all dimensions"),
        xlabel="k",
        ylim=0,
    )


def _share_limits(panels) -> None:
    reach = max(abs(limit) for panel in panels for limit in (*panel.get_xlim(), *panel.get_ylim()))
    for panel in panels:
        panel.set(xlim=(-reach, reach), ylim=(-reach, reach))


def _name(order: float) -> str:
    return "∞" if order == PROPER else f"{order:g}"


def benchmark() -> list[Row]:
    """Returns the speed at paper size, a row per order and one for them all."""
    paper = SCALES["paper"]
    tasks = [
        speed.Task(f"k = {_name(k)}", model_fitting.operator_order(k), None, paper.batch_size)
        for k in paper.orders
    ]
    return speed.measure(tasks, num_updates=paper.num_models * paper.num_updates)


EXPERIMENT = Experiment(SCALES, units, run, summarise, draw, complete, benchmark)
