"""Scalar ↔ categorical: the two-hot encoding of h(x) on a fixed support (MuZero, appendix F)."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import rlax

from muzero.types import Array


class Support(NamedTuple):
    """`num_bins` equally spaced bins between `min_value` and `max_value` on the axis of h(x).

    h(x) = sign(x)(√(|x| + 1) − 1) + εx with ε = `epsilon` (paper: 0.01; rlax's default is 0.001).
    A scalar beyond the support is encoded as the nearest end (see `saturates`).
    """

    min_value: float
    max_value: float
    num_bins: int
    epsilon: float

    def _pair(self) -> rlax.TxPair:
        squash = rlax.TxPair(
            functools.partial(rlax.signed_hyperbolic, eps=self.epsilon),
            functools.partial(rlax.signed_parabolic, eps=self.epsilon),
        )
        return rlax.muzero_pair(self.min_value, self.max_value, self.num_bins, squash)

    def to_probs(self, scalar: Array) -> Array:
        """Returns the two-hot distribution [..., num_bins] of `scalar` [...], float32."""
        scalar = jnp.asarray(scalar, jnp.float32)
        rows = self._pair().apply(scalar.reshape(-1, 1))  # rlax transforms are only safe on 2-D input
        return rows.reshape(*scalar.shape, self.num_bins)

    def from_logits(self, logits: Array) -> Array:
        """Returns the scalar [...] that the distribution softmax(`logits` [..., num_bins]) stands for."""
        probs = jax.nn.softmax(logits.astype(jnp.float32))
        return self._pair().apply_inv(probs.reshape(-1, self.num_bins)).reshape(logits.shape[:-1])

    def saturates(self, scalar: Array) -> Array:
        """Returns a bool [...]: h(`scalar`) lies outside the support, its encoding is clipped."""
        squashed = rlax.signed_hyperbolic(jnp.asarray(scalar, jnp.float32), self.epsilon)
        return (squashed < self.min_value) | (squashed > self.max_value)
