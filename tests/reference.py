"""Slow NumPy oracles: direct transcriptions of the sums, with loops, in float64.

Nothing here imports the code under test.  Names and the time convention are those of
`muzero/types.py`: states [T+1], decisions [T], and `mask` [T] is 0 on a decision from a final
observation to a reset.
"""

import dataclasses
import itertools
import math
from typing import NamedTuple

import numpy as np

# --- Random sequences


class Sequence(NamedTuple):
    """One random sequence; every field float64 but `is_first` (bool) and `events`."""

    is_first: np.ndarray  # [T+1]
    mask: np.ndarray  # [T]
    discount: np.ndarray  # [T]
    reward: np.ndarray  # [T]
    behaviour_prob: np.ndarray  # [T]
    target_prob: np.ndarray  # [T]
    value: np.ndarray  # [T+1]
    events: list[str]  # [T] "", "termination", "truncation", "life_loss" or "reset"


def random_sequence(
    rng: np.random.Generator, num_decisions: int, event_prob: float = 0.15
) -> Sequence:
    """Returns a sequence with terminations, truncations, life losses and autoresets inside.

        termination    ... s --(d=0, real)--> final --(not real)--> reset ...
        truncation     ... s --(d=1, real)--> final --(not real)--> reset ...
        life loss      ... s --(d=0, real)--> s' --(d=1, real)--> ...

    What is stored on a decision that is not real is noise, its discount included: no target may
    read it.
    """
    events = _random_events(rng, num_decisions, event_prob)
    mask = np.array([event != "reset" for event in events], np.float64)
    ends = np.isin(events, ["termination", "life_loss"])
    return Sequence(
        is_first=np.concatenate([[rng.random() < 0.5], mask == 0]),
        mask=mask,
        discount=np.where(mask > 0, 1.0 - ends, rng.integers(0, 2, num_decisions)),
        reward=rng.normal(size=num_decisions),
        behaviour_prob=rng.uniform(0.01, 1.0, num_decisions),
        target_prob=rng.uniform(0.0, 1.0, num_decisions) * (rng.random(num_decisions) < 0.9),
        value=3.0 * rng.normal(size=num_decisions + 1),
        events=events,
    )


def _random_events(rng: np.random.Generator, num_decisions: int, event_prob: float) -> list[str]:
    events = []
    for _ in range(num_decisions):
        final = bool(events) and events[-1] in ("termination", "truncation")
        kinds = ["termination", "truncation", "life_loss", ""]
        events.append(
            "reset" if final else str(rng.choice(kinds, p=[event_prob] * 3 + [1 - 3 * event_prob]))
        )
    return events


# --- Targets


def first_unreal(mask: np.ndarray, t: int) -> int:
    """Returns the first m ≥ t whose decision is not real, T where there is none."""
    return next((m for m in range(t, len(mask)) if mask[m] == 0), len(mask))


def n_step_return(value, reward, discount, t: int, n: int, gamma: float) -> float:
    """Returns Σ_{j<n} (Π_{i<j} γ d_{t+i}) r_{t+j} + (Π_{i<n} γ d_{t+i}) ν_{t+n}."""
    factors = [gamma * discount[t + i] for i in range(n)]
    rewards = sum(math.prod(factors[:j]) * reward[t + j] for j in range(n))
    return rewards + math.prod(factors) * value[t + n]


def td_lambda_targets(value, reward, discount, mask, gamma: float, lam: float) -> np.ndarray:
    """Returns G [T+1] as the λ-mixture of all n-step returns up to the first decision that is not
    real.
    """
    targets = np.array(value, np.float64)
    for t in range(len(mask)):
        horizon = first_unreal(mask, t) - t
        if horizon > 0:
            returns = [
                n_step_return(value, reward, discount, t, n, gamma) for n in range(1, horizon + 1)
            ]
            weights = [(1 - lam) * lam ** (n - 1) for n in range(1, horizon)] + [
                lam ** (horizon - 1)
            ]
            targets[t] = sum(w * g for w, g in zip(weights, returns, strict=True))
    return targets


def n_step_targets(value, reward, discount, mask, gamma: float, num_steps: int) -> np.ndarray:
    """Returns G [T+1], each the return of `num_steps` steps or of those up to the first decision
    that is not real.
    """
    targets = np.array(value, np.float64)
    for t in range(len(mask)):
        n = min(num_steps, first_unreal(mask, t) - t)
        targets[t] = n_step_return(value, reward, discount, t, n, gamma)
    return targets


