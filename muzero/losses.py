"""One sequence → its summed loss: MuZero's, and the past-policy loss of *Proper Value Equivalence*.

`Loss` holds everything but parameters and data. Targets are prepared once for a whole sequence, the
loss is taken on any of its start states; the learner vmaps both, sums and divides by the number of
weighted start states of the global minibatch. Cross-entropies are reported as KL (minus target
entropy).
"""

import dataclasses
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from configs.schema import LossConfig
from muzero import advantages, value_buffer
from muzero.model import Model, unroll
from muzero.observation import stack_trajectory
from muzero.past_policies import PastTargets, past_losses, past_targets
from muzero.step_losses import step_losses, step_weights, tagged
from muzero.support import Support
from muzero.targets import (
    Targets,
    make_targets,
    n_step_targets,
    real_mask,
    td_lambda_targets,
    vtrace_targets,
)
from muzero.types import Array, ModelOutput, Params, PyTree, Trajectory
from muzero.value_buffer import ValueBuffer


class LossOutput(NamedTuple):
    """Sums over the start states of one sequence (or of a batch, after a sum)."""

    loss: Array  # []
    num_starts: Array  # [] weighted start states
    sums: dict[str, Array]  # metric → sum over start states
    counts: dict[str, Array]  # metric → what that sum has to be divided by


class Prepared(NamedTuple):
    """What one sequence is trained towards, good for all updates on any of its start states."""

    targets: Targets  # of all S start states
    past: PastTargets | None  # None: plain MuZero


@dataclasses.dataclass(frozen=True)
class Loss:
    """The loss of one sequence in two steps; vmap for more sequences.

    With `settings.past_weight` 0 the past heads are not evaluated at all: plain MuZero.
    """

    model: Model
    support: Support
    settings: LossConfig
    num_actions: int
    num_starts: int  # S, start states of a sequence: its states less the overlap
    chunk_size: int  # past heads evaluated at a time

    def prepare(
        self,
        params: Params,
        target: Params,
        buffer: ValueBuffer,
        trajectory: Trajectory,
    ) -> Prepared:
        """Returns the targets of one sequence, which carry no gradient.

        Args:
          params: the online parameters, read with `past_latents = online`.
          target: the target average, for the latents of the real states, and for today's values
            and policy there.
          buffer: the stored heads.
          trajectory: one sequence.
        """
        targets = make_targets(
            trajectory,
            self._value_targets(target, trajectory),
            num_starts=self.num_starts,
            num_unroll_steps=self.settings.num_unroll_steps,
            with_taken=params.statistics is not None,
        )
        if self.settings.past_weight == 0:
            return Prepared(targets, None)
        owner = target if self.settings.past_latents == "target" else params
        past = past_targets(
            self.model,
            self.support,
            self.settings,
            buffer,
            self._latents(owner, trajectory),
            trajectory,
            chunk_size=self.chunk_size,
        )
        return jax.lax.stop_gradient(Prepared(targets, past))

    def evaluate(
        self,
        params: Params,
        buffer: ValueBuffer,
        trajectory: Trajectory,
        prepared: Prepared,
        starts: Array,
    ) -> LossOutput:
        """Returns the loss of some start states of one sequence, summed over them, and diagnostics.

        Args:
          params: what the gradient is taken of.
          buffer: the stored heads; one that was pushed after `prepared` was made has no targets yet
            and is left out.
          trajectory, prepared: one sequence and its targets.
          starts: [S'], below S.
        """
        num_unroll_steps = self.settings.num_unroll_steps
        targets = jax.tree.map(lambda x: x[starts], prepared.targets)
        stacks = stack_trajectory(trajectory, self.num_actions, starts)
        actions = trajectory.action[_steps_from(starts, num_unroll_steps)]
        output = jax.vmap(functools.partial(unroll, self.model, params))(stacks, actions)
        total, sums, counts = base_loss(
            self.support, self.settings, output, targets, params.statistics
        )
        if prepared.past is not None:
            mask = value_buffer.unchanged_mask(buffer, prepared.past.push_update)
            vs = prepared.past.vs[:, _steps_from(starts, num_unroll_steps + 1)]
            past = past_losses(
                self.model,
                self.support,
                buffer,
                mask,
                output.latent,
                vs,
                targets,
                self.chunk_size,
            )
            total += self.settings.past_weight * past.loss
            past_sums, past_counts = tagged({"past": past})
            sums = sums | past_sums | prepared.past.sums
            counts = counts | past_counts | prepared.past.counts
        return LossOutput(total, jnp.sum(targets.value_mask[:, 0]), sums, counts)

    def _latents(self, params: Params, trajectory: Trajectory) -> Array:
        """Returns the latents [T+1, ...] of all real states of one sequence."""
        states = jnp.arange(trajectory.is_first.shape[0])
        stacks = stack_trajectory(trajectory, self.num_actions, states)
        return jax.vmap(self.model.represent, (None, 0))(params.representation, stacks)

    def _value_targets(self, target: Params, trajectory: Trajectory) -> Array:
        """Returns the value targets [T+1] of one sequence that `settings.value_target` names.

        They lean on the root values of the searches that acted, or on the target average's values
        of the same states. V-trace corrects for the difference between the policy that acted and
        the target average's: ρ_t = min(1, π(a_t) / behaviour_prob_t).
        """
        settings, value = self.settings, trajectory.search_value
        played = trajectory.reward, trajectory.discount, real_mask(trajectory.is_first)
        factors = dict(discount_factor=settings.discount_factor)
        if settings.bootstrap == "average":
            latents = self._latents(target, trajectory)
            predict = jax.vmap(self.model.predict, (None, 0))
            policy_logits, value_logits = predict(target.prediction, latents)
            value = self.support.from_logits(value_logits)
        if settings.value_target == "n_step":
            return n_step_targets(value, *played, num_steps=settings.num_target_steps, **factors)
        if settings.value_target == "td_lambda":
            return td_lambda_targets(value, *played, td_lambda=settings.td_lambda, **factors)
        policy = jax.nn.softmax(policy_logits[:-1])
        prob = jnp.take_along_axis(policy, trajectory.action[:, None], axis=1)[:, 0]
        probs = prob, trajectory.behaviour_prob
        return vtrace_targets(value, *probs, *played, td_lambda=settings.td_lambda, **factors)


