"""Returns of rollouts around known values."""

import numpy as np


def noisy_returns(value, num_rollouts, scale, seed=0):
    return value[:, None] + scale * np.random.default_rng(seed).normal(
        size=(len(value), num_rollouts)
    )
