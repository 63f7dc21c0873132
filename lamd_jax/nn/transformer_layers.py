# SPDX-License-Identifier: Apache-2.0
"""What transformer blocks are made of: attention, a gated feed-forward layer.

Norms and residual connections are the blocks' own.
"""

from __future__ import annotations

import math
from typing import Any

from flax import linen as nn
import jax
from jax.ad_checkpoint import checkpoint_name
import jax.numpy as jnp

from lamd_jax.nn import initializers
from lamd_jax.nn.layers import Dense
from lamd_jax.ops import attention as attention_ops
from lamd_jax.ops import axes


class Attention(nn.Module):
  """Attention from x [N,Q,C] to context [N,K,D] -> [N,Q,C], without residual."""

  heads: int
  reach: int = 0  # L of the relative tables, steps; 0: no relative positions
  zero_init: bool = False  # of every projection, not only the last
  cudnn: bool = False  # see ops.attention
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array, context: jax.Array) -> jax.Array:
    n, queries, channels = x.shape
    keys = context.shape[1]
    width = channels // self.heads

    def project(features: jax.Array, name: str) -> jax.Array:
      dense = Dense(channels, False, self.zero_init, self.dtype, name=name)
      return checkpoint_name(dense(features), "conv").reshape(n, -1, self.heads, width)

    q, k, v = project(x, "q"), project(context, "k"), project(context, "v")
    scale = 1 / math.sqrt(width)
    positions = None
    if self.reach:
      shape = (2 * self.reach + 1, width)
      init = initializers.glorot_uniform()
      key_table = self.param("key_positions", init, shape)
      value_table = self.param("value_positions", init, shape)
      lookup = lambda table: attention_ops.relative_positions(table, queries, keys)
      # Never transposed, unlike the bias of the models of short clips.
      positions = attention_ops.Positions(
        lookup(key_table), lookup(value_table), scale, transposed=False
      )
    h = attention_ops.attention(
      q, k, v, scale, positions=positions, cudnn=self.cudnn
    )
    h = h.reshape(n, queries, channels)
    return Dense(channels, True, self.zero_init, self.dtype, name="out")(h)


class FeedForward(nn.Module):
  """GEGLU of four times the width, with the exact (erf) GELU."""

  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    channels = x.shape[-1]
    h = Dense(8 * channels, dtype=self.dtype, name="in")(x)
    value, gate = jnp.split(checkpoint_name(h, "conv"), 2, axis=-1)
    h = value * nn.gelu(gate, approximate=False)
    h = axes.constrain(h, *("free",) * (h.ndim - 1), "channels")
    return Dense(channels, dtype=self.dtype, name="out")(h)
