# SPDX-License-Identifier: Apache-2.0
"""DPT: depth of a picture by a vision transformer (arXiv 2103.13413), given weights.

The tokens of four layers of the transformer become feature maps at strides 4, 8, 16
and 32 and are fused from the deepest to the finest. What comes out is *inverse* depth,
near is large, in no unit: free up to scale and shift, and so of no use before it is
normalised (`ops.depth.normalise`).

Two parts of the published network take no part in its output and are held for the sake
of its files: the transformer's last norm, and of the deepest fusion the unit that would
take in a coarser map.
"""

from __future__ import annotations

from typing import Any

import chex
from flax import linen as nn
import jax
import jax.numpy as jnp

from lamd_jax.nn import initializers
from lamd_jax.nn.layers import Conv, Dense, LayerNorm
from lamd_jax.nn.text_block import exact_gelu, TextBlock
from lamd_jax.ops import conv as conv_ops
from lamd_jax.ops import interpolation

# A picture's sides are multiples of so many patches: the deepest map is half the grid.
MULTIPLE = 2
_UPSAMPLED = (4, 2)  # times; the first two maps, by transposed convolution
_HEAD_WIDTH = 32


class Dpt(nn.Module):
  """Pictures [N,H,W,3] in [-1,1] -> inverse depth [N,H,W] float32, not negative."""

  width: int
  layers: int
  heads: int
  taps: tuple[int, int, int, int]  # layers whose tokens are used, counted from 0
  map_widths: tuple[int, int, int, int]  # channels of their maps, finest first
  features: int  # channels while fusing
  size: int = 384  # pixels, the side that the positions are learned for
  patch: int = 16  # pixels
  # MiDaS trained with 1e-6; the copy in transformers says 1e-12.
  epsilon: float = 1e-6
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, pictures: jax.Array) -> jax.Array:
    """Returns inverse depth, up to scale and shift.

    Args:
      pictures: [N,H,W,3] float in [-1,1], H and W multiples of 2 * patch. Positions
        are interpolated where the size is not `size`.
    """
    chex.assert_shape(pictures, (None, None, None, 3))
    height, width = pictures.shape[1:3]
    step = MULTIPLE * self.patch
    if height % step or width % step:
      raise ValueError(f"pictures of {height}x{width}; sides are multiples of {step}")
    grid = (height // self.patch, width // self.patch)
    tapped = self._transformer(self._tokens(pictures, grid))
    maps = [self._reassemble(i, tokens, grid) for i, tokens in enumerate(tapped)]
    x = None
    for i in reversed(range(len(maps))):
      narrow = Conv(self.features, use_bias=False, dtype=self.dtype, name=f"narrow_{i}")
      x = Fusion(self.dtype, name=f"fusion_{i}")(x, narrow(maps[i]))
    return self._head(x)

  def _tokens(self, pictures: jax.Array, grid: tuple[int, int]) -> jax.Array:
    """The class token and a token per patch, [N,1+h*w,width]."""
    init = initializers.normal(0.02)
    patch = (1, self.patch, self.patch)
    kernel = self.param("patch_kernel", init, (*patch, 3, self.width))
    bias = self.param("patch_bias", initializers.zeros, (self.width,))
    x = pictures[:, None].astype(self.dtype)
    x = conv_ops.conv(x, kernel.astype(self.dtype), patch) + bias.astype(self.dtype)
    x = x.reshape(len(x), -1, self.width)
    first = self.param("class_token", init, (1, 1, self.width)).astype(self.dtype)
    first = jnp.broadcast_to(first, (len(x), 1, self.width))
    side = self.size // self.patch
    positions = self.param("positions", init, (1, 1 + side * side, self.width))
    if grid != (side, side):
      table = positions[:, 1:].reshape(1, side, side, -1)
      matrices = (interpolation.bilinear(side, length) for length in grid)
      table = interpolation.resize(table, *matrices).reshape(1, -1, self.width)
      positions = jnp.concatenate([positions[:, :1], table], 1)
    return jnp.concatenate([first, x], 1) + positions.astype(self.dtype)

  def _transformer(self, x: jax.Array) -> list[jax.Array]:
    """The tokens after each tapped layer; no norm is applied to them."""
    everything = jnp.zeros((1, 1, 1, x.shape[1]))  # is seen by each token
    found = []
    for i in range(self.layers):
      block = TextBlock(
        self.heads, exact_gelu, self.dtype, self.epsilon, name=f"block_{i}"
      )
      x = block(x, everything)
      if i in self.taps:
        found.append(x)
    LayerNorm(self.epsilon, name="final_norm")(x)  # held, not used
    return found

  def _reassemble(self, i: int, x: jax.Array, grid: tuple[int, int]) -> jax.Array:
    """Tokens to map i, [N,1,h,w,map_widths[i]] at stride 4, 8, 16 or 32."""
    dense = lambda features, name: Dense(features, dtype=self.dtype, name=f"{name}_{i}")
    # Each patch hears what the class token has gathered.
    first = jnp.broadcast_to(x[:, :1], x[:, 1:].shape)
    x = jnp.concatenate([x[:, 1:], first], -1)
    x = exact_gelu(dense(self.width, "readout")(x))
    x = dense(self.map_widths[i], "project")(x)
    x = x.reshape(len(x), 1, *grid, -1)
    if i < len(_UPSAMPLED):
      return Spread(_UPSAMPLED[i], self.dtype, name=f"resize_{i}")(x)
    if i == len(self.taps) - 1:
      stride = (1, 2, 2)
      x = Conv(x.shape[-1], stride=stride, dtype=self.dtype, name=f"resize_{i}")(x)
    return x

  def _head(self, x: jax.Array) -> jax.Array:
    x = Conv(self.features // 2, dtype=self.dtype, name="head_0")(x)
    x = _double(x)
    x = nn.relu(Conv(_HEAD_WIDTH, dtype=self.dtype, name="head_1")(x))
    x = Dense(1, name="head_2")(x.astype(jnp.float32))
    return nn.relu(x)[:, 0, :, :, 0]


class Spread(nn.Module):
  """Each pixel becomes a square of pixels: [N,1,H,W,C] -> [N,1,kH,kW,C].

  A transposed convolution whose stride is its kernel's side; nothing overlaps. The
  kernel is laid out as PyTorch's, [I,O,k,k], not flipped.
  """

  times: int
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    n, t, h, w, c = x.shape
    k = self.times
    init = initializers.fan_in_uniform(c * k * k)
    kernel = self.param("kernel", init, (c, c, k, k)).astype(self.dtype)
    x = jnp.einsum("nthwi,ioab->nthawbo", x, kernel).reshape(n, t, h * k, w * k, c)
    return x + self.param("bias", init, (c,)).astype(self.dtype)


class Fusion(nn.Module):
  """Adds a map to what came from below and doubles it, [N,1,H,W,C] -> [N,1,2H,2W,C]."""

  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, below: jax.Array | None, x: jax.Array) -> jax.Array:
    """Takes below [N,1,H,W,C] or, at the deepest map, None; x [N,1,H,W,C]."""
    taken_in = Unit(self.dtype, name="unit_1")(x)
    if below is not None:
      x = below + taken_in
    x = _double(Unit(self.dtype, name="unit_2")(x))
    return Dense(x.shape[-1], dtype=self.dtype, name="out")(x)


class Unit(nn.Module):
  """Two convolutions, each behind a ReLU, inside a residual connection."""

  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    conv = lambda name: Conv(x.shape[-1], dtype=self.dtype, name=name)
    return x + conv("conv_2")(nn.relu(conv("conv_1")(nn.relu(x))))


def _double(x: jax.Array) -> jax.Array:
  """Bilinear, corners staying where they are: [N,1,H,W,C] -> [N,1,2H,2W,C]."""
  matrices = (interpolation.bilinear_corners(n, 2 * n) for n in x.shape[2:4])
  return interpolation.resize(x[:, 0], *matrices)[:, None]


# 343,030,465 parameters.
DPT_LARGE = Dpt(
  width=1024,
  layers=24,
  heads=16,
  taps=(5, 11, 17, 23),
  map_widths=(256, 512, 1024, 1024),
  features=256,
)
