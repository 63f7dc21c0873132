# SPDX-License-Identifier: Apache-2.0
"""An embedding of a picture as tokens that an image model attends to."""

from __future__ import annotations

from typing import Any

from flax import linen as nn
import jax
import jax.numpy as jnp

from lamd_jax.nn import initializers
from lamd_jax.nn.layers import Dense


class ContentTokens(nn.Module):
  """An embedding [B,D] -> `tokens` tokens [B,N,width] float32, or the null tokens.

  A linear map gives all tokens at once, as unCLIP decoders have it (Ramesh et al., arXiv
  2204.06125, section 2.1: four extra tokens). The null tokens are learned.
  """

  tokens: int
  width: int
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, embedding: jax.Array, keep: jax.Array) -> jax.Array:
    """Args:
    embedding: [B,D] float, of about mean 0 and variance 1 a channel.
    keep: [B] bool; rows without it get the null tokens.
    """
    mapped = Dense(self.tokens * self.width, dtype=self.dtype, name="tokens")(embedding)
    mapped = mapped.reshape(-1, self.tokens, self.width).astype(jnp.float32)
    shape = (self.tokens, self.width)
    null = self.param("null", initializers.normal(1.0), shape)
    return jnp.where(keep[:, None, None], mapped, null)
