# SPDX-License-Identifier: Apache-2.0
"""The transformer block of an image UNet that was given a sense of time."""

from __future__ import annotations

from typing import Any

from flax import linen as nn
import jax
import jax.numpy as jnp

from lamd_jax.nn.spatial_transformer import SpatialTransformer
from lamd_jax.nn.temporal_transformer import TemporalTransformer


class Pseudo3DTransformer(nn.Module):
  """A spatial and then a temporal transformer of x [B,T,H,W,C].

  Mode "image" leaves the temporal one out.
  """

  heads: int
  head_channels: int  # channels a head, so that wide blocks have more heads; 0: `heads`
  temporal: bool  # with a temporal transformer
  frame_positions: int  # T at most
  temporal_cross_attention: bool  # the temporal transformer too attends to the context
  cudnn: bool = False  # see ops.attention
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(
    self, x: jax.Array, context: jax.Array | None, mode: str
  ) -> jax.Array:
    """Applies the block; without a context [B,N,D] nothing attends to one."""
    spatial = SpatialTransformer(
      self.heads, self.head_channels, self.cudnn, self.dtype, name="spatial"
    )
    x = spatial(x, context, mode)
    if not self.temporal or mode == "image":
      return x
    temporal = TemporalTransformer(
      x.shape[-1] // self.head_channels if self.head_channels else self.heads,
      self.frame_positions,
      self.temporal_cross_attention,
      self.dtype,
      name="temporal_transformer",
    )
    return temporal(x, context)
