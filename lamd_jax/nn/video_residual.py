# SPDX-License-Identifier: Apache-2.0
"""Residual block and time doubling of 3-D networks that pad with zeros.

Zeros at the ends of time, and not repeated frames: a decoder that starts from a single
frame has nothing but the border and its own parameters to tell frames apart. With
repeated borders and repeated frames all frames of such a decoder are equal, whatever
its weights.
"""

from __future__ import annotations

from typing import Any

from flax import linen as nn
import jax
from jax.ad_checkpoint import checkpoint_name
import jax.numpy as jnp

from lamd_jax.nn import initializers
from lamd_jax.nn.layers import Conv, Dense, GroupNorm
from lamd_jax.ops import axes

Triple = tuple[int, int, int]
EPSILON = 1e-6  # of the norms


class VideoResBlock(nn.Module):
  """x [B,T,H,W,C] + conv(SiLU(norm(conv(SiLU(norm(x)))))) -> [B,T,H,W,features]."""

  features: int
  groups: int
  kernel: Triple = (3, 3, 3)
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    h = x
    for i in range(2):
      h = nn.silu(GroupNorm(self.groups, EPSILON, name=f"norm_{i}")(h))
      h = Conv(self.features, self.kernel, dtype=self.dtype, name=f"conv_{i}")(h)
      h = checkpoint_name(h, "conv")
      width = "channels" if i == 0 else "whole"
      h = axes.constrain(h, "batch", "frames", "whole", "whole", width)
    if x.shape[-1] != self.features:
      x = Dense(self.features, dtype=self.dtype, name="skip")(x)
    return x + h


class DoubleTime(nn.Module):
  """x [B,T,H,W,C] -> [B,2T,H,W,C]: channels to time, and a vector per frame index.

  A pointwise map gives two vectors for each; they become neighbours in time (pixel
  shuffle along one axis). The learned vectors tell the network which frame is which.
  """

  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    b, t, h, w, c = x.shape
    y = Dense(2 * c, dtype=self.dtype, name="spread")(x).reshape(b, t, h, w, 2, c)
    y = y.transpose(0, 1, 4, 2, 3, 5).reshape(b, 2 * t, h, w, c)
    init = initializers.normal(0.02)
    place = self.param("frame_index", init, (2 * t, c)).astype(self.dtype)
    return y + place[:, None, None]
