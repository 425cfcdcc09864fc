"""Speed of the laboratory's update on all cores: against the matrix product, and against a plain
update.

Every core has a process of its own, which measures all tasks in the same order: the product of two
2048² matrices, the compiled loop of `model_fitting.train`, the same loop without its products, and
the baseline: one jitted, donated update of one model a call, on the reference loss, in a Python
loop. All float32; rates are of the operations in matrix products alone, the best of some
repetitions, summed over cores. Busy cores show in all of them.

What an update does beside its products (minibatch, softmax and its gradient, Adam) takes time that
no product can make up for: `limit` is about the share of the large product's rate that would be
reached if the update's products ran at it (the loop without products has the arithmetic of one
application, whatever the order, and a few sums of its own).
"""

import dataclasses
import functools
import time
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import optax

from muzero.tabular import policies, worlds
from muzero.tabular.fast_losses import fast_loss, update_flops
from muzero.tabular.value_equivalence import (
    Equations,
    ModelParams,
    init_params,
    to_mdp,
    value_equivalence_loss,
)
from scripts.laboratory import model_fitting, workers
from scripts.laboratory.experiment import Experiment, Row, Unit

_NUM_PAIRS = 1000
_REPEATS = 3
_SECONDS = 0.5  # of one repetition, about
_MATRIX = 2048


@dataclasses.dataclass(frozen=True)
class Task:
    """One kind of update: `order` applications for a model of `rank` (None for full)."""

    name: str
    order: int
    rank: int | None
    batch_size: int

    def flops(self) -> int:
        """Returns the operations of one update's matrix products."""
        return update_flops(4, 104, self.rank, self.batch_size, self.order)


def measure(tasks: list[Task], num_updates: int) -> list[Row]:
    """Returns a row per task and one for all: rates, their ratios, and the hours of `num_updates`
    updates of each.
    """
    cores = workers.cores()
    per_core = Experiment({}, lambda _: [], _measure_here, lambda *_: [], lambda *_: None)
    units: list[Unit] = [{"core": core, "seed": 0} for core in cores]
    found = [rows for _, rows in workers.run_units(per_core, tasks, units, Path(), len(cores))]
    rates = [
        {key: sum(rows[i][key] for rows in found) for key in found[0][i]} for i in range(len(tasks))
    ]
    seconds = [
        num_updates * task.flops() / 1e9 / rate["gflops"]
        for task, rate in zip(tasks, rates, strict=True)
    ]
    rows = [
        _row(task.name, rate, time) for task, rate, time in zip(tasks, rates, seconds, strict=True)
    ]
    work = sum(task.flops() for task in tasks)

    def share(key):
        return work / sum(task.flops() / rate[key] for task, rate in zip(tasks, rates, strict=True))

    return [*rows, _row("all", {key: share(key) for key in rates[0]}, sum(seconds))]


def _row(name: str, rate: dict[str, float], seconds: float) -> Row:
    return {
        "task": name,
        "gflops": rate["gflops"],
        "matmul_gflops": rate["matmul_gflops"],
        "of_matmul": rate["gflops"] / rate["matmul_gflops"],
        "limit": 1 / (1 + rate["matmul_gflops"] / rate["without_products_gflops"]),
        "baseline_gflops": rate["baseline_gflops"],
        "times_baseline": rate["gflops"] / rate["baseline_gflops"],
        "paper_hours": seconds / 3600,
    }


def _measure_here(tasks: list[Task], unit: Unit, scratch: Path) -> list[dict[str, float]]:
    """Returns the rates of this process, a row per task."""
    matrix = jax.random.normal(jax.random.key(0), (_MATRIX, _MATRIX))
    product = jax.jit(lambda x: x @ x)
    return [
        {
            "matmul_gflops": 2
            * _MATRIX**3
            / _seconds(lambda n: [product(matrix) for _ in range(n)])
            / 1e9,
            "gflops": task.flops() / _seconds(_loop(task)) / 1e9,
            "without_products_gflops": task.flops()
            / _seconds(_loop(task, _loss_without_products))
            / 1e9,
            "baseline_gflops": task.flops() / _seconds(_baseline(task)) / 1e9,
        }
        for task in tasks
    ]


def _seconds(repeat: Callable[[int], object]) -> float:
    """Returns seconds per piece of `repeat(n)`, at best; the first calls compile and choose n."""
    jax.block_until_ready(repeat(1))
    start = time.perf_counter()
    jax.block_until_ready(repeat(1))
    count = max(1, min(2000, round(_SECONDS / (time.perf_counter() - start))))
    jax.block_until_ready(repeat(count))
    found = []
    for _ in range(_REPEATS):
        start = time.perf_counter()
        jax.block_until_ready(repeat(count))
        found.append((time.perf_counter() - start) / count)
    return min(found)


def _start(task: Task) -> tuple[model_fitting.Learner, Equations]:
    world = worlds.four_rooms(discount=model_fitting.DISCOUNT)
    shape = world.reward.shape
    keys = jax.random.split(jax.random.key(0), _NUM_PAIRS)
    policy = jax.jit(jax.vmap(lambda key: policies.mixed_policy(key, *shape)))(keys)
    value = jax.random.uniform(keys[0], (_NUM_PAIRS, shape[1]), minval=-1, maxval=1)
    params = init_params(keys[1], *shape, task.rank)
    return model_fitting.make_learner(params, 1e-3), Equations(policy, value, value)


def _loss_without_products(
    params: ModelParams, discount: float, batch: Equations, order: int
) -> jax.Array:
    """Returns what has the softmax, its gradient and the arithmetic on a minibatch of `fast_loss`,
    and no product.
    """
    seen = [params.reward[a] + discount * batch.value for a in range(len(params.reward))]
    predicted = sum(batch.policy[:, a] * x for a, x in enumerate(seen))
    weighted = [
        jax.nn.softmax(logits, axis=-1) * jax.lax.stop_gradient(logits) for logits in params.logits
    ]
    return jnp.mean(jnp.sum(jnp.square(predicted - batch.target), axis=-1)) + sum(
        jnp.sum(x) for x in weighted
    )


def _loop(task: Task, loss: Callable[..., jax.Array] = fast_loss) -> Callable[[int], object]:
    """Returns n → n updates, as the experiments make them."""
    learner, data = _start(task)

    def repeat(count: int):
        nonlocal learner
        learner, value = model_fitting.train(
            learner, data, jax.random.key(count), order=task.order, learning_rate=1e-3,
            batch_size=task.batch_size, num_updates=count, loss=loss,
        )  # fmt: skip
        return value

    return repeat


def _baseline(task: Task) -> Callable[[int], object]:
    """Returns n → n calls of a jitted update on the plain loss."""
    learner, data = _start(task)
    optimiser = model_fitting.make_optimiser(1e-3)

    def plain_loss(params: ModelParams, batch: Equations):
        return value_equivalence_loss(to_mdp(params, model_fitting.DISCOUNT), batch, task.order)

    @functools.partial(jax.jit, donate_argnums=0)
    def update(learner, data, key):
        index = jax.random.randint(key, (task.batch_size,), 0, _NUM_PAIRS)
        gradient = jax.grad(plain_loss)(
            learner.params, jax.tree.map(lambda leaf: leaf[index], data)
        )
        change, opt_state = optimiser.update(gradient, learner.opt_state)
        return model_fitting.Learner(optax.apply_updates(learner.params, change), opt_state)

    keys = jax.random.split(jax.random.key(1), 16)

    def repeat(count: int):
        nonlocal learner
        for number in range(count):
            learner = update(learner, data, keys[number % 16])
        return learner

    return repeat
