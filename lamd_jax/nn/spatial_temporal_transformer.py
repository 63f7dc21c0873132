# SPDX-License-Identifier: Apache-2.0
"""The transformer block of LVDM's text-to-video model (arXiv 2211.13221).

Spatial, temporal, cross, temporal attention and a gated feed-forward layer, each
behind a layer norm and around it a residual connection.
"""

from __future__ import annotations

from typing import Any

from flax import linen as nn
import jax
import jax.numpy as jnp

from lamd_jax.nn.layers import Dense, GroupNorm, LayerNorm
from lamd_jax.nn.transformer_layers import Attention, FeedForward
from lamd_jax.ops import axes


class SpatialTemporalTransformer(nn.Module):
  """x [B,T,H,W,C] + transformer(x, context [B,N,D]); starts as the identity.

  Mode "image" leaves both temporal attentions out.
  """

  heads: int
  temporal_length: int  # reach of relative positions, frames
  relative_position: bool
  # Released: only the position tables let gradients in, so frames learn of each other
  # late. The block as a whole begins as the identity either way.
  temporal_zero_init: bool
  cudnn: bool = False  # see ops.attention
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(
    self, x: jax.Array, context: jax.Array | None, mode: str
  ) -> jax.Array:
    if context is None:
      raise ValueError("the transformer block attends to text: context [B,N,D] is None")
    b, t, h, w, c = x.shape
    y = GroupNorm(epsilon=1e-6, name="norm")(x)
    y = Dense(c, dtype=self.dtype, name="in")(y)

    normed = lambda name, y: LayerNorm(name=f"{name}_norm")(y)
    attention = lambda name: Attention(
      self.heads, cudnn=self.cudnn, dtype=self.dtype, name=name
    )
    y = axes.fold(y.reshape(b, t, h * w, c))
    z = normed("spatial_attention", y)
    y = y + attention("spatial_attention")(z, z)
    y = self._temporal(axes.unfold(y, b, t), "temporal_attention_0", mode)
    # All frames see the same text, so a clip's pixels are one row of queries.
    y = y.reshape(b, t * h * w, c)
    context = context.astype(y.dtype)
    y = y + attention("cross_attention")(normed("cross_attention", y), context)
    y = self._temporal(y.reshape(b, t, h * w, c), "temporal_attention_1", mode)
    y = y + FeedForward(self.dtype, name="feed_forward")(normed("feed_forward", y))

    y = Dense(c, zero_init=True, dtype=self.dtype, name="out")(y)
    return x + y.reshape(x.shape)

  def _temporal(self, y: jax.Array, name: str, mode: str) -> jax.Array:
    """Self-attention over the frames of each pixel, y [B,T,P,C]."""
    if mode == "image":
      return y
    b, t, p, _ = y.shape
    reach = self.temporal_length if self.relative_position else 0
    z = LayerNorm(name=f"{name}_norm")(y)
    z = axes.fold(axes.by_pixel(z))
    attention = Attention(
      self.heads, reach, self.temporal_zero_init, dtype=self.dtype, name=name
    )
    z = attention(z, z)
    return y + axes.by_frame(axes.unfold(z, b, p))
