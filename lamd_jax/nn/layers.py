# SPDX-License-Identifier: Apache-2.0
"""Convolution, dense and norm layers: parameters in float32, compute in `dtype`."""

from __future__ import annotations

import math
from typing import Any

from flax import linen as nn
import jax
import jax.numpy as jnp

from lamd_jax.nn import initializers
from lamd_jax.ops import axes
from lamd_jax.ops import conv as conv_ops


class Conv(nn.Module):
  """Convolution over a clip [B,T,H,W,I] -> [B,T',H',W',O], kernel [kt,kh,kw,I,O].

  Padding is with zeros, (k-1)//2 on both sides of each axis unless `padding` says
  otherwise. Initialised as PyTorch does, unless `zero_init`.
  """

  features: int
  kernel: tuple[int, int, int] = (1, 3, 3)
  stride: tuple[int, int, int] = (1, 1, 1)
  padding: tuple[tuple[int, int], ...] | None = None
  use_bias: bool = True
  zero_init: bool = False
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    fan_in = math.prod(self.kernel) * x.shape[-1]
    zeros = initializers.zeros
    init = zeros if self.zero_init else initializers.fan_in_uniform(fan_in)
    kernel = self.param("kernel", init, (*self.kernel, x.shape[-1], self.features))
    padding = self.padding
    if padding is None:
      padding = tuple(((k - 1) // 2, (k - 1) // 2) for k in self.kernel)
    kernel = axes.gathered(kernel.astype(self.dtype), self.name)
    y = conv_ops.conv(x.astype(self.dtype), kernel, self.stride, padding)
    if self.use_bias:
      y = y + self.param("bias", init, (self.features,)).astype(self.dtype)
    return y


class Dense(nn.Module):
  """Linear map of the last axis. Initialised as PyTorch does, unless `zero_init`."""

  features: int
  use_bias: bool = True
  zero_init: bool = False
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    fan_in = x.shape[-1]
    zeros = initializers.zeros
    init = zeros if self.zero_init else initializers.fan_in_uniform(fan_in)
    kernel = self.param("kernel", init, (fan_in, self.features))
    y = x.astype(self.dtype) @ axes.gathered(kernel.astype(self.dtype), self.name)
    if self.use_bias:
      y = y + self.param("bias", init, (self.features,)).astype(self.dtype)
    return y


class GroupNorm(nn.Module):
  """Group normalisation of x [B,...,C] over all axes but the first.

  Statistics are per row and group, two-pass, in float32; the caller folds whatever
  shall have statistics of its own (frames, pixels) into the first axis.
  """

  groups: int = 32
  epsilon: float = 1e-5

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    channels = x.shape[-1]
    if channels % self.groups:  # which a reshape would mix up without a word
      raise ValueError(f"{channels} channels are no multiple of {self.groups} groups")
    scale = self.param("scale", initializers.ones, (channels,))
    bias = self.param("bias", initializers.zeros, (channels,))
    wide, axes = x.astype(jnp.float32), tuple(range(1, x.ndim - 1))
    centred = wide - self._of_groups(wide.mean(axes, keepdims=True))
    variance = self._of_groups(jnp.square(centred).mean(axes, keepdims=True))
    rate = jax.lax.rsqrt(variance + self.epsilon) * scale
    return (centred * rate + bias).astype(x.dtype)

  def _of_groups(self, means: jax.Array) -> jax.Array:
    """Averages the channels' means [B,1,...,C] over groups; each channel gets its own.

    As a product of small matrices: x keeps its layout, whose last axis fills a vector,
    and no part of this is computed anew for each element of x (benchmarks/NOTES.md, 13).
    """
    size = means.shape[-1] // self.groups
    each = means.reshape(len(means), self.groups, size)
    average = jnp.full((size, size), 1 / size, jnp.float32)
    return jnp.matmul(each, average, precision="highest").reshape(means.shape)


class LayerNorm(nn.Module):
  """Layer normalisation of the last axis: two-pass statistics in float32."""

  epsilon: float = 1e-5

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    scale = self.param("scale", initializers.ones, (x.shape[-1],))
    bias = self.param("bias", initializers.zeros, (x.shape[-1],))
    wide = x.astype(jnp.float32)
    centred = wide - wide.mean(-1, keepdims=True)
    variance = jnp.square(centred).mean(-1, keepdims=True)
    normed = centred * jax.lax.rsqrt(variance + self.epsilon)
    return (normed * scale + bias).astype(x.dtype)
