"""Trajectories of the optimal policy, in Four Rooms and in a proper value equivalent model (PVE,
figure 4b and A.3.6).

The model is learned as in `order-k` at k = ∞. The same policy, optimal in the environment, is
followed in both, from the lower right (as the figure's caption has it; the appendix says lower
left). What is asked: does the model make moves that the environment does not permit, although it
gives every policy the right value? Counted: the shares of moves that stay, go to a neighbour, go
diagonally, go farther.
"""

import dataclasses
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from muzero.tabular import mdp, worlds
from muzero.tabular.value_equivalence import init_params
from scripts.laboratory import model_fitting, order_k
from scripts.laboratory.experiment import Experiment, Row, Unit
from scripts.laboratory.intervals import grouped, mean_and_interval
from scripts.laboratory.model_fitting import DISCOUNT, PROPER

WHERE = ("environment", "model")
_START = (11, 11)  # row, column
_DRAWN = 200  # trajectories in the figure


@dataclasses.dataclass(frozen=True)
class Scale:
    """How long the models are trained, and what is drawn from them."""

    num_seeds: int
    num_updates: int
    learning_rate: float
    batch_size: int
    num_pairs: int
    num_trajectories: int
    length: int = 30


SCALES = {
    "smoke": Scale(1, 20, 1e-2, 5, 20, 10, 5),
    "small": Scale(4, 24_000, 1e-2, 50, 4000, 5000),
    "paper": Scale(4, 500_000, 1e-3, 50, 100_000, 5000),
}


def units(scale: Scale) -> list[Unit]:
    """Returns one unit a model."""
    return [{"seed": seed} for seed in range(scale.num_seeds)]


def run(scale: Scale, unit: Unit, scratch: Path) -> list[Row]:
    """Trains a model, follows the policy in it and in the environment, and keeps the trajectories
    in `scratch`.
    """
    start_key, data_key, train_key, walk_key = jax.random.split(jax.random.key(unit["seed"]), 4)
    world = worlds.four_rooms(discount=DISCOUNT)
    learner, _ = model_fitting.train(
        model_fitting.make_learner(
            init_params(start_key, *world.reward.shape), scale.learning_rate
        ),
        order_k.make_data(data_key, world, PROPER, scale.num_pairs),
        train_key,
        order=1,
        learning_rate=scale.learning_rate,
        batch_size=scale.batch_size,
        num_updates=scale.num_updates,
    )
    rows, walks = [], {}
    with jax.enable_x64(True):
        world = worlds.four_rooms(discount=DISCOUNT)
        policy = _optimal_policy(world)
        value = _policy_value(world, policy)
        for name, where in zip(
            WHERE, (world, model_fitting.exact_model(learner.params)), strict=True
        ):
            chain = mdp.policy_transition(where, policy)
            walks[name] = np.asarray(_walk(walk_key, chain, scale.num_trajectories, scale.length))
            error = jnp.max(jnp.abs(_policy_value(where, policy) - value)) / jnp.max(value)
            rows.append({"where": name, **_count_moves(walks[name]), "value_error": float(error)})
    np.savez(scratch / f"seed-{unit['seed']}.npz", **walks)
    score = model_fitting.planning_score(learner.params)
    return [row | {"planning": score if row["where"] == "model" else 1.0} for row in rows]


_optimal_policy, _policy_value = jax.jit(mdp.optimal_policy), jax.jit(mdp.policy_value)


def _sample_walks(
    rng_key: jax.Array, chain: jax.Array, num_trajectories: int, length: int
) -> jax.Array:
    """Returns int [N, length + 1], states along a Markov chain [S, S] from the lower right."""
    start = jnp.full(num_trajectories, _squares().tolist().index(list(_START)))

    def step(state, key):
        return (jax.random.categorical(key, jnp.log(chain[state])), state)

    last, states = jax.lax.scan(step, start, jax.random.split(rng_key, length))
    return jnp.concatenate([states, last[None]]).T


_walk = jax.jit(_sample_walks, static_argnums=(2, 3))


def _squares() -> np.ndarray:
    """Returns int [S, 2], row and column of every state."""
    return np.argwhere(worlds.four_rooms_map())


def _count_moves(states: np.ndarray) -> dict[str, float]:
    """Returns the shares of moves that stay, go to a neighbour, go diagonally, go farther."""
    steps = np.abs(np.diff(_squares()[states], axis=1))
    distance, diagonal = steps.sum(axis=-1), (steps == 1).all(axis=-1)
    shares = {"stay": distance == 0, "neighbour": distance == 1, "diagonal": diagonal}
    shares["farther"] = (distance > 1) & ~diagonal
    return {name: float(moves.mean()) for name, moves in shares.items()}


def summarise(scale: Scale, rows: list[Row]) -> list[Row]:
    """Returns a row for the environment and one for the models, over seeds."""
    summary = []
    for (where,), members in grouped(rows, "where").items():
        row: Row = {"where": where, "seeds": len(members)}
        for key in ("stay", "neighbour", "diagonal", "farther", "value_error", "planning"):
            row[key], row[f"{key}_interval"] = mean_and_interval(
                [member[key] for member in members]
            )
        summary.append(row)
    return summary


def draw(scale: Scale, rows: list[Row], scratch: Path):
    """Returns the figure: paths over the map, coloured by time; the environment and the model of
    the first seed.
    """
    from matplotlib import collections, pyplot

    walks = np.load(scratch / "seed-0.npz")
    figure, panels = pyplot.subplots(1, 2, figsize=(8, 4.2))
    jitter = np.random.default_rng(0).uniform(-0.25, 0.25, (_DRAWN, 1, 2))
    for panel, name in zip(panels, WHERE, strict=True):
        panel.imshow(~worlds.four_rooms_map(), cmap="Greys", vmax=1.5)
        paths = (_squares()[walks[name][:_DRAWN]] + jitter[: len(walks[name])])[..., ::-1]
        pieces = np.stack([paths[:, :-1], paths[:, 1:]], axis=2)
        times = np.broadcast_to(np.arange(pieces.shape[1]), pieces.shape[:2])
        lines = collections.LineCollection(
            pieces.reshape(-1, 2, 2), array=times.ravel(), linewidths=0.4, alpha=0.5
        )
        lines.set_rasterized(True)
        panel.add_collection(lines)
        panel.plot(*_START[::-1], "o", color="C3")
        panel.set(title=name if name == "environment" else "PVE model", xticks=[], yticks=[])
    figure.colorbar(lines, ax=panels, label="step", shrink=0.8)
    return figure


EXPERIMENT = Experiment(SCALES, units, run, summarise, draw)