def _steps_from(starts: Array, length: int) -> Array:
    """Returns the indices [S', length] of the steps from each start state."""
    return starts[:, None] + jnp.arange(length)


def base_loss(
    support: Support,
    settings: LossConfig,
    output: ModelOutput,
    targets: Targets,
    statistics: PyTree = None,
) -> tuple[Array, dict[str, Array], dict[str, Array]]:
    """Returns MuZero's loss summed over start states, diagnostics as sums, and their divisors.

    Args:
      support: the categorical support.
      settings: of the loss.
      output: predictions of every start state, each field with a leading S.
      targets: of the same start states.
      statistics: running ones, where the returns of taken actions are asked for.
    """
    weights = step_weights(settings.num_unroll_steps)
    reward_probs, value_probs = support.to_probs(targets.reward), support.to_probs(targets.value)
    losses = {
        "reward": step_losses(output.reward_logits, reward_probs, targets.reward_mask, weights[1:]),
        "value": step_losses(output.value_logits, value_probs, targets.value_mask, weights),
        "policy": step_losses(output.policy_logits, targets.policy, targets.policy_mask, weights),
    }
    total = (
        settings.reward_weight * losses["reward"].loss
        + settings.value_weight * losses["value"].loss
        + settings.policy_weight * losses["policy"].loss
    )
    policy = output.policy_logits, targets.policy_mask, weights
    if settings.return_weight > 0:
        scale = advantages.advantage_scale(statistics)
        losses["return"] = advantages.return_losses(
            *policy, taken=targets.taken, scale=scale, clip=settings.return_clip
        )
        total += settings.return_weight * losses["return"].loss
    if settings.entropy_weight > 0:
        losses["entropy"] = advantages.negative_entropies(*policy)
        total += settings.entropy_weight * losses["entropy"].loss
    sums, counts = tagged(losses)
    if targets.taken is not None:
        is_start = targets.value_mask[:, 0]
        sums[advantages.MEAN_SQUARE] = jnp.sum(is_start * targets.taken.advantage[:, 0] ** 2)
        counts[advantages.MEAN_SQUARE] = jnp.sum(is_start)
    sums["loss/target_saturated"] = jnp.sum(support.saturates(targets.value) * targets.value_mask)
    counts["loss/target_saturated"] = jnp.sum(targets.value_mask)
    return total, sums, counts