def vtrace_targets(seq: Sequence, gamma: float, lam: float, clip: float) -> np.ndarray:
    """Returns vs [T+1]: v_s + Σ_t (Π_{i=s}^{t-1} γ d_i c_i) δ_t (Espeholt et al. 2018, eq. 1)."""
    ratio = seq.target_prob / seq.behaviour_prob
    targets = np.array(seq.value)
    for s in range(len(seq.mask)):
        for t in range(s, first_unreal(seq.mask, s)):
            trace = math.prod(
                gamma * seq.discount[i] * lam * min(1.0, ratio[i]) for i in range(s, t)
            )
            delta = seq.reward[t] + gamma * seq.discount[t] * seq.value[t + 1] - seq.value[t]
            targets[s] += trace * min(clip, ratio[t]) * delta
    return targets


def unroll_masks(
    is_first, discount, num_starts: int, num_unroll_steps: int
) -> dict[str, np.ndarray]:
    """Returns the masks by walking every unroll and naming where it is: alive, absorbed or over."""
    shapes = {
        "alive_mask": 1,
        "absorbed_mask": 1,
        "reward_alive_mask": 0,
        "reward_absorbed_mask": 0,
    }
    masks = {
        name: np.zeros((num_starts, num_unroll_steps + extra)) for name, extra in shapes.items()
    }
    for start in range(num_starts):
        place = "alive"
        masks["alive_mask"][start, 0] = 1
        for k in range(1, num_unroll_steps + 1):
            decision = start + k - 1
            if place == "alive" and is_first[decision + 1]:
                place = "over"
            if place != "over":
                masks[f"reward_{place}_mask"][start, k - 1] = 1
            if place == "alive" and discount[decision] == 0:
                place = "absorbed"
            if place != "over":
                masks[f"{place}_mask"][start, k] = 1
    masks["start_mask"] = np.array([not is_first[t + 1] for t in range(num_starts)], np.float64)
    return masks


# --- Support


def squash(x: float, epsilon: float) -> float:
    """Returns h(x) = sign(x)(√(|x| + 1) − 1) + εx."""
    return math.copysign(math.sqrt(abs(x) + 1) - 1, x) + epsilon * x


def unsquash(y: float, epsilon: float) -> float:
    """Returns the x with h(x) = y, by bisection."""
    low, high = -1e9, 1e9
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if squash(middle, epsilon) < y else (low, middle)
    return (low + high) / 2


def bins(support) -> tuple[float, float, int, float]:
    """Returns lowest and highest bin, number of bins and ε of a support."""
    return dataclasses.astuple(support.settings)


def two_hot(
    x: float, min_value: float, max_value: float, num_bins: int, epsilon: float
) -> np.ndarray:
    """Returns the distribution [num_bins] over the two bins around h(x) whose mean is h(x)."""
    width = (max_value - min_value) / (num_bins - 1)
    place = (min(max(squash(x, epsilon), min_value), max_value) - min_value) / width
    lower = min(int(place), num_bins - 2)
    probs = np.zeros(num_bins)
    probs[lower], probs[lower + 1] = lower + 1 - place, place - lower
    return probs


def scalar_of(logits: np.ndarray, min_value: float, max_value: float, epsilon: float) -> float:
    """Returns h⁻¹ of the mean of softmax(`logits` [num_bins])."""
    weights = [math.exp(logit - max(logits)) for logit in logits]
    width = (max_value - min_value) / (len(logits) - 1)
    mean = sum(w * (min_value + width * i) for i, w in enumerate(weights)) / sum(weights)
    return unsquash(mean, epsilon)


# --- Observations


def stacked_observation(frames, actions, is_first, num_actions: int) -> np.ndarray:
    """Returns the stack of the last state, by walking back from it until a reset has been passed.

    frames [H, ..., c], actions [H-1], is_first [H] as stored; frames of type uint8 are divided by
    255.
    """
    length, divisor = len(frames), 255.0 if frames.dtype == np.uint8 else 1.0
    planes = [np.zeros(frames.shape[1:], np.float64) for _ in range(length)]
    action_planes = [np.zeros((*frames.shape[1:-1], 1), np.float64) for _ in range(length - 1)]
    for s in reversed(range(length)):
        planes[s] += frames[s] / divisor
        if s < length - 1:
            action_planes[s] += (actions[s] + 1) / num_actions
        if is_first[s]:
            break
    return np.concatenate([*planes, *action_planes], axis=-1)


