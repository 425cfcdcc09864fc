"""Value-aware losses on random chains, against their stochasticity (Calibrated Value-Aware Model
Learning, figure 2).

    python scripts/tabular.py garnet --scale small --out results/tabular

Each unit learns a model of one rank with one loss in all Garnets at once: temperatures x seeds are
one batch. A seed is the same successors, weights and rewards at every temperature and for every
loss. The paper's sizes (states, successors, ranks) are lost in our text; `paper` is our guess.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp

from muzero.tabular import mdp, model_learning, worlds
from scripts.laboratory import value_errors
from scripts.laboratory.experiment import Experiment

DISCOUNT = 0.9
_PATIENCE = 4  # times the updates of the others: gradient descent is slower than Adam


@dataclasses.dataclass(frozen=True)
class Scale:
    """The size of the sweep."""

    num_states: int
    branching: int
    ranks: tuple[int, ...]
    temperatures: tuple[float, ...]
    num_seeds: int
    num_updates: int
    learning_rate: float = 0.01


_TEMPERATURES = (0.01, 0.1, 0.3, 1.0, 3.0, 10.0)

SCALES = {
    "smoke": Scale(6, 2, (2,), (0.1, 3.0), 2, 40),
    "small": Scale(20, 5, (2, 5, 20), _TEMPERATURES, 20, 4000),
    "paper": Scale(50, 10, (2, 5, 10, 25, 50), _TEMPERATURES, 50, 20_000),
}


def units(scale):
    """Returns a unit a loss and rank; a learner with free logits has but the full rank."""
    return [
        {"loss": name, "rank": rank}
        for rank in scale.ranks
        for name, learner in model_learning.LEARNERS.items()
        if rank == scale.num_states or not learner.free
    ]


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def evaluate(name, rank, scale, seed, temperature):
    """Returns what `measure` says of the models learned in Garnets [C] of `seed` and `temperature`,
    both [C].
    """

    def one(seed, temperature):
        world_key, params_key = jax.random.split(jax.random.key(seed))
        settings = dict(branching=scale.branching, temperature=temperature, discount=DISCOUNT)
        environment = worlds.tempered_garnet(world_key, scale.num_states, **settings)
        policy = jnp.ones((1, scale.num_states))
        learner, num_updates = model_learning.LEARNERS[name], scale.num_updates
        params = model_learning.init_params(params_key, 1, scale.num_states, rank)
        if learner.free:
            params = model_learning.free_params(params_key, 1, scale.num_states)
            num_updates *= _PATIENCE
        schedule = dict(num_rounds=1, num_updates=num_updates, learning_rate=scale.learning_rate)
        params, _ = model_learning.learn(learner, environment, policy, params, **schedule)
        return model_learning.measure(
            params, environment, policy, mdp.policy_value(environment, policy)
        )

    return jax.vmap(one)(seed, temperature)


def run(scale, unit, scratch):
    """Returns the rows of one loss and rank: errors by temperature and seed."""
    return value_errors.rows_of(
        functools.partial(evaluate, unit["loss"], unit["rank"], scale), scale
    )


def draw(scale, rows, scratch):
    """Returns the figure: error of the learned values over temperature, a panel a rank."""
    title = f"Random chains: error of the learned values, {scale.num_seeds} Garnets (bands: 95 %)"
    label = "RMS error of V̂ (standard deviations of $v_π$)"
    return value_errors.panels(rows, "value_error", label, log=True, title=title)


def summarise(scale, rows):
    """Returns the mean errors with 95 % intervals over seeds by rank, loss and temperature."""
    return value_errors.summary(rows, ("value_error", "model_error", "entropy"))


EXPERIMENT = Experiment(SCALES, units, run, summarise, draw)
