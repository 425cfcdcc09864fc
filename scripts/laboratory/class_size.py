"""How large the class of proper value equivalent models is, against the number of policies.

    python scripts/tabular.py class-size --scale small --out results/tabular

`predicted` is the dimension of M^∞(Π) for N random deterministic policies, from the ranks of the
differences of their values (`muzero/tabular/pinning.py`): what these values leave free of all
rewards and transitions. 0 is one model, the environment. The bounds P̃ ≥ 0 may cut the class
further. `reached` is what training has left free: directions along which models led towards the
class by its loss still lie as far from the environment as a tenth of their distance at the start
(and rewards of actions that no policy takes).

Worlds: random MDPs (a new one a seed); Four Rooms; and both times a bit that tosses itself and that
neither rewards, moves nor policies see.
"""

import dataclasses
import math
from pathlib import Path

import jax
import jax.numpy as jnp
import matplotlib.figure
import numpy as np

from muzero.tabular import pinning, worlds
from muzero.tabular.mdp import MDP, one_hot_policy
from muzero.tabular.value_equivalence import Equations, init_params
from scripts.laboratory import model_fitting
from scripts.laboratory.experiment import Experiment, Row, Unit
from scripts.laboratory.intervals import grouped, mean_and_interval
from scripts.laboratory.model_fitting import DISCOUNT

_REMOVED = 0.1  # of the distance at the start: what counts as removed


@dataclasses.dataclass(frozen=True)
class Scale:
    """Which classes, and how long models are led towards them."""

    worlds: tuple[str, ...]
    nums_updates: tuple[int, ...]
    """Of each world; 0: the ranks alone."""
    nums_policies: tuple[int, ...]
    num_seeds: int
    num_states: int = 20
    """Of a random MDP, without the bit."""
    num_actions: int = 2
    num_models: int = 4
    """Random starts a unit."""
    learning_rate: float = 1e-2
    batch_size: int = 50


_WORLDS = ("random", "random x bit", "four rooms", "four rooms x bit")
_SIZES = (1, 10, 50, 103, 128, 500, 1000)

SCALES = {
    "smoke": Scale(("random", "random x bit"), (20, 0), (1, 5), 2, num_states=4, num_models=2),
    "small": Scale(_WORLDS, (10_000, 10_000, 0, 0), _SIZES, 3, num_models=2),
    "paper": Scale(_WORLDS, (500_000, 500_000, 500_000, 0), _SIZES, 20, learning_rate=1e-3),
}


def units(scale: Scale) -> list[Unit]:
    """Returns one unit a world, number of policies and seed."""
    return [
        {"world": world, "policies": count, "seed": seed}
        for seed in range(scale.num_seeds)
        for world in scale.worlds
        for count in scale.nums_policies
    ]


def make_world(name: str, scale: Scale, seed: int) -> MDP:
    """Returns a world as NumPy arrays in float64."""
    base, *bit = name.split(" x ")
    if base == "four rooms":
        with jax.enable_x64(True):
            transition, reward, _ = map(np.asarray, worlds.four_rooms(discount=DISCOUNT))
    else:
        rng = np.random.default_rng([seed, 1])
        shape = scale.num_actions, scale.num_states
        transition = rng.dirichlet(np.ones(scale.num_states), shape)
        reward = rng.uniform(size=shape)
    if bit:
        transition = np.kron(transition, np.full((2, 2), 0.5))
        reward = np.repeat(reward, 2, axis=1)
    return MDP(transition, reward, DISCOUNT)


