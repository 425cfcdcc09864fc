"""Trajectories of the optimal policy, in Four Rooms and in a proper value equivalent model (PVE,
figure 4b and A.3.6).

The model is learned as in `order-k` at k = ∞, with the paper's step. The same policy, optimal in
the environment, is followed in both, from the lower left (A.3.6 and the authors' code; the figure's
caption says lower right, where fewer rooms are to cross). What is asked: does the model make moves
that the environment does not permit, although it gives every policy the right value? Counted, at
several moments of training: the shares of moves that stay, go to a neighbour, go diagonally, go
farther.
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
MOVES = ("stay", "neighbour", "diagonal", "farther")
_START = (11, 1)  # row, column
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
    num_moments: int
    """At which the moves are counted, equally far apart."""
    length: int = 30


SCALES = {
    "smoke": Scale(1, 20, 1e-2, 5, 20, 10, 2, 5),
    "small": Scale(2, 100_000, 1e-3, 50, 4000, 5000, 8),
    "paper": Scale(4, 500_000, 1e-3, 50, 100_000, 5000, 20),
}


def units(scale: Scale) -> list[Unit]:
    """Returns one unit a model."""
    return [{"seed": seed} for seed in range(scale.num_seeds)]


def run(scale: Scale, unit: Unit, scratch: Path) -> list[Row]:
    """Trains a model, follows the policy in it at every moment and in the environment, and keeps
    the last trajectories in `scratch`.
    """
    start_key, data_key, train_key, walk_key = jax.random.split(jax.random.key(unit["seed"]), 4)
    world = worlds.four_rooms(discount=DISCOUNT)
    params = init_params(start_key, *world.reward.shape)
    learner = model_fitting.make_learner(params, scale.learning_rate)
    data = order_k.make_data(data_key, world, PROPER, scale.num_pairs)
    interval = scale.num_updates // scale.num_moments
    exact, row = _follow(scale, walk_key, None)
    walks, rows = (
        {"environment": exact},
        [{"where": "environment", "updates": 0, "loss": 0.0} | row],
    )
    for number in range(scale.num_moments):
        learner, loss = model_fitting.train(
            learner,
            data,
            jax.random.fold_in(train_key, number),
            order=1,
            learning_rate=scale.learning_rate,
            batch_size=scale.batch_size,
            num_updates=interval,
        )
        walks["model"], row = _follow(scale, walk_key, learner.params)
        of = {"where": "model", "updates": (number + 1) * interval, "loss": float(loss)}
        rows.append(of | row)
    np.savez(scratch / f"seed-{unit['seed']}.npz", **walks)
    return rows


def _follow(scale: Scale, walk_key: jax.Array, params) -> tuple[np.ndarray, Row]:
    """Returns trajectories of the environment's optimal policy in a model (None: in the
    environment), and what is said of them; in float64.
    """
    with jax.enable_x64(True):
        world = worlds.four_rooms(discount=DISCOUNT)
        policy = _optimal_policy(world)
        value = _policy_value(world, policy)
        where = world if params is None else model_fitting.exact_model(params)
        chain = mdp.policy_transition(where, policy)
        walk = np.asarray(_walk(walk_key, chain, scale.num_trajectories, scale.length))
        error = jnp.max(jnp.abs(_policy_value(where, policy) - value)) / jnp.max(value)
        distance = jnp.linalg.norm(where.transition - world.transition)
    planning = 1.0 if params is None else model_fitting.planning_score(params)
    facts = {"value_error": float(error), "distance": float(distance), "planning": planning}
    return walk, _count_moves(walk) | facts


_optimal_policy, _policy_value = jax.jit(mdp.optimal_policy), jax.jit(mdp.policy_value)


def _sample_walks(
    rng_key: jax.Array, chain: jax.Array, num_trajectories: int, length: int
) -> jax.Array:
    """Returns int [N, length + 1], states along a Markov chain [S, S] from `_START`."""
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
    """Returns a row for the environment and one a moment of the models, over seeds."""
    summary = []
    for (where, updates), members in grouped(rows, "where", "updates").items():
        row: Row = {"where": where, "updates": updates, "seeds": len(members)}
        for key in (*MOVES, "value_error", "planning", "distance", "loss"):
            row[key], row[f"{key}_interval"] = mean_and_interval(
                [member[key] for member in members]
            )
        summary.append(row)
    return summary


def draw(scale: Scale, rows: list[Row], scratch: Path):
    """Returns the figure: moves against updates, over the models; paths over the map, coloured by
    time, of the environment and of the first model when it ends.
    """
    from matplotlib import pyplot

    figure, panels = pyplot.subplots(1, 3, figsize=(12, 4.2), layout="constrained")
    _draw_moves(panels[0], summarise(scale, rows))
    walks = np.load(scratch / "seed-0.npz")
    titles = ("environment", f"PVE model, {scale.num_updates:,} updates")
    for panel, name, title in zip(panels[1:], WHERE, titles, strict=True):
        lines = _draw_paths(panel, walks[name])
        panel.set(title=title, xticks=[], yticks=[])
    figure.colorbar(lines, ax=panels[2], label="step", shrink=0.8)
    return figure


def _draw_moves(panel, summary: list[Row]) -> None:
    line = [row for row in summary if row["where"] == "model"]
    updates = [row["updates"] for row in line]
    for number, move in enumerate(MOVES):
        mean, width = (100 * np.array([r[k] for r in line]) for k in (move, f"{move}_interval"))
        panel.plot(updates, mean, ".-", color=f"C{number}", label=f"{move}, model")
        low = np.maximum(mean - width, 1e-3)
        panel.fill_between(updates, low, mean + width, color=f"C{number}", alpha=0.2)
        if summary[0][move]:
            label = f"{move}, environment"
            panel.axhline(100 * summary[0][move], color=f"C{number}", ls=":", label=label)
    seeds = summary[0]["seeds"]
    panel.set(xlabel="updates", ylabel="share of moves (%)", yscale="log", ylim=(0.01, 100))
    panel.set_title(f"Moves, mean of {seeds} models (bands: 95 %)")
    panel.legend(fontsize=7, frameon=False)


def _draw_paths(panel, walk: np.ndarray):
    from matplotlib import collections

    jitter = np.random.default_rng(0).uniform(-0.25, 0.25, (_DRAWN, 1, 2))
    panel.imshow(~worlds.four_rooms_map(), cmap="Greys", vmax=1.5)
    paths = (_squares()[walk[:_DRAWN]] + jitter[: len(walk)])[..., ::-1]
    pieces = np.stack([paths[:, :-1], paths[:, 1:]], axis=2)
    times = np.broadcast_to(np.arange(pieces.shape[1]), pieces.shape[:2])
    lines = collections.LineCollection(
        pieces.reshape(-1, 2, 2), array=times.ravel(), linewidths=0.4, alpha=0.5
    )
    lines.set_rasterized(True)
    panel.add_collection(lines)
    panel.plot(*_START[::-1], "o", color="C3")
    return lines


EXPERIMENT = Experiment(SCALES, units, run, summarise, draw)
