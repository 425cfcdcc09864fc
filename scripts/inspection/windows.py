"""Histories and taken actions of the states of one sequence, cut out on the host.

context (H − 1)   state 0 ... t − H + 1 ... t − 1    t      frames, is_first: stacked at t
                              a_{t−H+1} ... a_{t−1}  a_t …  actions before t, and taken from t on
"""

from typing import NamedTuple

import numpy as np

from muzero.types import Trajectory


class Window(NamedTuple):
    """What is needed to imagine from one state."""

    frames: np.ndarray  # [H, ...]
    actions: np.ndarray  # [H-1]
    is_first: np.ndarray  # [H]
    taken: np.ndarray  # [k], the actions taken from that state on


def window(trajectory: Trajectory, t: int, num_steps: int) -> Window:
    """Returns the window of state `t` of one sequence with the next `num_steps` actions.

    Raises ValueError if the sequence has fewer.
    """
    history = len(trajectory.history_is_first)
    if t + num_steps > len(trajectory.action):
        raise ValueError(
            f"state {t} has {len(trajectory.action) - t} decisions after it, wanted: {num_steps}"
        )

    def whole(context, x):
        return np.concatenate([context, x])[t:]

    actions = whole(trajectory.history_action, trajectory.action)
    return Window(
        whole(trajectory.history_observation, trajectory.observation)[: history + 1],
        actions[:history],
        whole(trajectory.history_is_first, trajectory.is_first)[: history + 1],
        actions[history : history + num_steps],
    )


def stacked(windows: list[Window]) -> Window:
    """Returns windows of equal lengths with a leading axis on every field."""
    return Window(*(np.stack(field) for field in zip(*windows, strict=True)))
