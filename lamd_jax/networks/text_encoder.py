# SPDX-License-Identifier: Apache-2.0
"""A small text encoder that is trained together with the network it conditions."""

from __future__ import annotations

from typing import Any

import chex
from flax import linen as nn
import jax
import jax.numpy as jnp

from lamd_jax.nn import initializers
from lamd_jax.nn.layers import LayerNorm
from lamd_jax.nn.text_block import HIDDEN, TextBlock


class TextEncoder(nn.Module):
  """Tokens [B,N] int32 -> [B,N,width] float32; each token sees all but padding.

  Padding keeps an embedding of its own, so that N states come out whatever the text.
  A tokenizer that pads with its end id has its ends hidden as well.
  """

  vocabulary: int
  width: int
  layers: int
  heads: int
  length: int  # tokens at most
  pad: int  # the tokenizer's id of padding
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, tokens: jax.Array) -> jax.Array:
    """Takes tokens [B,N] int32 in [0,vocabulary); an id outside gives NaN."""
    chex.assert_rank(tokens, 2)
    count = tokens.shape[1]
    if count > self.length:
      raise ValueError(f"{count} tokens; this network has positions for {self.length}")
    init = initializers.normal(0.02)
    table = self.param("tokens", init, (self.vocabulary, self.width))
    positions = self.param("positions", init, (self.length, self.width))
    x = jnp.take(table, tokens, axis=0, mode="fill", fill_value=jnp.nan)
    x = (x + positions[:count]).astype(self.dtype)
    bias = jnp.where(tokens == self.pad, HIDDEN, 0.0)[:, None, None]
    gelu = lambda h: nn.gelu(h, approximate=False)
    for i in range(self.layers):
      x = TextBlock(self.heads, gelu, self.dtype, name=f"block_{i}")(x, bias)
    return LayerNorm(name="final_norm")(x.astype(jnp.float32))
