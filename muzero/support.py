"""Scalar ↔ categorical: the two-hot encoding of h(x) on a fixed support (MuZero, appendix F)."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import rlax

from configs.schema import SupportConfig
from muzero.types import Array


@dataclasses.dataclass(frozen=True)
class Support:
    """Equally spaced bins on the axis of h(x) = sign(x)(√(|x| + 1) − 1) + εx.

    ε is 0.01 in the paper, rlax's default is 0.001. A scalar beyond the support is encoded as the
    nearest end (see `saturates`).
    """

    settings: SupportConfig

    @property
    def num_bins(self) -> int:
        """Z."""
        return self.settings.num_bins

    def _pair(self) -> rlax.TxPair:
        low, high, epsilon = self.settings.min_value, self.settings.max_value, self.settings.epsilon
        squash = rlax.TxPair(
            functools.partial(rlax.signed_hyperbolic, eps=epsilon),
            functools.partial(rlax.signed_parabolic, eps=epsilon),
        )
        return rlax.muzero_pair(low, high, self.num_bins, squash)

    def to_probs(self, scalar: Array) -> Array:
        """Returns the two-hot distribution [..., Z] of `scalar` [...], float32."""
        scalar = jnp.asarray(scalar, jnp.float32)
        # rlax's transforms are only safe on 2-D input.
        rows = self._pair().apply(scalar.reshape(-1, 1))
        return rows.reshape(*scalar.shape, self.num_bins)

    def from_logits(self, logits: Array) -> Array:
        """Returns the scalar [...] that the distribution softmax(`logits` [..., Z]) stands for."""
        probs = jax.nn.softmax(logits.astype(jnp.float32))
        rows = probs.reshape(-1, self.num_bins)
        return self._pair().apply_inv(rows).reshape(logits.shape[:-1])

    def saturates(self, scalar: Array) -> Array:
        """Returns a bool [...]: h(`scalar`) lies outside the support, its encoding is clipped."""
        squashed = rlax.signed_hyperbolic(jnp.asarray(scalar, jnp.float32), self.settings.epsilon)
        return (squashed < self.settings.min_value) | (squashed > self.settings.max_value)