def draw_policies(name: str, world: MDP, num_policies: int, seed: int) -> np.ndarray:
    """Returns int [N, S], deterministic policies that ignore the bit; few are the first of many."""
    num_actions, num_states = world.reward.shape
    copies = 2 if name.endswith("bit") else 1
    rng = np.random.default_rng([seed, 2])
    action = rng.integers(0, num_actions, (num_policies, num_states // copies))
    return np.repeat(action, copies, axis=1)


def policy_values(world: MDP, action: np.ndarray) -> np.ndarray:
    """Returns [N, S], v_π of deterministic policies [N, S], in float64."""
    states = np.arange(action.shape[1])
    flow = np.eye(len(states)) - world.discount * world.transition[action, states]
    return np.linalg.solve(flow, world.reward[action, states][..., None])[..., 0]


def run(scale: Scale, unit: Unit, scratch: Path) -> list[Row]:
    """Returns one row: the dimension by ranks, and what training left of it."""
    name, seed = unit["world"], unit["seed"]
    world = make_world(name, scale, seed)
    action = draw_policies(name, world, unit["policies"], seed)
    value = policy_values(world, action)
    num_actions, num_states = world.reward.shape
    row: Row = {
        "all_models": num_actions * num_states * num_states,
        "predicted": pinning.class_dimension(value, action, num_actions),
        "reached": math.nan,
        "loss": math.nan,
    }
    num_updates = scale.nums_updates[scale.worlds.index(name)]
    return [row | (_train(scale, world, action, value, seed, num_updates) if num_updates else {})]


def _train(scale, world, action, value, seed, num_updates) -> Row:
    policy = jax.vmap(lambda a: one_hot_policy(a, world.reward.shape[0]))(jnp.asarray(action))
    of_policies = jnp.asarray(value, jnp.float32)
    data = Equations(policy.astype(jnp.float32), of_policies, of_policies)
    ends, starts, losses = [], [], []
    for key in jax.random.split(jax.random.key(seed), scale.num_models):
        start_key, train_key = jax.random.split(key)
        params = init_params(start_key, *world.reward.shape)
        starts.append(_transition(params))
        learner, loss = model_fitting.train(
            model_fitting.make_learner(params, scale.learning_rate),
            data,
            train_key,
            order=1,
            learning_rate=scale.learning_rate,
            batch_size=scale.batch_size,
            num_updates=num_updates,
        )
        ends.append(_transition(learner.params))
        losses.append(float(loss))
    share = remaining(world, action, value, np.array(starts), np.array(ends))
    never_paid = sum(np.sum(~np.any(action == a, axis=0)) for a in range(len(world.reward)))
    return {
        "reached": int(np.sum(share > _REMOVED) + never_paid),
        "loss": float(np.mean(losses)),
    }


def _transition(params) -> np.ndarray:
    return np.asarray(jax.nn.softmax(params.logits[0], axis=-1), np.float64)


def remaining(
    world: MDP, action: np.ndarray, value: np.ndarray, starts: np.ndarray, ends: np.ndarray
) -> np.ndarray:
    """Returns [A, S, S − 1], how far models [M, A, S, S] still are from the environment along each
    direction of a row, as a share of how far they were (root mean squares over models).

    The directions of row (s, a) are those of the differences of values of policies with π(s) = a,
    largest first, then what no difference sees; all have entries that sum to 0.
    """
    num_actions, num_states = world.reward.shape
    share = np.empty((num_actions, num_states, num_states - 1))
    for a, s in np.ndindex(num_actions, num_states):
        directions = pinning.directions(value[action[:, s] == a])
        before, after = (
            np.sqrt(np.mean(((m[:, a, s] - world.transition[a, s]) @ directions.T) ** 2, axis=0))
            for m in (starts, ends)
        )
        share[a, s] = after / before
    return share


def summarise(scale: Scale, rows: list[Row]) -> list[Row]:
    """Returns a row a world and number of policies: means over seeds with 95 % half-widths."""
    summary = []
    for (name, count), members in grouped(rows, "world", "policies").items():
        row: Row = {"world": name, "policies": count, "seeds": len(members)}
        row["all_models"] = members[0]["all_models"]
        for key in ("predicted", "reached", "loss"):
            row[key], row[f"{key}_interval"] = mean_and_interval([each[key] for each in members])
        summary.append(row)
    return summary


def draw(scale: Scale, rows: list[Row], scratch: Path) -> matplotlib.figure.Figure:
    """Returns the figure: dimensions against the number of policies, a panel a world."""
    by_world = grouped(summarise(scale, rows), "world")
    figure = matplotlib.figure.Figure(figsize=(3.2 * len(by_world) + 1, 3.8), layout="constrained")
    axes = figure.subplots(1, len(by_world), squeeze=False)[0]
    for axis, ((name,), line) in zip(axes, by_world.items(), strict=True):
        count = [row["policies"] for row in line]
        for key, label, style in (
            ("predicted", "predicted by ranks", "C0.-"),
            ("reached", "left by training", "C1.--"),
        ):
            mean, width = (np.array([row[k] for row in line]) for k in (key, f"{key}_interval"))
            if not np.all(np.isnan(mean)):
                axis.plot(count, mean, style, label=label)
                axis.fill_between(count, mean - width, mean + width, color=style[:2], alpha=0.2)
        axis.axhline(line[0]["all_models"], color="grey", linewidth=0.8, label="all models")
        axis.set(title=name, xscale="log", xlabel="policies in Π", ylim=0)
    axes[0].set_ylabel("free dimensions")
    axes[0].legend(frameon=False, fontsize=8)
    figure.suptitle(f"Size of the class M∞(Π), {scale.num_seeds} sets of policies (bands: 95 %)")
    return figure


EXPERIMENT = Experiment(SCALES, units, run, summarise, draw)
