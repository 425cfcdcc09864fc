"""Monte-Carlo tree search over imagined steps: the only user of mctx."""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import mctx

from configs.schema import SearchConfig
from muzero.advantages import advantage_scale
from muzero.model import Model
from muzero.observation import stack_history
from muzero.support import Support
from muzero.types import Array, Params, PyTree, SearchOutput

SearchFn = Callable[[Params, Array, Array, Array, Array], SearchOutput]
Describe = Callable[[mctx.Tree, Array, Array], PyTree]


class SearchTree(NamedTuple):
    """The nodes of one search tree a row, in the order of their creation; the root is node 0.

    `prior`, `reward` and `q` belong to the edge that leads to a node and mean nothing at the root.
    """

    parent: Array  # [N, nodes] int32, −1 at the root and where no node was made
    action: Array  # [N, nodes] int32, the action that leads to the node
    visits: Array  # [N, nodes] int32, 0 where no node was made
    prior: Array  # [N, nodes] float32, the search's probability of that action, root noise included
    reward: Array  # [N, nodes] float32
    q: Array  # [N, nodes] float32, reward + γ · value
    value: Array  # [N, nodes] float32, the mean over the node's visits


def search_stats(tree: mctx.Tree, policy: Array, value: Array) -> dict[str, Array]:
    """Returns what the log says of a search, each [N].

    Args:
      tree: [N, ...], after the last simulation.
      policy: [N, A], the policy target.
      value: [N], of the root.
    """
    low, high = jax.vmap(tree_q_range)(tree)
    root_visits = tree.children_visits[:, tree.ROOT_INDEX]
    return {
        "policy_entropy": -jnp.sum(jax.scipy.special.xlogy(policy, policy), axis=-1),
        "depth": _tree_depth(tree),
        "q_range": high - low,
        "unvisited_fraction": jnp.mean(root_visits == 0, axis=-1),
        "root_value_minus_network_value": value - tree.raw_values[:, tree.ROOT_INDEX],
    }


def search_tree(tree: mctx.Tree, policy: Array, value: Array) -> SearchTree:
    """Returns all nodes of a search; arguments as of `search_stats`."""
    del policy, value
    return jax.vmap(_nodes)(tree)


def make_search(
    model: Model,
    support: Support,
    settings: SearchConfig,
    *,
    num_actions: int,
    discount_factor: float,
    root_noise: bool = True,
    describe: Describe = search_stats,
) -> SearchFn:
    """Returns `search(params, rng_key, frames [N,H,...], actions [N,H-1], is_first [N,H])`.

    Its result is a `SearchOutput`.

    Args:
      model, support: the networks and their categorical support.
      settings: of the search.
      num_actions: A.
      discount_factor: γ.
      root_noise: False for evaluation: no Dirichlet or Gumbel noise at the root.
      describe: makes the output's `stats` of (tree, policy target, root value).
    """
    run_policy = _make_policy(settings, root_noise)
    recurrent_fn = _make_recurrent_fn(model, support, discount_factor, settings.prior_exponent)
    stack_histories = jax.vmap(functools.partial(stack_history, num_actions=num_actions))

    def search(params, rng_key, frames, actions, is_first):
        stack = stack_histories(frames, actions, is_first)
        latent = jax.vmap(model.represent, (None, 0))(params.representation, stack)
        policy_logits, value_logits = jax.vmap(model.predict, (None, 0))(params.prediction, latent)
        root = mctx.RootFnOutput(
            prior_logits=settings.prior_exponent * policy_logits,
            value=support.from_logits(value_logits),
            embedding=latent,
        )
        tree, action, behaviour_prob, target = run_policy(params, rng_key, root, recurrent_fn)
        value = tree.summary().value
        return SearchOutput(action, behaviour_prob, target, value, describe(tree, target, value))

    return search


