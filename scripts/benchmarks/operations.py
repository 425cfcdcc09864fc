"""Operations by XLA's count: what a loop would have to do at the least."""

import jax
import jax.numpy as jnp

from configs.schema import Config
from muzero.observation import stack_shape
from scripts.program.assemble import build_model, env_spec


def decision_flops(config: Config) -> float:
    """Returns the operations of one decision: a representation, and a step and a prediction a
    simulation.
    """
    spec = env_spec(config.env)
    model, _ = build_model(config, spec)
    params = jax.eval_shape(model.init, jax.random.key(0))
    stack = jax.ShapeDtypeStruct(
        stack_shape(spec.observation_shape, config.network.history_length), jnp.float32
    )
    latent = jax.eval_shape(model.represent, params.representation, stack)

    def count(function, *arguments):
        return jax.jit(function).lower(*arguments).cost_analysis()["flops"]

    step = count(model.step, params.dynamics, latent, jax.ShapeDtypeStruct((), jnp.int32))
    predict = count(model.predict, params.prediction, latent)
    root = count(model.represent, params.representation, stack) + predict
    return root + config.search.num_simulations * (step + predict)
