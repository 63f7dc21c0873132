# SPDX-License-Identifier: Apache-2.0
"""Convolutions that repeat the border, so that an edge looks like more of the same.

Padding k - stride (one more before than after, if odd) makes the output of a
convolution 1/stride as long as its input, and that of a transposed one stride times
as long where k is 4 and the stride 1 or 2.
"""

from __future__ import annotations

from collections.abc import Sequence
import math
from typing import Any

from flax import linen as nn
import jax
import jax.numpy as jnp

from lamd_jax.nn import initializers
from lamd_jax.ops import axes
from lamd_jax.ops import conv_repeated

Triple = tuple[int, int, int]


class SamePadConv(nn.Module):
  """[B,T,H,W,I] -> [B,T/st,H/sh,W/sw,features], border repeated."""

  features: int
  kernel: Triple = (3, 3, 3)
  stride: Triple = (1, 1, 1)
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    fan_in = math.prod(self.kernel) * x.shape[-1]
    kernel, bias = _params(self, x.shape[-1], fan_in)
    return conv_repeated.conv(x.astype(self.dtype), kernel, bias, self.stride)


class SamePadConvTranspose(nn.Module):
  """[B,T,H,W,I] -> [B,T*st,H*sh,W*sw,features], border repeated; strides 1 or 2.

  The kernel is that of the convolution which follows the dilation, flipped against
  PyTorch's (`ops.conv.conv_transpose`).
  """

  features: int
  stride: Triple
  kernel: Triple = (4, 4, 4)
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    # PyTorch reads the fan off axis 1, which in a transposed weight are the outputs.
    fan_in = math.prod(self.kernel) * self.features
    kernel, bias = _params(self, x.shape[-1], fan_in)
    x = x.astype(self.dtype)
    return conv_repeated.conv_transpose(x, kernel, bias, self.stride)


def _params(
  module: SamePadConv | SamePadConvTranspose, width_in: int, fan_in: int
) -> Sequence[jax.Array]:
  init = initializers.fan_in_uniform(fan_in)
  shape = (*module.kernel, width_in, module.features)
  kernel = module.param("kernel", init, shape)
  bias = module.param("bias", init, (module.features,))
  kernel = axes.gathered(kernel.astype(module.dtype), module.name)
  return kernel, bias.astype(module.dtype)
