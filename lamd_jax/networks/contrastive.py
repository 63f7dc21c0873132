# SPDX-License-Identifier: Apache-2.0
"""A small contrastive image-text encoder, where CLIP's weights are not at hand.

Two towers whose outputs are compared by cosine, and the temperature of their loss
(Radford et al., arXiv 2103.00020, section 2.3). It is made for frames of 32 to 128
pixels and captions of hashed words, and knows nothing beyond what it was trained on.
"""

from __future__ import annotations

import math
from typing import Any

import chex
from flax import linen as nn
import jax
import jax.numpy as jnp

from lamd_jax.networks import text_encoder
from lamd_jax.nn import initializers
from lamd_jax.nn.layers import Conv, Dense, GroupNorm

_MULTIPLES = (1, 2, 4, 4)  # channels of the convolutions, each of stride 2
_GROUPS = 8
_SCALE = 1 / 0.07  # CLIP's first temperature, inverted
_LARGEST_SCALE = 100.0  # section 2.4: beyond it training is unstable


class ImageTower(nn.Module):
  """Pictures [N,H,W,3] float in [-1,1] -> [N,width] float32; any size from 16 on.

  Mean and maximum over places, side by side: what fills the picture, and what is in
  it however small.
  """

  channels: int  # of the first convolution, a multiple of 8
  width: int
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, pictures: jax.Array) -> jax.Array:
    """Returns features that are not of unit length."""
    chex.assert_rank(pictures, 4)
    x = pictures[:, None]
    for i, multiple in enumerate(_MULTIPLES):
      x = Conv(
        multiple * self.channels, (1, 3, 3), (1, 2, 2), dtype=self.dtype,
        name=f"conv_{i}",
      )(x)  # fmt: skip
      x = nn.silu(GroupNorm(_GROUPS, name=f"norm_{i}")(x))
    x = x.astype(jnp.float32)
    pooled = jnp.concatenate([x.mean((1, 2, 3)), x.max((1, 2, 3))], -1)
    return Dense(self.width, name="projection")(pooled)


class Contrastive(nn.Module):
  """Both towers and the temperature; `images` and `texts` are its two halves."""

  width: int  # of the embedding both share
  image_channels: int
  text_width: int
  text_layers: int
  text_heads: int
  vocabulary: int
  length: int  # tokens of a caption
  pad: int  # the tokenizer's id of padding
  dtype: Any = jnp.float32

  def setup(self) -> None:
    self.image_tower = ImageTower(self.image_channels, self.width, self.dtype)
    self.text_tower = text_encoder.TextEncoder(
      self.vocabulary, self.text_width, self.text_layers, self.text_heads,
      self.length, self.pad, self.dtype,
    )  # fmt: skip
    self.text_projection = Dense(self.width, use_bias=False)
    self.log_scale = self.param(
      "log_scale", initializers.constant(math.log(_SCALE)), ()
    )

  def __call__(
    self, pictures: jax.Array, tokens: jax.Array
  ) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Returns (images [N,width], texts [N,width], scale), unit rows, scale [] float32.

    Args:
      pictures: [N,H,W,3] float in [-1,1].
      tokens: [N,L] int32.
    """
    scale = jnp.minimum(jnp.exp(self.log_scale), _LARGEST_SCALE)
    return self.images(pictures), self.texts(tokens)[0], scale

  def images(self, pictures: jax.Array) -> jax.Array:
    """Pictures [N,H,W,3] float in [-1,1] -> unit rows [N,width] float32."""
    return unit(self.image_tower(pictures))

  def texts(self, tokens: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Tokens [N,L] -> (unit rows [N,width], states of all tokens [N,L,text_width])."""
    states = self.text_tower(tokens)
    seen = (tokens != self.pad)[..., None].astype(jnp.float32)
    mean = (states * seen).sum(1) / jnp.maximum(seen.sum(1), 1.0)
    return unit(self.text_projection(mean)), states


def unit(x: jax.Array) -> jax.Array:
  """Rows [...,D] at length 1, in float32; a row of zeros stays."""
  x = x.astype(jnp.float32)
  return x * jax.lax.rsqrt(jnp.square(x).sum(-1, keepdims=True) + 1e-12)
