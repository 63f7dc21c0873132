# SPDX-License-Identifier: Apache-2.0
"""CLIP's text tower (Radford et al., arXiv 2103.00020, section 2.4), for given weights.

LVDM's text-to-video model attends to the hidden states of all tokens after the last
norm, not to the pooled vector that CLIP itself compares with images.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import chex
from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from lamd_jax.nn import initializers
from lamd_jax.nn.layers import LayerNorm
from lamd_jax.nn.text_block import exact_gelu, HIDDEN, quick_gelu, TextBlock


class ClipText(nn.Module):
  """Tokens [B,N] int32 -> hidden states [B,N,width] float32, causal.

  The highest id of the vocabulary is the end of a text.
  """

  vocabulary: int
  width: int
  layers: int
  heads: int
  length: int  # tokens at most
  projection: int = 0  # width of what `pooled` returns; 0: `width`, not projected
  activation: Callable[[jax.Array], jax.Array] = quick_gelu
  dtype: Any = jnp.float32

  def setup(self) -> None:
    table = (self.vocabulary, self.width)
    self.tokens = self.param("tokens", initializers.normal(0.02), table)
    table = (self.length, self.width)
    self.positions = self.param("positions", initializers.normal(0.01), table)
    self.block = [
      TextBlock(self.heads, self.activation, self.dtype) for _ in range(self.layers)
    ]
    self.final_norm = LayerNorm()
    if self.projection:
      init = initializers.normal(self.width**-0.5)
      self.kernel = self.param("projection_kernel", init, (self.width, self.projection))

  def __call__(self, tokens: jax.Array) -> jax.Array:
    """Returns the hidden states after the last norm, [B,N,width] float32.

    Args:
      tokens: [B,N] int32 in [0,vocabulary), N at most `length`. An id outside gives
        NaN, not a neighbour's embedding.
    """
    chex.assert_rank(tokens, 2)
    count = tokens.shape[1]
    if count > self.length:
      raise ValueError(f"{count} tokens; this network has positions for {self.length}")
    x = jnp.take(self.tokens, tokens, axis=0, mode="fill", fill_value=jnp.nan)
    x = (x + self.positions[:count]).astype(self.dtype)
    # Padding needs no mask of its own: it comes last, where no earlier token looks.
    later = np.triu(np.full((count, count), HIDDEN, np.float32), 1)
    for block in self.block:
      x = block(x, jnp.asarray(later)[None, None])
    return self.final_norm(x.astype(jnp.float32))

  def pooled(self, tokens: jax.Array, hidden: jax.Array) -> jax.Array:
    """Returns the state of each text's first end token, [B,projection or width].

    Args:
      tokens: [B,N] int32, with an end token in each row.
      hidden: [B,N,width] float32, what `__call__` made of them.
    """
    chex.assert_equal_shape_prefix([tokens, hidden], 2)
    first = jnp.argmax(tokens == self.vocabulary - 1, axis=1)
    state = jnp.take_along_axis(hidden, first[:, None, None], axis=1)[:, 0]
    return state @ self.kernel if self.projection else state


_PUBLISHED = dict(vocabulary=49_408, length=77)
# 123,060,480 parameters; with projection=768, 123,650,304.
VIT_L_14 = ClipText(width=768, layers=12, heads=12, **_PUBLISHED)
# 63,428,096 and 354,032,640. H/14 is OpenCLIP's, with the exact GELU.
VIT_B_32 = ClipText(width=512, layers=12, heads=8, projection=512, **_PUBLISHED)
VIT_H_14 = ClipText(
  width=1024, layers=24, heads=16, projection=1024, activation=exact_gelu, **_PUBLISHED
)  # fmt: skip
# Those whose pooled texts are compared with pictures' features.
NETWORKS = {"b32": VIT_B_32, "l14": VIT_L_14.clone(projection=768), "h14": VIT_H_14}