def _nodes(tree: mctx.Tree) -> SearchTree:
    """Returns one unbatched tree as its nodes."""
    edge = tree.parents, tree.action_from_parent  # at the root −1, −1: anything
    return SearchTree(
        parent=tree.parents,
        action=tree.action_from_parent,
        visits=tree.node_visits,
        prior=jax.nn.softmax(tree.children_prior_logits)[edge],
        reward=tree.children_rewards[edge],
        q=tree_q(tree)[edge],
        value=tree.node_values,
    )


def _make_recurrent_fn(
    model: Model, support: Support, discount_factor: float, prior_exponent: float
) -> Callable:
    def recurrent_fn(params, rng_key, action, latent):
        del rng_key
        latent, reward_logits = jax.vmap(model.step, (None, 0, 0))(params.dynamics, latent, action)
        policy_logits, value_logits = jax.vmap(model.predict, (None, 0))(params.prediction, latent)
        reward = support.from_logits(reward_logits)
        output = mctx.RecurrentFnOutput(
            reward=reward,
            discount=jnp.full_like(reward, discount_factor),  # the model has no termination head
            prior_logits=prior_exponent * policy_logits,
            value=support.from_logits(value_logits),
        )
        return output, latent

    return recurrent_fn


def _make_policy(settings: SearchConfig, root_noise: bool) -> Callable:
    if settings.policy == "visits":
        # mctx refuses an int.
        fraction = float(settings.dirichlet_fraction) if root_noise else 0.0
        return functools.partial(
            _visits_policy,
            temperature=settings.temperature,
            num_simulations=settings.num_simulations,
            dirichlet_fraction=fraction,
            dirichlet_alpha=settings.dirichlet_alpha,
            qtransform=_tree_or_siblings(settings),
        )
    return functools.partial(
        _gumbel_policy,
        settings,
        uniform_fraction=settings.uniform_fraction if root_noise else 0.0,
        num_simulations=settings.num_simulations,
        max_num_considered_actions=settings.max_considered_actions,
        gumbel_scale=1.0 if root_noise else 0.0,
    )


def behaviour_distribution(action_weights: Array, temperature: float) -> Array:
    """Returns the law [..., A] by which mctx draws its action from visit probabilities.

    It is softmax(log(max(p, tiny)) / temperature): mctx's `action_weights` ignore the temperature.
    """
    logits = jnp.log(jnp.maximum(action_weights, jnp.finfo(action_weights.dtype).tiny))
    return jax.nn.softmax(logits / temperature)


def _visits_policy(*inputs, temperature, **options):
    out = mctx.muzero_policy(*inputs, temperature=temperature, **options)
    prob = behaviour_distribution(out.action_weights, temperature)
    return out.search_tree, out.action, _taken(prob, out.action), out.action_weights


def _gumbel_policy(settings, params, rng_key, root, recurrent_fn, *, uniform_fraction, **options):
    rng_key, sample_key = jax.random.split(rng_key)
    qtransform = _gumbel_qtransform(settings, params.statistics)
    out = mctx.gumbel_muzero_policy(
        params, rng_key, root, recurrent_fn, qtransform=qtransform, **options
    )
    policy, action, law = out.action_weights, out.action, out.action_weights
    if settings.policy == "gumbel":
        if uniform_fraction > 0:
            law = (1.0 - uniform_fraction) * policy + uniform_fraction / policy.shape[-1]
        action = jax.random.categorical(sample_key, jnp.log(law))
    return out.search_tree, action, _taken(law, action), policy


def _gumbel_qtransform(settings: SearchConfig, statistics: PyTree) -> Callable:
    if settings.normalisation == "advantages":
        return functools.partial(
            qtransform_by_advantages,
            scale=advantage_scale(statistics),
            value_scale=settings.value_scale,
            max_shift=settings.max_shift,
        )
    return functools.partial(
        mctx.qtransform_completed_by_mix_value,
        value_scale=settings.value_scale,
        rescale_values=settings.normalisation == "siblings",
    )


