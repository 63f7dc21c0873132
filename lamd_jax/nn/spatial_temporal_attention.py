# SPDX-License-Identifier: Apache-2.0
"""Self-attention over the pixels of a frame, then over the frames of a pixel.

The only place where LVDM's models of short clips mix frames (arXiv 2211.13221).
"""

from __future__ import annotations

import math
from typing import Any

from flax import linen as nn
import jax
from jax.ad_checkpoint import checkpoint_name
import jax.numpy as jnp

from lamd_jax.nn import initializers
from lamd_jax.nn.layers import Dense, GroupNorm
from lamd_jax.ops import attention as attention_ops
from lamd_jax.ops import axes


class SelfAttention(nn.Module):
  """x [N,L,C] + attention over L; starts as the identity.

  Norm statistics are per row n. The projection yields q, k and v one after the
  other, each with its heads in contiguous blocks.
  """

  heads: int
  reach: int  # L of the relative tables, steps; 0: no relative positions
  rel_pos_key_transposed: bool  # see ops.attention.Positions
  cudnn: bool = False  # see ops.attention
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    n, length, channels = x.shape
    width = channels // self.heads
    qkv = Dense(3 * channels, dtype=self.dtype, name="qkv")(GroupNorm(name="norm")(x))
    qkv = checkpoint_name(qkv, "conv").reshape(n, length, 3, self.heads, width)
    q, k, v = qkv[:, :, 0], qkv[:, :, 1], qkv[:, :, 2]

    positions = None
    if self.reach:
      shape = (2 * self.reach + 1, width)
      init = initializers.glorot_uniform()
      keys = self.param("key_positions", init, shape)
      values = self.param("value_positions", init, shape)
      lookup = lambda table: attention_ops.relative_positions(table, length, length)
      # The dot products carry width^-1/2, this bias width^-1/4: LVDM scales q and k by
      # width^-1/4 each, and the positions not at all.
      positions = attention_ops.Positions(
        lookup(keys), lookup(values), width**-0.25, self.rel_pos_key_transposed
      )
    h = attention_ops.attention(
      q, k, v, 1 / math.sqrt(width), positions=positions, cudnn=self.cudnn
    )
    h = h.reshape(n, length, channels)
    return x + Dense(channels, zero_init=True, dtype=self.dtype, name="out")(h)


class SpatialTemporalAttention(nn.Module):
  """Spatial, then temporal self-attention of x [B,T,H,W,C].

  Mode "image" leaves the temporal half out.
  """

  heads: int
  temporal_length: int  # reach of relative positions, frames
  relative_position: bool
  rel_pos_key_transposed: bool
  cudnn: bool = False  # see ops.attention
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(
    self, x: jax.Array, context: jax.Array | None, mode: str
  ) -> jax.Array:
    """Applies the block; `context` is ignored, this block has no cross-attention."""
    b, t, h, w, c = x.shape
    attend = lambda reach, name: SelfAttention(
      self.heads, reach, self.rel_pos_key_transposed, self.cudnn, self.dtype, name=name
    )
    x = attend(0, "spatial_attention")(axes.fold(x.reshape(b, t, h * w, c)))
    x = axes.unfold(x, b, t)
    if mode == "image":
      return x.reshape(b, t, h, w, c)
    # Folding pixels into the rows gives each pixel norm statistics of its own.
    x = axes.fold(axes.by_pixel(x))
    reach = self.temporal_length if self.relative_position else 0
    x = attend(reach, "temporal_attention")(x)
    return axes.by_frame(axes.unfold(x, b, h * w)).reshape(b, t, h, w, c)
