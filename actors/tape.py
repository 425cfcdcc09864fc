"""The memory of a rollout: what its environments went through since the context of the present
sequence.
"""

from typing import NamedTuple

import numpy as np


class Tape(NamedTuple):
    """The sequence being written; time is the second axis, in all but the frames its first `H - 1`
    entries are context.

    Frames lie in two arrays, in one piece each: Ray takes such arrays as they are, and slices of
    one would be copied.
    """

    observation: np.ndarray  # [N, T+1, ...]
    history_observation: np.ndarray  # [N, H-1, ...]
    is_first: np.ndarray  # [N, H-1 + T+1]
    action: np.ndarray  # [N, H-1 + T+1], the last one is never read
    reward: np.ndarray  # [N, H-1 + T+1], as the two after it
    discount: np.ndarray
    behaviour_prob: np.ndarray
    search_policy: np.ndarray  # [N, H-1 + T+1, A]
    search_value: np.ndarray  # [N, H-1 + T+1]
    params_version: np.ndarray  # [N, H-1 + T+1]
