"""Value-aware losses in control, on the cliff walk (Calibrated Value-Aware Model Learning, figure
9, appendix C.5).

    python scripts/tabular.py cliffwalk --scale small --out results/tabular

As `garnet`, with policy iteration: each round evaluates the policy with the model and its value,
then makes it greedy for them. `planning` is what that is worth in the walk: 0 the uniform policy, 1
an optimal one, averaged over states. The paper gives neither the modification of the walk nor
rounds and ranks: ours are in `worlds.cliff_walk` and below.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp

from muzero.tabular import mdp, model_learning, worlds
from scripts.laboratory import value_errors
from scripts.laboratory.experiment import Experiment

DISCOUNT = 0.9


@dataclasses.dataclass(frozen=True)
class Scale:
    """The size of the sweep; a seed is a start of the model, the walk is one."""

    ranks: tuple[int, ...]
    temperatures: tuple[float, ...]
    num_seeds: int
    num_rounds: int
    num_updates: int
    learning_rate: float = 0.01


_TEMPERATURES = (0.1, 0.3, 0.6, 1.5)

SCALES = {
    "smoke": Scale((2,), (0.1, 1.0), 2, 2, 20),
    "small": Scale((2, 5), _TEMPERATURES, 10, 20, 75),
    "paper": Scale((2, 5, 10, 25), _TEMPERATURES, 50, 50, 1000),
}


def units(scale):
    """Returns a unit a loss and rank."""
    return [
        {"loss": name, "rank": rank}
        for rank in scale.ranks
        for name, learner in model_learning.LEARNERS.items()
        if not learner.free
    ]


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def evaluate(name, rank, scale, seed, temperature):
    """Returns what the policies are worth that are learned on walks [C], and errors of model and
    value.
    """

    def one(seed, temperature):
        environment = worlds.cliff_walk(temperature, DISCOUNT)
        num_actions, num_states = environment.reward.shape
        uniform = jnp.full((num_actions, num_states), 1 / num_actions)
        params = model_learning.init_params(jax.random.key(seed), num_actions, num_states, rank)
        schedule = {
            key: getattr(scale, key) for key in ("num_rounds", "num_updates", "learning_rate")
        }
        learner = model_learning.LEARNERS[name]
        params, policy = model_learning.learn(
            learner, environment, uniform, params, next_policy=model_learning.improve, **schedule
        )

        def worth(policy):
            return jnp.mean(mdp.policy_value(environment, policy))

        best, least = jnp.mean(mdp.optimal_value(environment)), worth(uniform)
        errors = model_learning.measure(
            params, environment, policy, mdp.policy_value(environment, policy)
        )
        return {"planning": (worth(policy) - least) / (best - least)} | errors

    return jax.vmap(one)(seed, temperature)


def run(scale, unit, scratch):
    """Returns the rows of one loss and rank, by temperature and seed."""
    return value_errors.rows_of(
        functools.partial(evaluate, unit["loss"], unit["rank"], scale), scale
    )


def draw(scale, rows, scratch):
    """Returns the figure: worth of the learned policies over temperature, a panel a rank."""
    title = f"Cliff walk: worth of the learned policies, {scale.num_seeds} starts (bands: 95 %)"
    label = "worth of the policy (0 uniform, 1 optimal)"
    return value_errors.panels(rows, "planning", label, log=False, title=title)


def summarise(scale, rows):
    """Returns the means with 95 % intervals over seeds by rank, loss and temperature."""
    return value_errors.summary(rows, ("planning", "value_error", "model_error", "entropy"))


EXPERIMENT = Experiment(SCALES, units, run, summarise, draw)
