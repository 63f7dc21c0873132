# SPDX-License-Identifier: Apache-2.0
"""A convolution over time that starts as the identity.

It stands behind the 2-D convolutions of an image model's residual blocks (Gen-1, arXiv
2302.03011). How it is normalised and initialised is our choice; the paper says neither.
"""

from __future__ import annotations

from typing import Any

from flax import linen as nn
import jax
from jax.ad_checkpoint import checkpoint_name
import jax.numpy as jnp

from lamd_jax.nn.layers import Conv, GroupNorm


class TemporalConvolution(nn.Module):
  """x [B,T,H,W,C] + conv(SiLU(norm(x))), each pixel's frames among three neighbours.

  Before the first and after the last frame stand zeros. The norm's statistics are over
  the whole clip: those of one pixel would be of T numbers a channel.
  """

  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    h = nn.silu(GroupNorm(name="norm")(x))
    h = Conv(x.shape[-1], (3, 1, 1), zero_init=True, dtype=self.dtype, name="conv")(h)
    return x + checkpoint_name(h, "conv")
