# SPDX-License-Identifier: Apache-2.0
"""The spatial transformer turned along time (Gen-1, arXiv 2302.03011).

Self-attention over the frames of a pixel, which know their place from learned
embeddings, and a gated feed-forward layer, each behind a layer norm and around it a
residual connection. Pixels do not see each other, but through the first norm.
"""

from __future__ import annotations

from typing import Any

from flax import linen as nn
import jax
import jax.numpy as jnp

from lamd_jax.errors import ConfigError
from lamd_jax.nn import initializers
from lamd_jax.nn.layers import Dense, GroupNorm, LayerNorm
from lamd_jax.nn.transformer_layers import Attention, FeedForward
from lamd_jax.ops import axes


class TemporalTransformer(nn.Module):
  """x [B,T,H,W,C] + transformer(x, context [B,N,D]); starts as the identity.

  Whether the paper's attends to the context is open, hence the choice.
  """

  heads: int
  frame_positions: int  # rows of the table of frame embeddings; T at most
  attends_context: bool  # attention to the context after that to the frames
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array, context: jax.Array | None) -> jax.Array:
    """Applies the block.

    Raises:
      ConfigError: there are more frames than rows in the table.
    """
    b, t, h, w, c = x.shape
    if t > self.frame_positions:
      raise ConfigError(
        f"{t} frames; the temporal layers know positions 0 to"
        f" {self.frame_positions - 1}: take at most {self.frame_positions} frames at"
        " once, or train with a larger model.denoiser.frame_positions"
      )
    attention = lambda name: Attention(self.heads, dtype=self.dtype, name=name)
    normed = lambda name, y: LayerNorm(name=f"{name}_norm")(y)
    # Every pixel is a row of its own, but the first norm's statistics are the clip's.
    y = GroupNorm(epsilon=1e-6, name="norm")(x)
    y = axes.fold(axes.by_pixel(y.reshape(b, t, h * w, c)))
    y = Dense(c, dtype=self.dtype, name="in")(y)
    shape = (self.frame_positions, c)
    table = self.param("frame_positions", initializers.normal(0.02), shape)
    y = y + table[:t].astype(y.dtype)
    z = normed("self_attention", y)
    y = y + attention("self_attention")(z, z)
    if self.attends_context and context is not None:
      # All pixels and frames see the same context.
      z = axes.unfold(normed("cross_attention", y), b, h * w).reshape(b, h * w * t, c)
      z = attention("cross_attention")(z, context.astype(y.dtype))
      y = y + axes.fold(z.reshape(b, h * w, t, c))
    y = y + FeedForward(self.dtype, name="feed_forward")(normed("feed_forward", y))
    y = Dense(c, zero_init=True, dtype=self.dtype, name="out")(y)
    return x + axes.by_frame(axes.unfold(y, b, h * w)).reshape(x.shape)