def qtransform_by_advantages(
    tree: mctx.Tree, node_index: Array, *, scale: Array, value_scale: float, max_shift: float
) -> Array:
    """Returns what a node's Q adds to its logits [A]: one unit for every game, and bounded.

    With Q completed by the mixed value (Danihelka et al. 2022, eq. 10) and v the mean of Q under
    the prior, it is value_scale (Q − v) / scale, at most ± max_shift. Raw Q would move nothing
    where returns are tiny, and stretching by the siblings' range makes noise as large as a
    difference that matters.

    Args:
      tree: one unbatched search tree.
      node_index: [] the node whose children are scored.
      scale: [] the running spread of advantages, in units of return.
      value_scale: logits for an advantage of one unit.
      max_shift: bound, in logits.
    """
    visits = 1.0 + jnp.max(tree.children_visits[node_index])
    scaled = mctx.qtransform_completed_by_mix_value(
        tree, node_index, value_scale=1.0, maxvisit_init=1.0, rescale_values=False
    )
    q = scaled / visits
    mean = jnp.sum(jax.nn.softmax(tree.children_prior_logits[node_index]) * q)
    return jnp.clip(value_scale * (q - mean) / scale, -max_shift, max_shift)


def _taken(prob: Array, action: Array) -> Array:
    return jnp.take_along_axis(prob, action[:, None], axis=1)[:, 0]


def tree_q(tree: mctx.Tree) -> Array:
    """Returns Q = r + γ v [nodes, A] of every edge of one unbatched tree."""
    return tree.children_rewards + tree.children_discounts * tree.children_values


def tree_q_range(tree: mctx.Tree) -> tuple[Array, Array]:
    """Returns (lowest, highest) of one unbatched tree: Q of visited edges, and the root's value."""
    q, visited = tree_q(tree), tree.children_visits > 0
    root_value = tree.node_values[tree.ROOT_INDEX]
    low = jnp.minimum(root_value, jnp.min(jnp.where(visited, q, jnp.inf)))
    high = jnp.maximum(root_value, jnp.max(jnp.where(visited, q, -jnp.inf)))
    return low, high


def qtransform_by_whole_tree(
    tree: mctx.Tree, node_index: Array, *, floor: float, unvisited: str = "parent"
) -> Array:
    """Returns the node's Q [A] scaled by the smallest and largest value in the tree (MuZero).

    Args:
      tree: one unbatched search tree.
      node_index: [] the node whose children are scored.
      floor: smallest range that is stretched to [0, 1], in units of raw return.
      unvisited: `parent` or `min`, what stands in for the Q of a child without visits.
    """
    low, high = tree_q_range(tree)
    fallback = tree.node_values[node_index] if unvisited == "parent" else low
    q = jnp.where(tree.children_visits[node_index] > 0, tree_q(tree)[node_index], fallback)
    return (q - low) / jnp.maximum(high - low, floor)


def _tree_or_siblings(settings: SearchConfig) -> Callable:
    if settings.normalisation == "siblings":
        return mctx.qtransform_by_parent_and_siblings
    return functools.partial(
        qtransform_by_whole_tree, floor=settings.floor, unvisited=settings.unvisited
    )


def _tree_depth(tree: mctx.Tree) -> Array:
    """Returns the depth [N] of the deepest node; nodes are created parents first."""

    def visit(node, depths):
        parent = tree.parents[:, node]
        above = jnp.take_along_axis(depths, jnp.maximum(parent, 0)[:, None], axis=1)[:, 0]
        return depths.at[:, node].set(jnp.where(parent >= 0, above + 1, 0))

    depths = jnp.zeros(tree.parents.shape, jnp.int32)
    depths = jax.lax.fori_loop(1, tree.parents.shape[1], visit, depths)
    return jnp.max(depths, axis=1).astype(jnp.float32)
