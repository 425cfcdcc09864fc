"""One update: the learner's only place that knows about jit, meshes and shardings."""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from configs.schema import LearnerConfig
from learner.state import LearnerState
from muzero import frame_statistics, value_buffer
from muzero.advantages import MEAN_SQUARE, advance_statistics
from muzero.losses import Loss, LossOutput, Prepared
from muzero.past_policies import with_explained_variance
from muzero.types import Array, Params, PyTree, Trajectory
from muzero.value_buffer import ValueBuffer

Metrics = dict[str, Array]
SKIPPED = "optimiser/skipped"
_AXIS = "data"  # the only one of a mesh

# XLA's compiler for the CPU hands small reductions to a library, cuts long ones into pieces of 32
# and orders operations for many threads: on a core or two that is a third of a small network's
# update. Other backends know no such options.
_CPU_COMPILER_OPTIONS = {
    "xla_cpu_experimental_ynn_fusion_type": "",
    "xla_cpu_enable_concurrency_optimized_scheduler": False,
    "xla_disable_hlo_passes": "tree_reduction_rewriter",
}


class Minibatch(NamedTuple):
    """What one update learns from: some start states of every sequence of a batch."""

    trajectory: Trajectory  # [B, ...]
    prepared: Prepared  # [B, ...]
    starts: Array  # [B, S'] int32


class UpdateFns(NamedTuple):
    """The two programs of the learner."""

    prepare: Callable[[LearnerState, Trajectory], Prepared]
    """Makes the targets of a batch, once for a pass over it."""
    update: Callable[[LearnerState, Minibatch], tuple[LearnerState, Metrics]]
    """Makes one update; the state is donated."""


_num_compilations = 0


def _count_compilation(event: str, seconds: float, **details) -> None:
    global _num_compilations
    _num_compilations += event == "/jax/core/compile/backend_compile_duration"


jax.monitoring.register_event_duration_secs_listener(_count_compilation)


def num_compilations() -> int:
    """Returns how many programs this process has compiled.

    It is constant after the first updates, or time is wasted.
    """
    return _num_compilations


def make_mesh(num_devices: int | None) -> Mesh:
    """Returns a mesh with one axis, "data", over `num_devices` of every process (None: over all).

    Raises ValueError if a process has fewer.
    """
    processes: dict[int, list[jax.Device]] = {}
    for device in jax.devices():
        processes.setdefault(device.process_index, []).append(device)
    fewest = min(len(devices) for devices in processes.values())
    if num_devices is not None and num_devices > fewest:
        field = f"learner.num_devices = {num_devices}"
        raise ValueError(f"{field}: a process of the learner sees {fewest}")
    chosen = [device for devices in processes.values() for device in devices[:num_devices]]
    return Mesh(chosen, (_AXIS,))


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Returns the sharding of a batch: sequences split over "data"."""
    return NamedSharding(mesh, PartitionSpec(_AXIS))


def replicated(mesh: Mesh) -> NamedSharding:
    """Returns the sharding of the learner state: a copy on every device."""
    return NamedSharding(mesh, PartitionSpec())


def make_put(mesh: Mesh) -> Callable[[PyTree], PyTree]:
    """Returns what moves arrays [B, ...] of this process to its devices.

    They are its share of the batch of all processes.
    """
    sharding = batch_sharding(mesh)
    if not mesh.is_multi_process:
        return lambda batch: jax.device_put(batch, sharding)
    share = functools.partial(jax.make_array_from_process_local_data, sharding)
    return functools.partial(jax.tree.map, share)


def place(tree: PyTree, mesh: Mesh) -> PyTree:
    """Returns `tree`, the same in every process, as arrays on all devices of the mesh.

    The state goes through here before the first update: one that lies elsewhere would be compiled
    for twice.
    """
    if not mesh.is_multi_process:
        return jax.device_put(tree, replicated(mesh))

    def whole(x: Array) -> jax.Array:
        return jax.make_array_from_process_local_data(replicated(mesh), np.array(x), x.shape)

    return jax.tree.map(whole, tree)


def summed_loss(
    loss: Loss, params: Params, buffer: ValueBuffer, minibatch: Minibatch
) -> tuple[Array, LossOutput]:
    """Returns (loss, all sums) over the start states of a minibatch, as `jax.grad` wants them."""
    rows = jax.vmap(loss.evaluate, (None, None, 0, 0, 0))(params, buffer, *minibatch)
    total = jax.tree.map(lambda x: jnp.sum(x, axis=0), rows)
    return total.loss, total


def moving_average(average: Params, params: Params, rate: float) -> Params:
    """Returns θ' + rate (θ − θ'); running statistics, which are averages already, are θ's."""
    moved = optax.incremental_update(params, average, rate)
    return frame_statistics.copied(params, moved._replace(statistics=params.statistics))


