# SPDX-License-Identifier: Apache-2.0
"""CLIP's image tower, a vision transformer (Radford et al., arXiv 2103.00020).

For given weights. Its projected output is what CLIPSIM and frame consistency compare,
and what Gen-1 conditions on.
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
from lamd_jax.nn.text_block import exact_gelu, quick_gelu, TextBlock
from lamd_jax.ops import conv as conv_ops

# What all published CLIPs subtract and divide by, of pixels in [0,1].
MEAN = np.array([0.48145466, 0.4578275, 0.40821073], np.float32)
STD = np.array([0.26862954, 0.26130258, 0.27577711], np.float32)


class ClipImage(nn.Module):
  """Pictures [B,S,S,3] float32, normalised -> features [B,projection] float32."""

  width: int
  layers: int
  heads: int
  patch: int  # pixels
  projection: int
  activation: Callable[[jax.Array], jax.Array] = quick_gelu
  size: int = 224  # pixels, S
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, pictures: jax.Array) -> jax.Array:
    """Returns the projected class token, not of unit length.

    Args:
      pictures: [B,S,S,3], (x - MEAN) / STD of pixels x in [0,1].
    """
    chex.assert_shape(pictures, (None, self.size, self.size, 3))
    init = initializers.normal(self.width**-0.5)
    patch = (1, self.patch, self.patch)
    kernel = self.param("patch_kernel", init, (*patch, 3, self.width))
    x = conv_ops.conv(
      pictures[:, None].astype(self.dtype), kernel.astype(self.dtype), patch
    )
    x = x.reshape(len(x), -1, self.width)
    first = self.param("class_embedding", init, (self.width,))
    first = jnp.broadcast_to(first.astype(self.dtype), (len(x), 1, self.width))
    x = jnp.concatenate([first, x], 1)
    x = x + self.param("positions", init, x.shape[1:]).astype(self.dtype)
    x = LayerNorm(name="pre_norm")(x)
    everything = jnp.zeros((1, 1, 1, x.shape[1]))  # is seen by each token
    for i in range(self.layers):
      block = TextBlock(self.heads, self.activation, self.dtype, name=f"block_{i}")
      x = block(x, everything)
    x = LayerNorm(name="post_norm")(x[:, 0].astype(jnp.float32))
    return x @ self.param("projection_kernel", init, (self.width, self.projection))


# 87,849,216, 303,966,208 and 632,076,800 parameters.
VIT_B_32 = ClipImage(width=768, layers=12, heads=12, patch=32, projection=512)
VIT_L_14 = ClipImage(width=1024, layers=24, heads=16, patch=14, projection=768)
VIT_H_14 = ClipImage(
  width=1280, layers=32, heads=16, patch=14, projection=1024, activation=exact_gelu
)  # fmt: skip
NETWORKS = {"b32": VIT_B_32, "l14": VIT_L_14, "h14": VIT_H_14}
