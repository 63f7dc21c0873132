# SPDX-License-Identifier: Apache-2.0
"""The transformer block of text encoders: attention, then a two-layer network.

Each stands behind a layer norm and inside a residual connection (pre-LN).
"""

from __future__ import annotations

from collections.abc import Callable
import math
from typing import Any

from flax import linen as nn
import jax
import jax.numpy as jnp

from lamd_jax.nn.layers import Dense, LayerNorm
from lamd_jax.ops import attention as attention_ops

# Added to the logits of what must not be seen. Finite, so that a row that may see
# nothing has equal weights and not NaN.
HIDDEN = -1e9


def quick_gelu(x: jax.Array) -> jax.Array:
  """x sigmoid(1.702 x): OpenAI CLIP's GELU, up to 0.02 off the exact one."""
  return x * jax.nn.sigmoid(1.702 * x)


def exact_gelu(x: jax.Array) -> jax.Array:
  """x Phi(x): OpenCLIP's GELU. JAX's default is an approximation by tanh."""
  return jax.nn.gelu(x, approximate=False)


class TextBlock(nn.Module):
  """x [B,N,C] -> [B,N,C]; the inner network is four times as wide."""

  heads: int
  activation: Callable[[jax.Array], jax.Array]
  dtype: Any = jnp.float32
  epsilon: float = 1e-5  # of both norms

  @nn.compact
  def __call__(self, x: jax.Array, bias: jax.Array) -> jax.Array:
    """Takes bias [B or 1,1,N or 1,N] float32, 0 where row i may see column j."""
    b, n, c = x.shape
    dense = lambda features, name: Dense(features, dtype=self.dtype, name=name)
    h = LayerNorm(self.epsilon, name="attention_norm")(x)
    project = lambda name: dense(c, name)(h).reshape(b, n, self.heads, -1)
    q, k, v = project("q"), project("k"), project("v")
    scale = 1 / math.sqrt(c // self.heads)
    h = attention_ops.attention(q, k, v, scale, bias=bias)
    x = x + dense(c, "out")(h.reshape(b, n, c))
    h = LayerNorm(self.epsilon, name="dense_norm")(x)
    h = self.activation(dense(4 * c, "dense_0")(h))
    return x + dense(c, "dense_1")(h)
