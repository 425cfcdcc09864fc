"""The statement of *Calibrated Value-Aware Model Learning* that needs no samples, a function from a
random case to margins; what needs them is in `scripts/laboratory/calibration.py`.
"""

import jax
import jax.numpy as jnp

from muzero.tabular import vaml
from muzero.tabular.class_members import Case
from muzero.tabular.margins import Operators, equal
from muzero.tabular.mdp import policy_transition


def cvaml_1(case: Case, op: Operators) -> jax.Array:
    """A model without IterVAML loss has the right Bellman operator at V, and only such a model: of
    every state (T̂_π V − T_π V)² is γ² times its loss. The reward is the true one.
    """
    environment, value = case.environment, case.functions[0]
    model = environment._replace(transition=case.model.transition)
    ours, true = (policy_transition(m, case.policy) for m in (model, environment))
    loss = vaml.expected_loss(ours, value, true @ value, m=1, variance_weight=0.0)
    after, truth = (op.power(m, case.policy, value, 1) for m in (model, environment))
    return equal(jnp.square(after - truth), environment.discount**2 * loss)[None]


CALIBRATED = {"CVAML 1": cvaml_1}
