"""Planning with models of limited rank (Proper Value Equivalence, figure 4a and A.3.7).

Transition matrices of at most a given rank are learned to be proper value equivalent for stochastic
policies ("all") or for deterministic ones. What is asked: at low rank, do the second plan better?

The policies lie along slow policy iteration in Four Rooms, each with a tenth of its states made
uniform or, for the second kind, made deterministic at random. `small` keeps the world, the loss and
the optimiser, and has fewer ranks, seeds, policies and updates and a larger step.
"""

import dataclasses
import functools
from pathlib import Path

import jax

from muzero.tabular import policies, worlds
from muzero.tabular.mdp import MDP
from muzero.tabular.value_equivalence import Equations, init_params, proper_batch
from scripts.laboratory import model_fitting, speed
from scripts.laboratory.experiment import Experiment, Row, Unit
from scripts.laboratory.intervals import grouped, mean_and_interval
from scripts.laboratory.model_fitting import DISCOUNT

KINDS = ("all", "deterministic")


@dataclasses.dataclass(frozen=True)
class Scale:
    """How much of the paper's experiment."""

    ranks: tuple[int, ...]
    num_seeds: int
    num_updates: int
    learning_rate: float
    num_policies: int
    """Along policy iteration."""
    num_variants: int
    """Of each of them, with noise."""
    batch_size: int = 50


SCALES = {
    "smoke": Scale((2, 104), 2, 10, 5e-3, 5, 4, batch_size=5),
    "small": Scale((10, 20, 40, 60, 104), 8, 60_000, 5e-3, 200, 20),
    "paper": Scale((20, 30, 40, 50, 60, 70, 80, 90, 100, 104), 10, 1_000_000, 5e-4, 1000, 100),
}


def units(scale: Scale) -> list[Unit]:
    """Returns one unit a model; the models of a seed and kind, which share their policies, follow
    each other.
    """
    return [
        {"policies": kind, "rank": rank, "seed": seed}
        for seed in range(scale.num_seeds)
        for kind in KINDS
        for rank in scale.ranks
    ]


def run(scale: Scale, unit: Unit, scratch: Path) -> list[Row]:
    """Trains one model and returns how well it plans."""
    world = worlds.four_rooms(discount=DISCOUNT)
    data = _data(unit["seed"], unit["policies"], scale.num_policies, scale.num_variants)
    start_key, train_key = jax.random.split(
        jax.random.fold_in(jax.random.key(unit["seed"]), unit["rank"])
    )
    params = init_params(start_key, *world.reward.shape, unit["rank"])
    learner = model_fitting.make_learner(params, scale.learning_rate)
    settings = dict(order=1, learning_rate=scale.learning_rate, batch_size=scale.batch_size)
    last = scale.num_updates // 10  # whose mean loss is reported
    for num_updates in (scale.num_updates - last, last):
        key = jax.random.fold_in(train_key, num_updates)
        learner, loss = model_fitting.train(learner, data, key, **settings, num_updates=num_updates)
    return [{"loss": float(loss), "planning": model_fitting.planning_score(learner.params)}]


@functools.lru_cache(maxsize=1)
def _data(seed: int, kind: str, num_policies: int, num_variants: int) -> Equations:
    key = jax.random.fold_in(jax.random.key(seed), len(kind))
    world = worlds.four_rooms(discount=DISCOUNT)
    base_key, noise_key = jax.random.split(key)
    base = _improvement_policies(base_key, world, num_policies)
    parts = [
        _variants(key, world, base, kind == "deterministic")
        for key in jax.random.split(noise_key, num_variants)
    ]
    return jax.tree.map(lambda *leaves: jax.numpy.concatenate(leaves), *parts)


_improvement_policies = jax.jit(policies.improvement_policies, static_argnums=2)


@functools.partial(jax.jit, static_argnums=3)
def _variants(rng_key: jax.Array, world: MDP, base: jax.Array, deterministic: bool) -> Equations:
    """Returns one noisy variant of each policy of `base` [N, A, S], with its value."""

    def vary(key, policy):
        return policies.perturbed_policy(key, policy, deterministic=deterministic)

    return proper_batch(world, jax.vmap(vary)(jax.random.split(rng_key, len(base)), base))


def summarise(scale: Scale, rows: list[Row]) -> list[Row]:
    """Returns a row per rank and kind of policies, and the difference of the kinds with its
    interval.
    """
    summary = []
    for (rank,), members in grouped(sorted(rows, key=lambda row: row["rank"]), "rank").items():
        row: Row = {"rank": rank, "seeds": scale.num_seeds}
        scores = {}
        for kind in KINDS:
            chosen = sorted((m for m in members if m["policies"] == kind), key=lambda m: m["seed"])
            scores[kind] = [member["planning"] for member in chosen]
            row[kind], row[f"{kind}_interval"] = mean_and_interval(scores[kind])
        gain = [b - a for a, b in zip(*(scores[kind] for kind in KINDS), strict=True)]
        row["deterministic_minus_all"], row["difference_interval"] = mean_and_interval(gain)
        summary.append(row)
    return summary


def draw(scale: Scale, rows: list[Row], scratch: Path):
    """Returns the figure: planning over rank, a line per kind of policies, 95 % intervals over
    seeds.
    """
    from matplotlib import pyplot

    summary = summarise(scale, rows)
    figure, panel = pyplot.subplots(figsize=(5, 3.6))
    ranks = [row["rank"] for row in summary]
    for kind, label in zip(
        KINDS, ("M∞(Π), stochastic policies", "M∞(Π_det), deterministic policies"), strict=True
    ):
        means, widths = ([row[key] for row in summary] for key in (kind, f"{kind}_interval"))
        panel.errorbar(ranks, means, widths, marker="o", capsize=3, label=label)
    panel.axhline(1.0, color="C3", linestyle="--", linewidth=1, label="optimal")
    panel.set(
        xlabel="rank of the model's transitions", ylabel="value of the model's plan / optimal"
    )
    panel.legend(frameon=False, fontsize=8)
    panel.grid(alpha=0.3)
    figure.tight_layout()
    return figure


def benchmark() -> list[Row]:
    """Returns the speed at paper size, a row per rank and one for them all."""
    paper = SCALES["paper"]
    tasks = [speed.Task(f"rank {rank}", 1, rank, paper.batch_size) for rank in paper.ranks]
    return speed.measure(tasks, num_updates=len(KINDS) * paper.num_seeds * paper.num_updates)


EXPERIMENT = Experiment(SCALES, units, run, summarise, draw, benchmark=benchmark)
