# SPDX-License-Identifier: Apache-2.0
"""Inflated Inception-v1 (I3D; Carreira and Zisserman, arXiv 1705.07750), for inference.

The network behind FVD, for given weights. What FVD compares are the class scores
*before* the softmax, averaged over time. The epsilon of its batch norms is a field
because published scores differ in it: the weights were trained with 1e-3, a popular
port runs them with 1e-5.
"""

from __future__ import annotations

import math
from typing import Any

import chex
from flax import linen as nn
import jax
from jax import lax
import jax.numpy as jnp

from lamd_jax.nn import initializers
from lamd_jax.ops import conv as conv_ops

Triple = tuple[int, int, int]

SIZE = 224  # pixels; the last pool covers 7x7 of 32 pixels each
MIN_FRAMES = 9  # with 8 the last pool, two frames long, finds one

# Output widths of the branches of each mixed block: 1x1; 1x1 then 3x3x3; 1x1 then
# 3x3x3; max-pool then 1x1. A max-pool (window, stride) stands before 3b, 4b and 5b.
_MIXED = (
  ("Mixed_3b", (64, 96, 128, 16, 32, 32)),
  ("Mixed_3c", (128, 128, 192, 32, 96, 64)),
  ("Mixed_4b", (192, 96, 208, 16, 48, 64)),
  ("Mixed_4c", (160, 112, 224, 24, 64, 64)),
  ("Mixed_4d", (128, 128, 256, 24, 64, 64)),
  ("Mixed_4e", (112, 144, 288, 32, 64, 64)),
  ("Mixed_4f", (256, 160, 320, 32, 128, 128)),
  ("Mixed_5b", (256, 160, 320, 32, 128, 128)),
  ("Mixed_5c", (384, 192, 384, 48, 128, 128)),
)
_POOL_BEFORE = {
  "Mixed_3b": ((1, 3, 3), (1, 2, 2)),
  "Mixed_4b": ((3, 3, 3), (2, 2, 2)),
  "Mixed_5b": ((2, 2, 2), (2, 2, 2)),
}


def same(shape: tuple[int, ...], window: Triple, stride: Triple):
  """TensorFlow's SAME padding of the axes `shape`: an odd pixel goes behind."""
  pads = []
  for n, k, s in zip(shape, window, stride):
    total = max((math.ceil(n / s) - 1) * s + k - n, 0)
    pads.append((total // 2, total - total // 2))
  return tuple(pads)


def max_pool(x: jax.Array, window: Triple, stride: Triple) -> jax.Array:
  """Max-pool of x [B,T,H,W,C], SAME; what is padded never wins."""
  pads = ((0, 0), *same(x.shape[1:4], window, stride), (0, 0))
  return lax.reduce_window(
    x, -jnp.inf, lax.max, (1, *window, 1), (1, *stride, 1), pads
  )


class Unit(nn.Module):
  """Convolution without bias, batch norm with stored statistics, ReLU.

  x [B,T,H,W,I] -> [B,T',H',W',O]. Statistics are parameters: nothing is trained here.
  """

  features: int
  kernel: Triple
  stride: Triple
  epsilon: float

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    shape = (*self.kernel, x.shape[-1], self.features)
    # He et al.'s scale: without weights, random features keep their size in depth.
    init = initializers.normal(math.sqrt(2 / math.prod(shape[:-1])))
    kernel = self.param("kernel", init, shape)
    of = lambda name, init: self.param(name, init, (self.features,))
    scale, bias = of("scale", initializers.ones), of("bias", initializers.zeros)
    mean, variance = of("mean", initializers.zeros), of("var", initializers.ones)
    pads = same(x.shape[1:4], self.kernel, self.stride)
    y = conv_ops.conv(x, kernel, self.stride, pads)
    # In this order and not folded into one factor, as the references compute it.
    return jax.nn.relu((y - mean) * lax.rsqrt(variance + self.epsilon) * scale + bias)


class Mixed(nn.Module):
  """Four branches side by side; x [B,T,H,W,I] -> the same size, channels joined."""

  widths: tuple[int, ...]
  epsilon: float

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    def unit(name, index, size):
      return Unit(self.widths[index], (size,) * 3, (1, 1, 1), self.epsilon, name=name)

    pooled = max_pool(x, (3, 3, 3), (1, 1, 1))
    branches = (
      unit("b0", 0, 1)(x),
      unit("b1b", 2, 3)(unit("b1a", 1, 1)(x)),
      unit("b2b", 4, 3)(unit("b2a", 3, 1)(x)),
      unit("b3b", 5, 1)(pooled),
    )
    return jnp.concatenate(branches, -1)


class I3D(nn.Module):
  """Clips [B,T,224,224,3] float in [-1,1] -> class scores [B,classes] float32.

  `divide` is 1 in the published network. Tests divide all widths, and `pool` is then
  the edge of the last average for smaller pictures.
  """

  epsilon: float
  classes: int = 400
  divide: int = 1
  pool: int = 7

  @nn.compact
  def __call__(self, x: jax.Array, stages: dict[str, Any] | None = None) -> jax.Array:
    """Returns scores before the softmax, averaged over time.

    Args:
      x: [B,T,H,W,3] float32 in [-1,1], H = W = 32 `pool`, T at least 9.
      stages: a dict that receives the outputs of the first stage and the mixed blocks.
    """
    chex.assert_rank(x, 5)
    if x.shape[1] < MIN_FRAMES:
      raise ValueError(f"{x.shape[1]} frames; I3D needs {MIN_FRAMES} or more")
    seen = {} if stages is None else stages
    width = lambda n: n // self.divide

    def unit(x, name, features, size, stride):
      size, stride = (size,) * 3, (stride,) * 3
      return Unit(width(features), size, stride, self.epsilon, name=name)(x)

    x = seen["Conv3d_1a_7x7"] = unit(x, "Conv3d_1a_7x7", 64, 7, 2)
    x = max_pool(x, (1, 3, 3), (1, 2, 2))
    x = unit(x, "Conv3d_2b_1x1", 64, 1, 1)
    x = unit(x, "Conv3d_2c_3x3", 192, 3, 1)
    for name, widths in _MIXED:
      if name in _POOL_BEFORE:
        x = max_pool(x, *_POOL_BEFORE[name])
      widths = tuple(width(n) for n in widths)
      x = seen[name] = Mixed(widths, self.epsilon, name=name)(x)
    edge = (1, 2, self.pool, self.pool, 1)
    x = lax.reduce_window(x, 0.0, lax.add, edge, (1,) * 5, "VALID") / math.prod(edge)
    # One position is left of a 224-pixel picture; of another there would be more.
    chex.assert_equal(x.shape[2:4], (1, 1))
    init = initializers.normal(math.sqrt(1 / x.shape[-1]))
    shape = (1, 1, 1, x.shape[-1], self.classes)
    kernel = self.param("logits_kernel", init, shape)[0, 0, 0]
    bias = self.param("logits_bias", initializers.zeros, (self.classes,))
    return (x[:, :, 0, 0] @ kernel + bias).mean(1)
