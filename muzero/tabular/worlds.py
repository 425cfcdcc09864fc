"""The worlds of the papers as exact MDPs."""

import jax
import jax.numpy as jnp
import numpy as np

from muzero.tabular.mdp import MDP

_FOUR_ROOMS = """
#############
#     #     #
#     #     #
#           #
#     #     #
#     #     #
## ####     #
#     ### ###
#     #     #
#     #     #
#           #
#     #     #
#############
"""
_MOVES = ((-1, 0), (1, 0), (0, 1), (0, -1))  # (row, column): up, down, right, left


def four_rooms_map() -> np.ndarray:
    """Returns bool [13, 13], True where a state is. States are numbered row by row."""
    return np.array(
        [[square == " " for square in row] for row in _FOUR_ROOMS.strip("\n").split("\n")]
    )


def four_rooms(intended: float = 0.8, discount: float = 0.99) -> MDP:
    """Returns stochastic Four Rooms (Proper Value Equivalence, A.3.3): 104 states, actions up,
    down, right, left.

    An action moves as intended with probability `intended`, else in one of the *other three*
    directions: the text says "a random direction", and only so is the intended move made with 80 %.
    Walls stop a move. Entering the upper-right square (or bumping into a wall there, which enters
    it from itself) is rewarded with 1.
    """
    floor = four_rooms_map()
    squares = [tuple(square) for square in np.argwhere(floor)]
    number = {square: state for state, square in enumerate(squares)}
    arrival = np.zeros((4, len(squares), len(squares)))  # of the four moves, without noise
    for action, (down, right) in enumerate(_MOVES):
        for (row, column), state in number.items():
            arrival[action, state, number.get((row + down, column + right), state)] = 1.0
    slip = (1 - intended) / 3
    transition = slip * arrival.sum(axis=0) + (intended - slip) * arrival
    goal = number[(1, floor.shape[1] - 2)]
    return MDP(jnp.asarray(transition), jnp.asarray(transition[:, :, goal]), discount)


def ring(reward: jax.Array, discount: float) -> MDP:
    """Returns the ring of S states (A.1.1): one action, from each state to the next, `reward` [S]
    for leaving it.
    """
    return MDP(
        jnp.roll(jnp.eye(reward.shape[0], dtype=reward.dtype), 1, axis=1)[None],
        reward[None],
        discount,
    )


def false_ring(reward: jax.Array, discount: float) -> MDP:
    """Returns the model of a ring in which every state stays where it is and S steps pay as much
    (A.1.1, eq. 20).
    """
    num_states = reward.shape[0]
    power = discount ** jnp.arange(num_states, dtype=reward.dtype)
    turns = (jnp.arange(num_states)[:, None] + jnp.arange(num_states)) % num_states
    mimic = reward[turns] @ power / jnp.sum(power)
    return MDP(jnp.eye(num_states, dtype=reward.dtype)[None], mimic[None], discount)


def dithering(discount: float) -> tuple[MDP, MDP]:
    """Returns (environment, model) of three states and actions L, R: equal values for deterministic
    policies only.

    Proper Value Equivalence, figure 2. The drawing is not in the text; from its labels and the
    proof of proposition 5: L pays 1 in states 1 (which it keeps) and 2 (to 1), 0 in 3 (to 2); R
    pays 0 and leads 1 to 2, 2 to 3, 3 to 3. In the model R leads from 2 to 2 or 3 with 50 % each.
    """
    left, right, model_right = (0, 0, 1), (1, 2, 2), (1, 1, 2)
    eye = jnp.eye(3)
    right = eye[jnp.array(right)]
    reward = jnp.array([[1.0, 1.0, 0.0], [0.0, 0.0, 0.0]])

    def build(right):
        return MDP(jnp.stack([eye[jnp.array(left)], right]), reward, discount)

    return build(right), build((right + eye[jnp.array(model_right)]) / 2)


def garnet(
    rng_key: jax.Array, num_states: int, num_actions: int, branching: int, discount: float
) -> MDP:
    """Returns a random MDP: each action leads to `branching` random states, with Dirichlet(1)
    chances; r ~ U(0, 1).
    """
    states_key, chance_key, reward_key = jax.random.split(rng_key, 3)
    shape = (num_actions, num_states)
    priority = jax.random.uniform(states_key, (*shape, num_states))
    cut = jax.lax.top_k(priority, branching)[0][..., -1:]
    weight = jnp.where(priority >= cut, jax.random.exponential(chance_key, priority.shape), 0.0)
    transition = weight / jnp.sum(weight, axis=-1, keepdims=True)
    return MDP(transition, jax.random.uniform(reward_key, shape), discount)


def tempered_garnet(
    rng_key: jax.Array, num_states: int, *, branching: int, temperature: float, discount: float
) -> MDP:
    """Returns a random chain (one action): `branching` random successors with chances softmax(w /
    temperature).

    Calibrated Value-Aware Model Learning, section 5 and appendix B: w ~ N(0, 1), so that
    `temperature` → 0 makes the chain deterministic and → ∞ uniform over the successors. The
    reward's formula is not in the text: r ~ N(0, 1).
    """
    states_key, weight_key, reward_key = jax.random.split(rng_key, 3)
    priority = jax.random.uniform(states_key, (1, num_states, num_states))
    cut = jax.lax.top_k(priority, branching)[0][..., -1:]
    weight = jax.random.normal(weight_key, priority.shape) / temperature
    transition = jax.nn.softmax(jnp.where(priority >= cut, weight, -jnp.inf), axis=-1)
    return MDP(transition, jax.random.normal(reward_key, (1, num_states)), discount)


def cliff_walk(temperature: float, discount: float) -> MDP:
    """Returns a 5 x 5 cliff walk with noisy moves (Calibrated Value-Aware Model Learning, appendix
    C.5).

        ...../...../...../...../SCCCG    S start, C cliff, G goal; states row by row

    Actions: up, down, right, left.

    An action's move has the chance softmax(e / temperature) of the four moves, e one-hot: certain
    at 0, one in four at ∞. The paper does not say how it modified the walk. Here: a step costs 0.1
    and the cliff 1 (of 1 and 100 in Gymnasium, where one number decides every value), the cliff
    leads to the start, the goal keeps its visitor for free.
    """
    size, start, goal = 5, 20, 24
    row, column = np.divmod(np.arange(size * size), size)
    arrival = np.zeros((4, size * size, size * size))
    for move, (down, right) in enumerate(_MOVES):
        target = np.clip(row + down, 0, size - 1) * size + np.clip(column + right, 0, size - 1)
        arrival[move, np.arange(size * size), target] = 1.0
    chance = jax.nn.softmax(jnp.eye(4) / temperature)
    to_square = jnp.einsum("am,mst->ast", chance, jnp.asarray(arrival))
    fall = jnp.sum(to_square[:, :, start + 1 : goal], axis=-1)
    stays = jnp.arange(size * size) == goal
    transition = to_square.at[:, :, start + 1 : goal].set(0.0).at[:, :, start].add(fall)
    transition = jnp.where(stays[:, None], jnp.eye(size * size)[goal], transition)
    return MDP(transition, jnp.where(stays, 0.0, -0.1 - 0.9 * fall), discount)