def stacked_trajectory(trajectory, num_actions: int) -> np.ndarray:
    """Returns the stacks of all states [T+1, ...] of one sequence with its context."""
    context = len(trajectory.history_is_first)
    frames = np.concatenate([trajectory.history_observation, trajectory.observation])
    actions = np.concatenate([trajectory.history_action, trajectory.action])
    is_first = np.concatenate([trajectory.history_is_first, trajectory.is_first])
    rows = []
    for t in range(len(trajectory.is_first)):
        last = t + context
        window = (frames[t : last + 1], actions[t:last], is_first[t : last + 1])
        rows.append(stacked_observation(*window, num_actions))
    return np.stack(rows)


# --- Networks


class Layers:
    """The layers of a Haiku network, numbered in the order in which the network made them."""

    def __init__(self, params):
        self._params = {path.split("/")[-1]: layer for path, layer in params.items()}

    def _get(self, kind: str, number: int, name: str) -> np.ndarray:
        return np.asarray(self._params[f"{kind}_{number}" if number else kind][name], np.float64)

    def linear(self, number: int, x: np.ndarray) -> np.ndarray:
        """Returns W x + b."""
        return x @ self._get("linear", number, "w") + self._get("linear", number, "b")

    def conv(self, number: int, x: np.ndarray) -> np.ndarray:
        """Returns [h, w, out] of `x` [h, w, in]: windows of 1 or 3 pixels,
        zeros beyond the edge.
        """
        weight, (height, width, _) = self._get("conv2_d", number, "w"), x.shape
        size, edge = len(weight), len(weight) // 2
        x = np.pad(x, ((edge, edge), (edge, edge), (0, 0)))

        def window(i, j):
            return x[i : i + size, j : j + size, :, None]

        return np.array(
            [[(window(i, j) * weight).sum((0, 1, 2)) for j in range(width)] for i in range(height)]
        )

    def norm_relu(self, number: int, x: np.ndarray) -> np.ndarray:
        """Returns the positive part of `x` [..., c] normalised over its last axis, scaled and
        shifted.
        """
        normal = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)
        scale, offset = (self._get("layer_norm", number, name) for name in ("scale", "offset"))
        return np.maximum(normal * scale + offset, 0.0)


def scaled_to_one(x: np.ndarray) -> np.ndarray:
    """Returns `x` moved and stretched to [0, 1]."""
    return (x - x.min()) / (x.max() - x.min())


