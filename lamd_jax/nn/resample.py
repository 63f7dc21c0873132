# SPDX-License-Identifier: Apache-2.0
"""Halving and doubling of height and width; the number of frames never changes."""

from __future__ import annotations

from typing import Any

from flax import linen as nn
import jax
import jax.numpy as jnp

from lamd_jax.nn.layers import Conv


def nearest_up(x: jax.Array) -> jax.Array:
  """Repeats every pixel twice in height and width: [B,T,H,W,C] -> [B,T,2H,2W,C]."""
  b, t, h, w, c = x.shape
  x = jnp.broadcast_to(x[:, :, :, None, :, None], (b, t, h, 2, w, 2, c))
  return x.reshape(b, t, 2 * h, 2 * w, c)


def average_down(x: jax.Array) -> jax.Array:
  """Averages squares of 2x2 pixels: [B,T,H,W,C] -> [B,T,H/2,W/2,C]."""
  b, t, h, w, c = x.shape
  return x.reshape(b, t, h // 2, 2, w // 2, 2, c).mean((3, 5))


class Downsample(nn.Module):
  """Convolution with stride 2: [B,T,H,W,C] -> [B,T,H/2,W/2,C]."""

  temporal_kernel: int  # frames that a convolution sees
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    kernel = (self.temporal_kernel, 3, 3)
    return Conv(x.shape[-1], kernel, (1, 2, 2), dtype=self.dtype, name="conv")(x)


class Upsample(nn.Module):
  """Nearest neighbour, then a convolution: [B,T,H,W,C] -> [B,T,2H,2W,C]."""

  temporal_kernel: int  # frames that a convolution sees
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    kernel = (self.temporal_kernel, 3, 3)
    return Conv(x.shape[-1], kernel, dtype=self.dtype, name="conv")(nearest_up(x))