def make_update(
    loss: Loss,
    optimiser: optax.GradientTransformation,
    schedule: optax.Schedule,
    mesh: Mesh,
    settings: LearnerConfig,
    *,
    push_interval: int,
) -> UpdateFns:
    """Returns the learner's programs, jitted.

    Every device runs the program of a single one on its share of the minibatch, the sums over start
    states are added up, and all make the same step. (Left to XLA's partitioner, half a minibatch
    cost 1.7 times as much CPU time.)

    If any number of the minibatch, the loss, the gradient or the step is not finite, the state
    comes back as it was and `SKIPPED` is 1 in the metrics: one NaN would stay in Adam's moments and
    in both averages for good.

    Args:
      loss: of one sequence.
      optimiser, schedule: from `make_optimiser`.
      mesh: devices; the batch is split over its "data" axis, the state replicated.
      settings: update rates of the two averages.
      push_interval: updates between two pushes of the target average's head into the value buffer.
    """

    def prepare(state: LearnerState, batch: Trajectory) -> Prepared:
        fixed = state.params, state.target_average, state.value_buffer
        return jax.vmap(functools.partial(loss.prepare, *fixed))(batch)

    def update(state: LearnerState, minibatch: Minibatch) -> tuple[LearnerState, Metrics]:
        own_sums = jax.grad(functools.partial(summed_loss, loss), has_aux=True)
        own, own_total = own_sums(state.params, state.value_buffer, minibatch)
        own_broken = 1.0 - all_finite(minibatch)
        sums, total, num_broken = jax.lax.psum((own, own_total, own_broken), _AXIS)
        own_moments = frame_statistics.moments(state.params, _first_frames(minibatch))
        frame_moments = jax.lax.pmean(own_moments, _AXIS)
        num_starts = jnp.maximum(total.num_starts, 1.0)
        gradient = jax.tree.map(lambda x: x / num_starts, sums)
        step, optimiser_state = optimiser.update(gradient, state.optimiser_state, state.params)
        norms = {
            "loss/total": total.loss / num_starts,
            "optimiser/gradient_norm": optax.global_norm(gradient),
            "optimiser/update_norm": optax.global_norm(step),
        }
        is_sound = (num_broken == 0) & all_finite(norms)
        means = _loss_metrics(total)

        def moved() -> LearnerState:
            params = _stepped(state, step, means, frame_moments)
            return _advanced(state, params, optimiser_state, settings, push_interval)

        new_state = jax.lax.cond(is_sound, moved, lambda: state)
        metrics = (
            means
            | _buffer_metrics(new_state)
            | norms
            | {"optimiser/learning_rate": schedule(state.num_updates), SKIPPED: 1.0 - is_sound}
        )
        return new_state, metrics

    return UpdateFns(
        prepare=_on_every_device(mesh, prepare, PartitionSpec(_AXIS)),
        update=_on_every_device(mesh, update, PartitionSpec(), donate_argnums=0),
    )


def _first_frames(minibatch: Minibatch) -> Array:
    """Returns the newest frame [B, ...] of the first start state of every sequence."""
    observation, starts = minibatch.trajectory.observation, minibatch.starts
    return jax.vmap(lambda frames, own_starts: frames[own_starts[0]])(observation, starts)


def _stepped(
    state: LearnerState,
    step: Params,
    means: Metrics,
    frame_moments: tuple[Array, Array] | None,
) -> Params:
    """Returns the parameters after one step of the optimiser, and their running statistics.

    Args:
      state: before the update.
      step: of the optimiser; what it says of statistics is ignored.
      means: of the losses of this update.
      frame_moments: what its frames say, where their statistics are kept.
    """
    params = optax.apply_updates(state.params, step)
    statistics = state.params.statistics
    if statistics is not None:
        num_updates = state.num_updates.astype(jnp.float32)
        statistics = advance_statistics(statistics, means[MEAN_SQUARE], num_updates)
    params = params._replace(statistics=statistics)
    return frame_statistics.tracked(params, state.params, frame_moments, state.num_updates)


def _advanced(
    state: LearnerState,
    params: Params,
    optimiser_state: optax.OptState,
    settings: LearnerConfig,
    push_interval: int,
) -> LearnerState:
    """Returns the state after an update that led to these parameters."""
    search_average = moving_average(state.search_average, params, settings.search_average_rate)
    target_average = moving_average(state.target_average, params, settings.target_average_rate)
    num_updates = state.num_updates + 1
    return LearnerState(
        params=params,
        search_average=search_average,
        target_average=target_average,
        optimiser_state=optimiser_state,
        value_buffer=jax.lax.cond(
            num_updates % push_interval == 0,
            lambda: value_buffer.push(
                state.value_buffer,
                target_average.prediction,
                num_updates,
            ),
            lambda: state.value_buffer,
        ),
        num_updates=num_updates,
    )


def _on_every_device(mesh: Mesh, program: Callable, out: PartitionSpec, **jit_options) -> Callable:
    """Returns `program(state, batch)`, jitted.

    Every device has the whole state and its share of the batch.
    """
    shardings = replicated(mesh), batch_sharding(mesh)
    specs = tuple(sharding.spec for sharding in shardings)
    # Unchecked: the check's types forbid a loop over what differs between devices to start at zero.
    mapped = jax.shard_map(program, mesh=mesh, in_specs=specs, out_specs=out, check_vma=False)
    options = _CPU_COMPILER_OPTIONS if mesh.devices.flat[0].platform == "cpu" else None
    return jax.jit(mapped, in_shardings=shardings, compiler_options=options, **jit_options)


def all_finite(tree: PyTree) -> Array:
    """Returns [] bool, whether no floating-point leaf of `tree` holds a NaN or an infinity."""
    leaves = [leaf for leaf in jax.tree.leaves(tree) if jnp.issubdtype(leaf.dtype, jnp.floating)]
    return jnp.all(jnp.stack([jnp.all(jnp.isfinite(leaf)) for leaf in leaves]))


def _loss_metrics(total: LossOutput) -> Metrics:
    means = {tag: total.sums[tag] / jnp.maximum(total.counts[tag], 1.0) for tag in total.sums}
    return with_explained_variance(means)


def _buffer_metrics(state: LearnerState) -> Metrics:
    filled = value_buffer.filled_mask(state.value_buffer)
    age = (state.num_updates - state.value_buffer.push_update) * filled
    return {
        "value_buffer/filled": jnp.sum(filled),
        "value_buffer/age_mean": jnp.sum(age) / jnp.maximum(jnp.sum(filled), 1.0),
    }
