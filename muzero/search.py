"""Monte-Carlo tree search over imagined steps: the only user of mctx."""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import mctx

from muzero.model import Model
from muzero.observation import stack_history
from muzero.support import Support
from muzero.types import Array, Params, SearchOutput

SearchFn = Callable[[Params, Array, Array, Array, Array], SearchOutput]


class SearchTree(NamedTuple):
    """The nodes of one search tree a row, in the order of their creation; the root is node 0.

    `prior`, `reward` and `q` belong to the edge that leads to a node and mean nothing at the root.
    """

    parent: Array  # [N, nodes] int32, −1 at the root and where no node was made
    action: Array  # [N, nodes] int32, the action that leads to the node
    visits: Array  # [N, nodes] int32, 0 where no node was made
    prior: Array  # [N, nodes] float32, what the search took as probability of that action, root noise included
    reward: Array  # [N, nodes] float32
    q: Array  # [N, nodes] float32, reward + γ · value
    value: Array  # [N, nodes] float32, the mean over the node's visits


def make_search(
    model: Model,
    support: Support,
    *,
    num_actions: int,
    discount_factor: float,
    prior_exponent: float,
    root_noise: bool = True,
    **settings,
) -> SearchFn:
    """Returns `search(params, rng_key, frames [N,H,...], actions [N,H-1], is_first [N,H]) -> SearchOutput`.

    Args:
      model, support: the networks and their categorical support.
      num_actions: A.
      discount_factor: γ.
      prior_exponent: every prior in the tree is raised to this power.
      root_noise: False for evaluation: no Dirichlet or Gumbel noise at the root.
      settings: the fields of `SearchConfig`.
    """
    search_with_tree = make_tree_search(
        model,
        support,
        num_actions=num_actions,
        discount_factor=discount_factor,
        prior_exponent=prior_exponent,
        root_noise=root_noise,
        **settings,
    )
    return lambda *inputs: search_with_tree(*inputs)[0]


def make_tree_search(
    model: Model,
    support: Support,
    *,
    num_actions: int,
    discount_factor: float,
    prior_exponent: float,
    root_noise: bool,
    **settings,
) -> Callable[..., tuple[SearchOutput, SearchTree]]:
    """Returns the search of `make_search`, whose second result is the tree; compiled without it nothing is kept."""
    run_policy = _make_policy(root_noise, **settings)
    recurrent_fn = _make_recurrent_fn(model, support, discount_factor, prior_exponent)

    def search(params, rng_key, frames, actions, is_first):
        stack = jax.vmap(functools.partial(stack_history, num_actions=num_actions))(frames, actions, is_first)
        latent = jax.vmap(model.represent, (None, 0))(params.representation, stack)
        policy_logits, value_logits = jax.vmap(model.predict, (None, 0))(params.prediction, latent)
        root = mctx.RootFnOutput(
            prior_logits=prior_exponent * policy_logits, value=support.from_logits(value_logits), embedding=latent
        )
        tree, action, behaviour_prob, target = run_policy(params, rng_key, root, recurrent_fn)
        value = tree.summary().value
        output = SearchOutput(action, behaviour_prob, target, value, _search_stats(tree, target, value))
        return output, jax.vmap(_nodes)(tree)

    return search


def _nodes(tree: mctx.Tree) -> SearchTree:
    """Returns one unbatched tree as its nodes."""
    edge = tree.parents, tree.action_from_parent  # at the root −1, −1: anything
    q = tree.children_rewards + tree.children_discounts * tree.children_values
    return SearchTree(
        parent=tree.parents,
        action=tree.action_from_parent,
        visits=tree.node_visits,
        prior=jax.nn.softmax(tree.children_prior_logits)[edge],
        reward=tree.children_rewards[edge],
        q=q[edge],
        value=tree.node_values,
    )


def _make_recurrent_fn(model: Model, support: Support, discount_factor: float, prior_exponent: float) -> Callable:
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


def _make_policy(
    root_noise: bool,
    *,
    policy: str,
    num_simulations: int,
    dirichlet_fraction: float,
    dirichlet_alpha: float,
    temperature: float,
    normalisation: str,
    unvisited: str,
    floor: float,
    value_scale: float,
    max_considered_actions: int,
) -> Callable:
    if policy == "visits":
        return functools.partial(
            _visits_policy,
            temperature=temperature,
            num_simulations=num_simulations,
            dirichlet_fraction=float(dirichlet_fraction) if root_noise else 0.0,  # mctx refuses an int
            dirichlet_alpha=dirichlet_alpha,
            qtransform=_tree_or_siblings(normalisation, unvisited, floor),
        )
    return functools.partial(
        _gumbel_policy,
        sample_improved_policy=policy == "gumbel",
        num_simulations=num_simulations,
        max_num_considered_actions=max_considered_actions,
        gumbel_scale=1.0 if root_noise else 0.0,
        qtransform=functools.partial(
            mctx.qtransform_completed_by_mix_value,
            value_scale=value_scale,
            rescale_values=normalisation == "siblings",
        ),
    )


