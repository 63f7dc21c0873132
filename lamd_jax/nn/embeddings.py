# SPDX-License-Identifier: Apache-2.0
"""Embeddings of time and of classes: vectors that every residual block receives."""

from __future__ import annotations

import math
from typing import Any

from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from lamd_jax.nn import initializers
from lamd_jax.nn.layers import Dense


_MAX_PERIOD = 10_000.0  # the longest period is 2 pi times this


def sinusoidal(t: jax.Array, features: int) -> jax.Array:
  """Embeds schedule positions: cosines first, then sines (not the other way round).

  Args:
    t: [...] float, schedule position, fractions allowed.
    features: length of the embedding; an odd one ends in a zero.

  Returns:
    [...,features] float32.
  """
  half = features // 2
  frequencies = np.exp(np.arange(half) * (-math.log(_MAX_PERIOD) / half))
  angles = t.astype(jnp.float32)[..., None] * frequencies.astype(np.float32)
  parts = [jnp.cos(angles), jnp.sin(angles)]
  if features % 2:
    parts.append(jnp.zeros_like(angles[..., :1]))
  return jnp.concatenate(parts, axis=-1)


class TimeEmbedding(nn.Module):
  """Schedule position [B] or [B,T] -> [B,4C] or [B,T,4C], C = `channels`."""

  channels: int
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, t: jax.Array) -> jax.Array:
    emb = sinusoidal(t, self.channels)
    emb = Dense(4 * self.channels, name="dense_0", dtype=self.dtype)(emb)
    return Dense(4 * self.channels, name="dense_1", dtype=self.dtype)(nn.silu(emb))


class ClassEmbedding(nn.Module):
  """A learned vector per class.

  The table exists whether or not a call brings classes, so that the parameters do
  not depend on the batch they were initialised with. A class outside the table gives
  NaN, not a neighbour's vector.
  """

  classes: int
  features: int
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, index: jax.Array | None) -> jax.Array | None:
    """Index [B] int -> [B,features], or None -> None."""
    table = self.param(
      "table", initializers.normal(1.0), (self.classes, self.features)
    )
    if index is None:
      return None
    return jnp.take(table, index, axis=0, mode="fill").astype(self.dtype)
