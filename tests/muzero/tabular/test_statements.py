"""The statements of both papers, margin by margin: none is violated, and what a check says can be
found wrong.
"""

import functools

import jax
import numpy as np
import pytest

from muzero.tabular import margins, muzero_bound
from muzero.tabular.approximate_statements import APPROXIMATE
from muzero.tabular.calibrated_statements import CALIBRATED
from muzero.tabular.class_members import random_case
from muzero.tabular.muzero_bound import MUZERO
from muzero.tabular.proper_statements import PROPER

pytestmark = pytest.mark.usefixtures("quick_compilation")

STATEMENTS = PROPER | MUZERO | APPROXIMATE | CALIBRATED
NUM_CASES, ROUNDING = 1024, 1e-9
# Margins that no fault breaks: both sides are wrong alike, or all that is asked is that they
# differ.
NEVER_BROKEN = {
    "PVE 1 (i)": {3, 4, 5},
    "PVE eq. 13": {3},
    "PVE 4": {2, 3, 4},
    "PVE 5": {1, 3},
    "AVE 4": {0},
    "AVE 5": {0, 1, 3, 4, 5, 7},
}


def test_the_expected_loss_of_muzero_is_the_sum_over_every_rollout():
    """K = 2 and n = 1 by loops over states and actions of the environment and of the model."""
    with jax.enable_x64(True):
        case = jax.tree.map(lambda leaf: np.asarray(leaf[0]), cases())._replace(k=2, n=1)
        value, start = case.functions[1], np.array([0.1, 0.2, 0.3, 0.4])
        found = muzero_bound.muzero_loss(case, value, start)
    environment, model, policy = case[:3]
    pairs, total = np.diag(start), 0.0
    for _ in range(3):
        after = np.zeros_like(pairs)
        for s, z, a, b in np.ndindex(4, 4, 2, 2):
            chance = pairs[s, z] * policy[a, s] * policy[b, z]
            paid = environment.reward[a, s]
            errors = paid + environment.discount * value - value[z]
            total += chance * environment.transition[a, s] @ errors**2
            total += chance * (paid - model.reward[b, z]) ** 2
            after += chance * np.outer(environment.transition[a, s], model.transition[b, z])
        pairs = after
    np.testing.assert_allclose(found, total, rtol=1e-12)


@functools.cache
def cases():
    return jax.jit(jax.vmap(random_case))(jax.random.split(jax.random.key(0), NUM_CASES))


@pytest.mark.parametrize("name", STATEMENTS)
def test_every_margin_holds_and_is_broken_by_some_fault(name):
    with jax.enable_x64(True):
        of = jax.jit(
            jax.vmap(
                lambda case, faults: STATEMENTS[name](case, margins.make_operators(faults)),
                (0, None),
            )
        )
        exact, *broken = (
            np.asarray(of(cases(), faults)) for faults in (margins.EXACT, *margins.BROKEN)
        )
    assert exact.shape[0] == NUM_CASES and exact.shape[1] > 0
    assert np.all(exact >= -ROUNDING)
    is_broken = ~np.all(np.stack(broken) >= -ROUNDING, axis=(0, 1))
    assert set(np.flatnonzero(~is_broken)) == NEVER_BROKEN.get(name, set())
