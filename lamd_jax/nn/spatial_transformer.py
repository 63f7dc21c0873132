# SPDX-License-Identifier: Apache-2.0
"""The transformer block of latent diffusion's image models (arXiv 2112.10752).

Self-attention over the pixels of a frame, attention to a context, a gated feed-forward
layer, each behind a layer norm and around it a residual connection. At head counts of 8
and a context of 768 it is that of Stable Diffusion 1. Frames do not see each other.
"""

from __future__ import annotations

from typing import Any

from flax import linen as nn
import jax
import jax.numpy as jnp

from lamd_jax.nn.layers import Dense, GroupNorm, LayerNorm
from lamd_jax.nn.transformer_layers import Attention, FeedForward
from lamd_jax.ops import axes


class SpatialTransformer(nn.Module):
  """x [B,T,H,W,C] + transformer(x, context [B,N,D] or None); starts as the identity.

  Without a context the block has no attention to it, and no parameters for it.
  """

  heads: int
  head_channels: int  # channels a head, so that wide blocks have more heads; 0: `heads`
  cudnn: bool = False  # see ops.attention
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(
    self, x: jax.Array, context: jax.Array | None, mode: str
  ) -> jax.Array:
    """Applies the block; `mode` is unused, there is no temporal part to bypass."""
    b, t, h, w, c = x.shape
    heads = c // self.head_channels if self.head_channels else self.heads
    attention = lambda name: Attention(
      heads, cudnn=self.cudnn, dtype=self.dtype, name=name
    )
    normed = lambda name, y: LayerNorm(name=f"{name}_norm")(y)
    # Every frame is a row of its own, for the norm's statistics too.
    y = axes.fold(x.reshape(b, t, h * w, c))
    y = GroupNorm(epsilon=1e-6, name="norm")(y)
    y = Dense(c, dtype=self.dtype, name="in")(y)
    z = normed("self_attention", y)
    y = y + attention("self_attention")(z, z)
    if context is not None:
      # All frames see the same context: a clip's pixels are one row of queries.
      z = axes.unfold(normed("cross_attention", y), b, t).reshape(b, t * h * w, c)
      z = attention("cross_attention")(z, context.astype(y.dtype))
      y = y + axes.fold(z.reshape(b, t, h * w, c))
    y = y + FeedForward(self.dtype, name="feed_forward")(normed("feed_forward", y))
    y = Dense(c, zero_init=True, dtype=self.dtype, name="out")(y)
    return x + axes.unfold(y, b, t).reshape(x.shape)