def space_to_depth(x: np.ndarray, block: int) -> np.ndarray:
    """Returns [h/b, w/b, b·b·c] of [h, w, c], one number after the other; zeros beyond the far
    edges.
    """
    height, width, channels = x.shape
    out = np.zeros((-(-height // block), -(-width // block), block * block * channels))
    for i, j, c in itertools.product(range(height), range(width), range(channels)):
        out[i // block, j // block, (i % block * block + j % block) * channels + c] = x[i, j, c]
    return out


def average_pool(x: np.ndarray) -> np.ndarray:
    """Returns the means of the 3×3 windows that begin at every second row and column, [h, w, c]
    with h and w even.
    """

    def windows(length):
        return [slice(i, i + 3) for i in range(0, length, 2)]  # the last ones are cut by the edge

    return np.array(
        [[x[i, j].mean((0, 1)) for j in windows(x.shape[1])] for i in windows(x.shape[0])]
    )


# --- The loss of one sequence


class Term(NamedTuple):
    """One cross-entropy of the loss of one sequence."""

    name: str  # "reward", "value", "policy" or "past"
    k: int
    weight: float  # 1 for k = 0, 1/K later
    share: float  # 1, or 1/M for one of M heads
    cross_entropy: float
    kl: float


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """Returns log softmax of one row."""
    shifted = np.asarray(logits, np.float64) - np.max(logits)
    return shifted - math.log(sum(math.exp(x) for x in shifted))


def make_term(name: str, k: int, num_unroll_steps: int, share: float, target, logits) -> Term:
    """Returns the cross-entropy of `target` [n] and softmax(`logits` [n]), and its excess over the
    target's entropy.
    """
    entropy = -sum(p * math.log(p) for p in target if p > 0)
    cross = -float(np.dot(target, log_softmax(logits)))
    return Term(name, k, 1.0 if k == 0 else 1.0 / num_unroll_steps, share, cross, cross - entropy)


def past_targets(head, state_latents, trajectory, support, gamma: float, lam: float, clip: float):
    """Returns (vs, v, π) of one stored head: [T+1], [T+1], [T+1, A]; `head(latent)` gives its two
    logits.
    """
    logits = [head(latent) for latent in state_latents]
    policy = np.exp([log_softmax(row) for row, _ in logits])
    low, high, _, epsilon = bins(support)
    value = np.array([scalar_of(row, low, high, epsilon) for _, row in logits])
    num_decisions = len(trajectory.action)
    sequence = Sequence(
        is_first=trajectory.is_first,
        mask=1.0 - trajectory.is_first[1:],
        discount=trajectory.discount,
        reward=trajectory.reward,
        behaviour_prob=trajectory.behaviour_prob,
        target_prob=policy[np.arange(num_decisions), trajectory.action],
        value=value,
        events=[],
    )
    return vtrace_targets(sequence, gamma, lam, clip), value, policy


def sequence_terms(
    net,
    past_heads,
    trajectory,
    stacks,
    support,
    *,
    num_starts: int,
    num_unroll_steps: int,
    gamma,
    lam,
):
    """Yields every term of the loss of one sequence (spec/algorithm.md, Loss), walking each unroll.

    Args:
      net: functions represent, step and predict of one sample.
      past_heads: [(head, vs [T+1])], the stored heads with their V-trace targets.
      stacks: [T+1, ...] stacked observations.
    """
    real = 1.0 - trajectory.is_first[1:]
    returns = td_lambda_targets(
        trajectory.search_value, trajectory.reward, trajectory.discount, real, gamma, lam
    )

    def categorical(x):
        return two_hot(x, *bins(support))

    for t in range(num_starts):
        if not real[t]:
            continue
        latent, absorbed = net.represent(stacks[t]), False
        for k in range(num_unroll_steps + 1):
            if k > 0:
                decision = t + k - 1
                if not absorbed and not real[decision]:
                    break
                latent, logits = net.step(latent, trajectory.action[decision])
                reward = 0.0 if absorbed else trajectory.reward[decision]
                yield make_term("reward", k, num_unroll_steps, 1.0, categorical(reward), logits)
                absorbed = absorbed or trajectory.discount[decision] == 0
            policy_logits, value_logits = net.predict(latent)
            value = 0.0 if absorbed else returns[t + k]
            yield make_term("value", k, num_unroll_steps, 1.0, categorical(value), value_logits)
            if not absorbed:
                yield make_term(
                    "policy",
                    k,
                    num_unroll_steps,
                    1.0,
                    trajectory.search_policy[t + k],
                    policy_logits,
                )
            for head, targets in past_heads:
                value = 0.0 if absorbed else targets[t + k]
                share = 1.0 / len(past_heads)
                yield make_term(
                    "past", k, num_unroll_steps, share, categorical(value), head(latent)[1]
                )


# --- Search trees


class SearchTree:
    """One tree of mctx, read by walking its children; every value is recomputed from the raw
    ones.
    """

    def __init__(self, tree, row: int):
        def read(name):
            return np.asarray(getattr(tree, name))[row]

        self._children, self.visits = read("children_index"), read("children_visits")
        self._reward, self._discount = read("children_rewards"), read("children_discounts")
        self._raw = read("raw_values").astype(np.float64)

    def value(self, node: int) -> float:
        """Returns the mean of the node's own value and of everything backed up through its
        edges.
        """
        edges = [a for a, visits in enumerate(self.visits[node]) if visits > 0]
        total = self._raw[node] + sum(self.visits[node][a] * self.q(node, a) for a in edges)
        return total / (1 + sum(self.visits[node][a] for a in edges))

    def q(self, node: int, action: int) -> float:
        """Returns reward + discount · value of the child."""
        child = self._children[node][action]
        return self._reward[node][action] + self._discount[node][action] * self.value(child)

    def nodes(self, node: int = 0, depth: int = 0):
        """Yields (node, depth) of the node and everything below it."""
        yield node, depth
        for child in self._children[node]:
            if child >= 0:
                yield from self.nodes(child, depth + 1)

    def q_range(self) -> tuple[float, float]:
        """Returns (lowest, highest) of every visited edge's Q and the root value."""
        edges = [
            (n, a)
            for n, _ in self.nodes()
            for a in range(len(self.visits[n]))
            if self.visits[n][a] > 0
        ]
        values = [self.value(0), *[self.q(n, a) for n, a in edges]]
        return min(values), max(values)


# --- Value buffer


class Ring:
    """A list of (slot, head, num_updates), the oldest first."""

    def __init__(self, size: int):
        self._size, self._history = size, []

    def push(self, head, num_updates: int) -> None:
        self._history.append((len(self._history) % self._size, head, num_updates))

    def filled(self) -> list:
        return self._history[-self._size :]


# --- Exact MDPs


class MDP(NamedTuple):
    """S states, A actions; `discount` 0 is a life loss: real, and the chain goes on."""

    transition: np.ndarray  # [S, A, S]
    reward: np.ndarray  # [S, A]
    discount: np.ndarray  # [S, A], 0 or 1
    gamma: float


def action_values(mdp: MDP, value: np.ndarray) -> np.ndarray:
    """Returns [S, A]: r + γ d Σ_s' P v(s')."""
    return mdp.reward + mdp.gamma * mdp.discount * (mdp.transition @ value)


def policy_value(mdp: MDP, policy: np.ndarray) -> np.ndarray:
    """Returns v^π [S], the solution of (I − γ d P^π) v = r^π."""
    flow = np.einsum("sa,sa,sap->sp", policy, mdp.gamma * mdp.discount, mdp.transition)
    return np.linalg.solve(np.eye(len(flow)) - flow, (policy * mdp.reward).sum(axis=1))


def overlap_policy(behaviour: np.ndarray, policy: np.ndarray) -> np.ndarray:
    """Returns π̄ ∝ min(μ, π) [S, A], whose value is the fixed point of V-trace with clip 1."""
    overlap = np.minimum(behaviour, policy)
    return overlap / overlap.sum(axis=1, keepdims=True)


def vtrace_operator(
    mdp: MDP, behaviour, policy, value, horizon: int, lam: float, clip: float
) -> np.ndarray:
    """Returns E_μ[vs_0 | s_0 = s] [S] with `horizon` decisions left, exactly.

    Propagates, from every start state, the measure E[Π γ d c ; s_t = ·] forward and adds up the
    expected δ_t.
    """
    ratio = policy / behaviour
    delta = (
        behaviour * np.minimum(clip, ratio) * (action_values(mdp, value) - value[:, None])
    ).sum(axis=1)
    trace = behaviour * lam * np.minimum(1.0, ratio) * mdp.gamma * mdp.discount
    measure, result = np.eye(len(value)), np.array(value)
    for _ in range(horizon):
        result = result + measure @ delta
        measure = np.einsum("zs,sa,sap->zp", measure, trace, mdp.transition)
    return result


def all_paths(mdp: MDP, start: int, num_decisions: int):
    """Yields (states [T+1], actions [T]) of every path of that length from `start`."""
    states, actions = range(mdp.reward.shape[0]), range(mdp.reward.shape[1])
    for taken in itertools.product(actions, repeat=num_decisions):
        for visited in itertools.product(states, repeat=num_decisions):
            yield (start, *visited), taken


def sample_paths(
    rng: np.random.Generator, mdp: MDP, policy: np.ndarray, num_paths: int, num_decisions: int
):
    """Returns states [N, T+1] and actions [N, T] drawn with `policy` from uniform start states."""

    def draw(probs):
        return (rng.random((len(probs), 1)) > np.cumsum(probs, axis=1)[:, :-1]).sum(axis=1)

    states, actions = [rng.integers(len(policy), size=num_paths)], []
    for _ in range(num_decisions):
        actions.append(draw(policy[states[-1]]))
        states.append(draw(mdp.transition[states[-1], actions[-1]]))
    return np.stack(states, axis=1), np.stack(actions, axis=1)