def behaviour_distribution(action_weights: Array, temperature: float) -> Array:
    """Returns the law [..., A] by which `mctx.muzero_policy` draws its action from visit probabilities.

    softmax(log(max(p, tiny)) / temperature): mctx's `action_weights` ignore the temperature.
    """
    logits = jnp.log(jnp.maximum(action_weights, jnp.finfo(action_weights.dtype).tiny))
    return jax.nn.softmax(logits / temperature)


def _visits_policy(params, rng_key, root, recurrent_fn, *, temperature, **options):
    out = mctx.muzero_policy(params, rng_key, root, recurrent_fn, temperature=temperature, **options)
    prob = behaviour_distribution(out.action_weights, temperature)
    return out.search_tree, out.action, _taken(prob, out.action), out.action_weights


def _gumbel_policy(params, rng_key, root, recurrent_fn, *, sample_improved_policy, **options):
    rng_key, sample_key = jax.random.split(rng_key)
    out = mctx.gumbel_muzero_policy(params, rng_key, root, recurrent_fn, **options)
    action = out.action
    if sample_improved_policy:
        action = jax.random.categorical(sample_key, jnp.log(out.action_weights))
    return out.search_tree, action, _taken(out.action_weights, action), out.action_weights


def _taken(prob: Array, action: Array) -> Array:
    return jnp.take_along_axis(prob, action[:, None], axis=1)[:, 0]


def qtransform_by_whole_tree(tree: mctx.Tree, node_index: Array, *, floor: float, unvisited: str = "parent") -> Array:
    """Returns the node's Q values [A] scaled by the smallest and largest value in the whole tree (MuZero).

    Args:
      tree: one unbatched search tree.
      node_index: [] the node whose children are scored.
      floor: smallest range that is stretched to [0, 1], in units of raw return.
      unvisited: `parent` or `min`, what stands in for the Q of a child without visits.
    """
    low, high = tree_q_range(tree)
    q = tree.children_rewards[node_index] + tree.children_discounts[node_index] * tree.children_values[node_index]
    fallback = tree.node_values[node_index] if unvisited == "parent" else low
    q = jnp.where(tree.children_visits[node_index] > 0, q, fallback)
    return (q - low) / jnp.maximum(high - low, floor)


def tree_q_range(tree: mctx.Tree) -> tuple[Array, Array]:
    """Returns (lowest, highest) over the Q of every visited edge and the root value of one unbatched tree."""
    q = tree.children_rewards + tree.children_discounts * tree.children_values
    visited = tree.children_visits > 0
    root_value = tree.node_values[tree.ROOT_INDEX]
    low = jnp.minimum(root_value, jnp.min(jnp.where(visited, q, jnp.inf)))
    high = jnp.maximum(root_value, jnp.max(jnp.where(visited, q, -jnp.inf)))
    return low, high


def _tree_or_siblings(normalisation: str, unvisited: str, floor: float):
    if normalisation == "siblings":
        return mctx.qtransform_by_parent_and_siblings
    return functools.partial(qtransform_by_whole_tree, floor=floor, unvisited=unvisited)


def _search_stats(tree: mctx.Tree, policy: Array, value: Array) -> dict[str, Array]:
    low, high = jax.vmap(tree_q_range)(tree)
    root_visits = tree.children_visits[:, tree.ROOT_INDEX]
    return {
        "policy_entropy": -jnp.sum(jax.scipy.special.xlogy(policy, policy), axis=-1),
        "depth": _tree_depth(tree),
        "q_range": high - low,
        "unvisited_fraction": jnp.mean(root_visits == 0, axis=-1),
        "root_value_minus_network_value": value - tree.raw_values[:, tree.ROOT_INDEX],
    }


def _tree_depth(tree: mctx.Tree) -> Array:
    """Returns the depth [N] of the deepest node; nodes are created parents first."""

    def visit(node, depths):
        parent = tree.parents[:, node]
        above = jnp.take_along_axis(depths, jnp.maximum(parent, 0)[:, None], axis=1)[:, 0]
        return depths.at[:, node].set(jnp.where(parent >= 0, above + 1, 0))

    depths = jnp.zeros(tree.parents.shape, jnp.int32)
    return jnp.max(jax.lax.fori_loop(1, tree.parents.shape[1], visit, depths), axis=1).astype(jnp.float32)
