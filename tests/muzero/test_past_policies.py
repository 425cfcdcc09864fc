"""The past-policy loss in exact MDPs: what V-trace's sampled targets estimate, and what training
with them buys.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from muzero import targets, value_buffer
from tests import reference

GAMMA, LAMBDA = 0.9, 0.8

# --- What the targets estimate

NUM_STATES, NUM_ACTIONS, NUM_POLICIES, T = 4, 3, 3, 8
NUM_SEQUENCES = 40_000


def _policy(rng, concentration):
    return 0.9 * rng.dirichlet([concentration] * NUM_ACTIONS, NUM_STATES) + 0.1 / NUM_ACTIONS


def _total_variation(policy, other):
    return 0.5 * np.abs(policy - other).sum(axis=-1)


@functools.cache
def _problem():
    """Returns a stochastic MDP with life losses, μ, and policies π_i at a total variation ≥ 0.3
    from it.
    """
    rng = np.random.default_rng(2)
    mdp = reference.MDP(
        transition=rng.dirichlet([0.5] * NUM_STATES, (NUM_STATES, NUM_ACTIONS)),
        reward=rng.normal(size=(NUM_STATES, NUM_ACTIONS)),
        discount=(rng.random((NUM_STATES, NUM_ACTIONS)) > 0.15).astype(float),
        gamma=GAMMA,
    )
    behaviour, policies = _policy(rng, 2.0), []
    while len(policies) < NUM_POLICIES:
        policy = _policy(rng, 0.7)
        if _total_variation(policy, behaviour).min() >= 0.3:
            policies.append(policy)
    return mdp, behaviour, policies


@functools.cache
def _sample():
    mdp, behaviour, _ = _problem()
    return reference.sample_paths(np.random.default_rng(1), mdp, behaviour, NUM_SEQUENCES, T)


def _targets(states, actions, policy, value, clip, behaviour):
    """Returns the targets under test [N, T+1] of paths through the MDP."""
    mdp, before = _problem()[0], states[:, :-1]
    fields = (value[states], policy[before, actions], behaviour[before, actions])
    fields += (mdp.reward[before, actions], mdp.discount[before, actions], np.ones(actions.shape))
    fn = functools.partial(
        targets.vtrace_targets, discount_factor=GAMMA, td_lambda=LAMBDA, clip_threshold=clip
    )
    return jax.vmap(fn)(*[jnp.asarray(field, jnp.float32) for field in fields])


def _z_scores(policy, value, clip, exact_clip, behaviour):
    """Returns [T, S]: (mean of the sampled vs_t where s_t = s, minus the exact operator) in
    standard errors.
    """
    mdp, true_behaviour, _ = _problem()
    states, actions = _sample()
    sampled = np.asarray(_targets(states, actions, policy, value, clip, behaviour), np.float64)
    scores = np.zeros((T, NUM_STATES))
    for t in range(T):
        exact = reference.vtrace_operator(
            mdp, true_behaviour, policy, value, T - t, LAMBDA, exact_clip
        )
        for s in range(NUM_STATES):
            rows = sampled[states[:, t] == s, t]
            scores[t, s] = (rows.mean() - exact[s]) / (rows.std(ddof=1) / np.sqrt(len(rows)))
    return scores


def test_the_problem_is_hard_enough():
    mdp, behaviour, policies = _problem()
    for policy in policies:
        assert _total_variation(policy, behaviour).min() >= 0.3
        values = reference.action_values(mdp, reference.policy_value(mdp, policy))
        assert np.diff(np.sort(values, axis=1), axis=1).min() > 0.05
    assert T <= 8 and 0 < (mdp.discount == 0).sum() < mdp.discount.size


@pytest.mark.parametrize("index", range(NUM_POLICIES))
def test_mean_of_sampled_targets_is_the_clipped_operator(index):
    _, behaviour, policies = _problem()
    value = np.random.default_rng(10 + index).normal(size=NUM_STATES)
    right = _z_scores(policies[index], value, 1.0, 1.0, behaviour)
    without_mu = _z_scores(policies[index], value, 1.0, 1.0, np.ones_like(behaviour))
    without_clip = _z_scores(policies[index], value, np.inf, 1.0, behaviour)
    for name, scores in {
        "as specified": right,
        "μ = 1": without_mu,
        "no clip": without_clip,
    }.items():
        print(f"\npolicy {index}, {name}: max |z| = {np.abs(scores).max():.2f}", end="")
    assert np.abs(right).max() < 4.0
    assert np.abs(without_mu).max() > 20.0 and np.abs(without_clip).max() > 20.0


@pytest.mark.parametrize("index", range(NUM_POLICIES))
def test_without_clip_the_value_of_the_policy_is_the_fixed_point(index):
    mdp, behaviour, policies = _problem()
    value = reference.policy_value(mdp, policies[index])
    exact = reference.vtrace_operator(mdp, behaviour, policies[index], value, T, LAMBDA, np.inf)
    np.testing.assert_allclose(exact, value, rtol=1e-12)
    scores = _z_scores(policies[index], value, np.inf, np.inf, behaviour)
    clipped = _z_scores(policies[index], value, 1.0, np.inf, behaviour)
    print(
        f"\npolicy {index}: max |z| = {np.abs(scores).max():.2f}, clipped "
        f"{np.abs(clipped).max():.2f}",
        end="",
    )
    assert np.abs(scores).max() < 4.0 and np.abs(clipped).max() > 20.0


def _enumerate_paths(num_decisions):
    """Returns states [P, n+1], actions [P, n] and probabilities under μ [P] of all paths from all
    states.
    """
    mdp, behaviour, _ = _problem()
    paths = [path for s in range(NUM_STATES) for path in reference.all_paths(mdp, s, num_decisions)]
    states, actions = (np.array(column) for column in zip(*paths, strict=True))
    steps = (
        behaviour[states[:, :-1], actions] * mdp.transition[states[:, :-1], actions, states[:, 1:]]
    )
    return states, actions, steps.prod(axis=1)


@pytest.mark.parametrize("index", range(NUM_POLICIES))
def test_iterating_the_clipped_operator_gives_the_value_of_the_overlap_policy(index):
    mdp, behaviour, policies = _problem()
    policy = policies[index]
    states, actions, prob = _enumerate_paths(2)

    @jax.jit
    def iterate(value):
        rows = _targets(states, actions, policy, value, 1.0, behaviour)[:, 0]
        return jax.ops.segment_sum(prob * rows, jnp.asarray(states[:, 0]), NUM_STATES)

    start = np.random.default_rng(0).normal(size=NUM_STATES)
    exact = reference.vtrace_operator(mdp, behaviour, policy, start, 2, LAMBDA, 1.0)
    np.testing.assert_allclose(iterate(jnp.asarray(start)), exact, rtol=1e-4, atol=1e-5)
    limit = jax.lax.fori_loop(
        0, 1_000, lambda _, value: iterate(value), jnp.asarray(start, jnp.float32)
    )
    value = reference.policy_value(mdp, policy)
    overlap_value = reference.policy_value(mdp, reference.overlap_policy(behaviour, policy))
    np.testing.assert_allclose(limit, overlap_value, atol=1e-4)
    print(
        f"\npolicy {index}: v of the overlap policy − v of π = "
        f"{np.round(overlap_value - value, 3)}",
        end="",
    )
    assert np.abs(overlap_value - value).max() > 0.1


# --- What training with them buys
#
# Deterministic MDPs, so that the exact value along an unroll is that of one state.  A policy is
# improved NUM_HEADS times; after training on the data of each policy, it and the value head of the
# moment are pushed. From that one model two go on, on the same data of the last policy μ: with the
# MuZero loss alone, and with the past-policy loss added.

MODEL_STATES, LATENT_SIZE, NUM_HEADS, LENGTH, K, BATCH = 12, 4, 6, 8, 3, 8
NUM_STARTS = LENGTH - K + 1
NUM_SEEDS, NUM_UPDATES, LEARNING_RATE = 10, 500, 0.05
STEP_WEIGHT = np.array([1.0] + [1.0 / K] * K)[:, None]


class Model(NamedTuple):
    """Rank-limited: 4 latent dimensions for 12 states; transitions are row-stochastic."""

    latent: jax.Array  # [S, L]
    transition_logits: jax.Array  # [L, A, L]
    reward: jax.Array  # [L, A]
    value: jax.Array  # [L], the value head
    policy: jax.Array  # [L, A], the policy head


class Task(NamedTuple):
    """One MDP, the policy that acts in it and its value: what a perfect search would give."""

    reward: jax.Array  # [S, A]
    policy: jax.Array  # [S, A]
    value: jax.Array  # [S]


def _init_model(rng_key):
    keys = jax.random.split(rng_key, 3)
    return Model(
        latent=jax.random.normal(keys[0], (MODEL_STATES, LATENT_SIZE)),
        transition_logits=jax.random.normal(keys[1], (LATENT_SIZE, NUM_ACTIONS, LATENT_SIZE)),
        reward=jnp.zeros((LATENT_SIZE, NUM_ACTIONS)),
        value=0.1 * jax.random.normal(keys[2], (LATENT_SIZE,)),
        policy=jnp.zeros((LATENT_SIZE, NUM_ACTIONS)),
    )


def _sequence_loss(model, target_latent, buffer, task, past_weight, states, actions):
    """Returns MuZero's loss of one sequence with squared errors, plus the weighted past-policy
    loss.
    """
    before, ones = (states[:-1], actions), jnp.ones(LENGTH)
    index = np.arange(K + 1)[:, None] + np.arange(NUM_STARTS)  # [K+1, starts] → t + k
    one_hot = jax.nn.one_hot(actions, NUM_ACTIONS)[index[:-1]]
    latents = [model.latent[states[:NUM_STARTS]]]
    for k in range(K):
        transition = jax.nn.softmax(model.transition_logits)
        latents.append(jnp.einsum("nl,na,lam->nm", latents[-1], one_hot[k], transition))
    latents = jnp.stack(latents)
    settings = {"discount_factor": GAMMA, "td_lambda": LAMBDA}
    returns = targets.td_lambda_targets(
        task.value[states], task.reward[before], ones, ones, **settings
    )
    reward_error = (
        jnp.sum(latents[:-1] @ model.reward * one_hot, axis=-1) - task.reward[before][index[:-1]]
    )
    policy_loss = -jnp.sum(
        task.policy[states][index] * jax.nn.log_softmax(latents @ model.policy), axis=-1
    )

    mask = value_buffer.filled_mask(buffer)

    def past_loss(head, latents):
        probs, value = (
            (head["policy"][before], task.policy[before]),
            target_latent[states] @ head["value"],
        )
        vs = targets.vtrace_targets(value, *probs, task.reward[before], ones, ones, **settings)
        return jnp.mean(STEP_WEIGHT * (latents @ head["value"] - vs[index]) ** 2), ()

    return (
        jnp.mean(STEP_WEIGHT[1:] * reward_error**2)
        + 0.25 * jnp.mean(STEP_WEIGHT * (latents @ model.value - returns[index]) ** 2)
        + jnp.mean(STEP_WEIGHT * policy_loss)
        + past_weight
        * value_buffer.mean_loss_over_heads(past_loss, buffer, mask, NUM_HEADS, latents)[0]
    )


@jax.jit
@functools.partial(jax.vmap, in_axes=(0, 0, 0, 0, None))
def _train(model, buffer, task, data, past_weight):
    """Returns all seeds' models after plain gradient descent; `data` is [updates, batch, ·] states
    and actions.
    """

    def update(carry, batch):
        model, target_latent = carry
        loss = jax.vmap(_sequence_loss, (None, None, None, None, None, 0, 0))

        def mean_loss(x):
            return jnp.mean(loss(x, target_latent, buffer, task, past_weight, *batch))

        model = jax.tree.map(lambda x, g: x - LEARNING_RATE * g, model, jax.grad(mean_loss)(model))
        return (model, target_latent + 0.1 * (model.latent - target_latent)), None

    return jax.lax.scan(update, (model, model.latent), data)[0][0]


def _improvement(seed):
    """Returns an MDP, its next states [S, A], and a uniform policy followed by NUM_HEADS
    improvements of it.
    """
    rng, shape = np.random.default_rng(100 + seed), (MODEL_STATES, NUM_ACTIONS)
    next_state = rng.integers(0, MODEL_STATES, shape)
    mdp = reference.MDP(
        np.eye(MODEL_STATES)[next_state], rng.normal(size=shape), np.ones(shape), GAMMA
    )
    policies = [np.full(shape, 1 / NUM_ACTIONS)]
    for _ in range(NUM_HEADS):
        better = policies[-1] * np.exp(
            0.1 * reference.action_values(mdp, reference.policy_value(mdp, policies[-1]))
        )
        policies.append(better / better.sum(axis=1, keepdims=True))
    return mdp, next_state, policies


def _act(problems, index, seed):
    """Returns the tasks of all MDPs with their `index`-th policy, and fresh data of it for
    NUM_UPDATES updates.
    """
    tasks, data, rng = [], [], np.random.default_rng([index, seed])
    for mdp, _, policies in problems:
        tasks.append(
            Task(mdp.reward, policies[index], reference.policy_value(mdp, policies[index]))
        )
        paths = reference.sample_paths(rng, mdp, policies[index], NUM_UPDATES * BATCH, LENGTH)
        data.append([path.reshape(NUM_UPDATES, BATCH, -1) for path in paths])
    states, actions = (np.stack(column).astype(np.int32) for column in zip(*data, strict=True))
    return jax.tree.map(lambda *x: jnp.asarray(np.stack(x), jnp.float32), *tasks), (states, actions)


def _past_error(model, heads, problem, past_policies):
    """Returns the mean of (v_i(z^k) − v of policy i)² over heads, k = 0..K, start states and
    actions drawn with μ.
    """
    mdp, next_state, policies = problem
    exact = np.stack([reference.policy_value(mdp, policy) for policy in past_policies])
    state, latent = np.arange(MODEL_STATES), np.asarray(model.latent, np.float64)
    transition = np.asarray(jax.nn.softmax(model.transition_logits), np.float64)
    weight, errors = np.full(MODEL_STATES, 1 / MODEL_STATES), []
    for _ in range(K + 1):
        errors.append(weight @ ((latent @ heads.T - exact[:, state].T) ** 2).mean(axis=1))
        latent = np.einsum("nl,lam->nam", latent, transition).reshape(-1, LATENT_SIZE)
        weight, state = (weight[:, None] * policies[-1][state]).ravel(), next_state[state].ravel()
    return np.mean(errors)


def _both_errors(model, heads, problem):
    """Returns the errors on the values of the overlap policies π̄_i and of the policies π_i
    themselves.
    """
    *past, behaviour = problem[2]
    overlaps = [reference.overlap_policy(behaviour, policy) for policy in past]
    return _past_error(model, heads, problem, overlaps), _past_error(model, heads, problem, past)


def _push_every_policy(problems):
    """Returns the models that learnt the improving policies one after the other, and the buffers of
    their heads.
    """
    model = jax.vmap(_init_model)(jax.random.split(jax.random.key(0), NUM_SEEDS))
    head = {"value": model.value, "policy": jnp.zeros((NUM_SEEDS, MODEL_STATES, NUM_ACTIONS))}
    buffer = jax.vmap(functools.partial(value_buffer.init, size=NUM_HEADS))(head)
    for i in range(NUM_HEADS):
        task, data = _act(problems, i, 0)
        model = _train(model, buffer, task, data, 0.0)
        head = {"value": model.value, "policy": task.policy}
        buffer = jax.vmap(value_buffer.push, (0, 0, None))(buffer, head, 0)
    return model, buffer


def _errors_after(model, buffer, problems, past_weight):
    """Returns the errors [seeds, 2] of `_both_errors` after more training on the data of the last
    policy.
    """
    heads = np.asarray(buffer.head_params["value"], np.float64)
    for i in range(4):
        task, data = _act(problems, NUM_HEADS, i)
        model = _train(model, buffer, task, data, past_weight)
    models = [jax.tree.map(lambda x, i=i: x[i], model) for i in range(NUM_SEEDS)]
    return np.array([_both_errors(*row) for row in zip(models, heads, problems, strict=True)])


def test_training_with_the_past_policy_loss_lowers_the_error_on_past_values():
    problems = [_improvement(seed) for seed in range(NUM_SEEDS)]
    model, buffer = _push_every_policy(problems)
    without, with_loss = (_errors_after(model, buffer, problems, weight) for weight in (0.0, 0.25))
    difference = (with_loss - without)[:, 0]
    half = stats.t.ppf(0.975, NUM_SEEDS - 1) * difference.std(ddof=1) / np.sqrt(NUM_SEEDS)
    print(f"\nwithout {np.round(without[:, 0], 2)}\nwith    {np.round(with_loss[:, 0], 2)}")
    print(
        f"difference {difference.mean():.3f}, 95 % interval ± {half:.3f}; error on v of π_i itself",
        end=" ",
    )
    print(f"{without[:, 1].mean():.3f} without, {with_loss[:, 1].mean():.3f} with", end="")
    assert difference.mean() + half < 0.0
