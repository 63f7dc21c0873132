# SPDX-License-Identifier: Apache-2.0
"""Blocks of the per-frame autoencoder (latent diffusion, arXiv 2112.10752).

They work on images as clips of one frame, so that norm statistics and attention
never reach beyond a frame. Not to be confused with the UNet's residual block, which
takes an embedding and starts as the identity.
"""

from __future__ import annotations

import math
from typing import Any

from flax import linen as nn
import jax
from jax.ad_checkpoint import checkpoint_name
import jax.numpy as jnp

from lamd_jax.nn.layers import Conv, Dense, GroupNorm
from lamd_jax.ops import attention as attention_ops

EPSILON = 1e-6  # of the norms


class ImageResBlock(nn.Module):
  """x [N,1,H,W,C] + conv(SiLU(norm(conv(SiLU(norm(x)))))) -> [N,1,H,W,features]."""

  features: int
  groups: int
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    h = x
    for i in range(2):
      h = nn.silu(GroupNorm(self.groups, EPSILON, name=f"norm_{i}")(h))
      h = Conv(self.features, dtype=self.dtype, name=f"conv_{i}")(h)
      h = checkpoint_name(h, "conv")
    if x.shape[-1] != self.features:
      x = Dense(self.features, dtype=self.dtype, name="skip")(x)
    return x + h


class ImageAttention(nn.Module):
  """x [N,1,H,W,C] + attention of one head over the pixels of each image."""

  groups: int
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    channels = x.shape[-1]
    h = GroupNorm(self.groups, EPSILON, name="norm")(x)
    project = lambda name: Dense(channels, dtype=self.dtype, name=name)
    heads = lambda a: a.reshape(x.shape[0], -1, 1, channels)
    q, k, v = (heads(project(name)(h)) for name in ("q", "k", "v"))
    h = attention_ops.attention(q, k, v, 1 / math.sqrt(channels))
    return x + project("out")(h.reshape(x.shape))
