"""What the values of deterministic policies pin down of a model: the dimension of its class M^∞(Π).

Shape letters: N policies, S states, A actions.
"""

import numpy as np

# Of a row's singular values, relative to the largest: rounding leaves some 1e-15 of a solve, and in
# Four Rooms the smallest that is none is some 1e-6.
_ROUNDING = 1e-10


def difference_ranks(value: np.ndarray, action: np.ndarray, num_actions: int) -> np.ndarray:
    """Returns int [A, S], the rank of the differences of values of policies with π(s) = a; -1 where
    no policy has it.

    A model with the right values satisfies v_π(s) = r̃(s, a) + γ P̃(·|s, a) v_π for every π with
    π(s) = a, as the environment does. So y = e_s − γ P̃(·|s, a) is orthogonal to v_π − v_π' for any
    two of them; e_s − γ P(·|s, a) is too, and is not 0. Hence the rank is at most S − 1. If it is
    S − 1, one direction is orthogonal, so y = κ (e_s − γ P(·|s, a)); the entries of both sum to
    1 − γ, so κ = 1, P̃(·|s, a) = P(·|s, a), and then r̃(s, a) = r(s, a). Where that holds for every
    (s, a), M^∞(Π) has a single member, the environment.

    Args:
      value: [N, S], v_π in float64.
      action: int [N, S], π.
      num_actions: A.
    """

    def rank(state, chosen):
        rows = value[action[:, state] == chosen]
        if len(rows) == 0:
            return -1
        spread = np.linalg.svd(rows - rows.mean(axis=0), compute_uv=False)
        return int(np.sum(spread > _ROUNDING * np.ptp(value)))

    num_states = value.shape[1]
    return np.array([[rank(s, a) for s in range(num_states)] for a in range(num_actions)])


def class_dimension(value: np.ndarray, action: np.ndarray, num_actions: int) -> int:
    """Returns the dimension of M^∞(Π), the bounds P̃ ≥ 0 apart: Σ_(s, a) S − 1 − rank.

    A row of a model is r̃(s, a) and P̃(·|s, a), whose sum is 1: S unknowns. Each policy with
    π(s) = a is an equation between them, which the environment satisfies; 1 + rank of them are
    independent.
    """
    return int(np.sum(value.shape[1] - 1 - difference_ranks(value, action, num_actions)))


def directions(value: np.ndarray) -> np.ndarray:
    """Returns [S − 1, S], orthonormal directions in which P̃(·|s, a) can differ from another row:
    those of the differences of `value` [N, S], largest first, then what no difference sees.
    """
    num_states = value.shape[1]
    between = np.linalg.qr(np.eye(num_states)[:, 1:] - 1 / num_states)[0].T  # entries sum to 0
    spread = (value - value.mean(axis=0)) @ between.T if len(value) else np.zeros((1, len(between)))
    return np.linalg.svd(spread)[2] @ between
