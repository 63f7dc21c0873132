# SPDX-License-Identifier: Apache-2.0
"""Networks from text embeddings to image embeddings: a regressor, a denoiser.

The denoiser is the diffusion prior of DALL-E 2 (Ramesh et al., arXiv 2204.06125,
section 2.2): a causal transformer that reads the caption, its embedding, the noise
level and the noisy image embedding, and answers at a learned last token with the clean
one (prediction "x0").
"""

from __future__ import annotations

from typing import Any

import chex
from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from lamd_jax.nn import initializers
from lamd_jax.nn.embeddings import TimeEmbedding
from lamd_jax.nn.layers import Dense, LayerNorm
from lamd_jax.nn.text_block import HIDDEN, TextBlock


def _gelu(x: jax.Array) -> jax.Array:
  return nn.gelu(x, approximate=False)


class Regressor(nn.Module):
  """Text embedding [B,D] -> image embedding [B,D] float32: two hidden layers.

  It predicts the difference of the two, none at the start.
  """

  width: int
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, text: jax.Array) -> jax.Array:
    chex.assert_rank(text, 2)
    x = _gelu(Dense(self.width, dtype=self.dtype, name="dense_0")(text))
    x = _gelu(Dense(self.width, dtype=self.dtype, name="dense_1")(x))
    change = Dense(text.shape[-1], zero_init=True, name="dense_2")
    return text + change(x.astype(jnp.float32))


class PriorTransformer(nn.Module):
  """A denoiser of image embeddings; `text` makes its context once for all steps."""

  embedding: int  # D
  width: int  # a multiple of 4 and of `heads`
  layers: int
  heads: int
  length: int  # tokens of a caption, L
  dtype: Any = jnp.float32

  def setup(self) -> None:
    dense = lambda: Dense(self.width, dtype=self.dtype)
    self.sequence, self.pooled, self.noisy = dense(), dense(), dense()
    self.time = TimeEmbedding(self.width // 4, self.dtype)
    init = initializers.normal(0.02)
    self.no_text = self.param("no_text", init, (self.length + 1, self.width))
    self.query = self.param("query", init, (self.width,))
    self.positions = self.param("positions", init, (self.length + 4, self.width))
    self.block = [TextBlock(self.heads, _gelu, self.dtype) for _ in range(self.layers)]
    self.final_norm = LayerNorm()
    self.head = Dense(self.embedding)

  def __call__(
    self, z: jax.Array, t: jax.Array, pooled: jax.Array, sequence: jax.Array
  ) -> jax.Array:
    """`denoise` after `text`."""
    return self.denoise(z, t, self.text(pooled, sequence), None)

  def text(self, pooled: jax.Array, sequence: jax.Array) -> jax.Array:
    """Returns the context [B,L+1,width] of a caption: tokens' states, embedding.

    Args:
      pooled: [B,D] float.
      sequence: [B,L,W] float.
    """
    chex.assert_shape(sequence, (None, self.length, None))
    parts = [self.sequence(sequence), self.pooled(pooled)[:, None]]
    return jnp.concatenate(parts, 1)

  def denoise(
    self, z: jax.Array, t: jax.Array, context: jax.Array, keep: jax.Array | None
  ) -> jax.Array:
    """Returns the clean embedding that z stands for, [B,D] float32.

    Args:
      z: [B,D] float32, noisy, of unit variance.
      t: [B] float, schedule position.
      context: [B,L+1,width], what `text` made.
      keep: [B] float in {0,1}; 0 replaces a row's context by the learned null. None
        keeps all.
    """
    chex.assert_shape(z, (None, self.embedding))
    if keep is not None:
      context = jnp.where(keep[:, None, None] != 0, context, self.no_text)
    query = jnp.broadcast_to(self.query, (len(z), self.width))
    last = jnp.stack([self.time(t), self.noisy(z), query.astype(self.dtype)], 1)
    x = jnp.concatenate([context.astype(self.dtype), last], 1)
    x = x + self.positions.astype(self.dtype)
    count = x.shape[1]
    later = np.triu(np.full((count, count), HIDDEN, np.float32), 1)
    for block in self.block:
      x = block(x, jnp.asarray(later)[None, None])
    return self.head(self.final_norm(x[:, -1].astype(jnp.float32)))
