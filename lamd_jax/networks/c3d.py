# SPDX-License-Identifier: Apache-2.0
"""C3D (Tran et al., arXiv 1412.0767), fine-tuned on UCF-101: the inception score's.

For given weights, as TGAN2 published them. Its input is peculiar: blue, green, red,
scaled to 128 about 0, resized with corners aligned, less the training set's mean video.
"""

from __future__ import annotations

import math

import chex
from flax import linen as nn
import jax
from jax import lax
import jax.numpy as jnp
import numpy as np

from lamd_jax.nn import initializers
from lamd_jax.ops import conv as conv_ops

FRAMES = 16
SIZE = 112  # pixels
_MEAN_CROP = slice(8, 8 + SIZE)  # the mean video is 128x171

# Convolutions 3x3x3, then the pool that follows the last of a stage.
_STAGES = (
  ((("conv1a", 64),), (1, 2, 2)),
  ((("conv2a", 128),), (2, 2, 2)),
  ((("conv3a", 256), ("conv3b", 256)), (2, 2, 2)),
  ((("conv4a", 512), ("conv4b", 512)), (2, 2, 2)),
  ((("conv5a", 512), ("conv5b", 512)), (2, 2, 2)),
)
HIDDEN = 4096


def _pool(x: jax.Array, window: tuple[int, int, int]) -> jax.Array:
  """Max-pool of x [B,T,H,W,C] in whole windows; the last may reach past the end."""
  pads = [(0, -n % k) for n, k in zip(x.shape[1:4], window)]
  full = (1, *window, 1)
  return lax.reduce_window(
    x, -jnp.inf, lax.max, full, full, ((0, 0), *pads, (0, 0))
  )


def aligned(length: int, size: int) -> np.ndarray:
  """Matrix [size,length] of bilinear resizing that keeps the first and last pixel."""
  at = np.arange(size) * (length - 1) / max(1, size - 1)
  low = np.minimum(np.floor(at).astype(int), max(0, length - 2))
  matrix = np.zeros((size, length), np.float32)
  rows = np.arange(size)
  matrix[rows, low] += 1 - (at - low)
  matrix[rows, np.minimum(low + 1, length - 1)] += at - low
  return matrix


def prepare(clips: jax.Array, mean: jax.Array, size: int = SIZE) -> jax.Array:
  """Clips [B,16,H,W,3] float in [-1,1] -> what the network takes, [B,16,size,size,3].

  Args:
    clips: red, green, blue.
    mean: [16,size,size,3], blue, green, red, grey levels.
    size: of the output.
  """
  rows, columns = (aligned(length, size) for length in clips.shape[2:4])
  x = clips[..., ::-1] * 128
  x = jnp.einsum("oh,bthwc->btowc", rows, x, precision="highest")
  x = jnp.einsum("ow,bthwc->bthoc", columns, x, precision="highest")
  return x + 128 - mean


class C3D(nn.Module):
  """Prepared clips [B,16,112,112,3] -> class scores [B,classes] before the softmax.

  `divide` is 1 in the published network; tests divide all widths.
  """

  classes: int = 101
  divide: int = 1

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    chex.assert_rank(x, 5)
    chex.assert_axis_dimension(x, 1, FRAMES)
    for convolutions, window in _STAGES:
      for name, width in convolutions:
        shape = (3, 3, 3, x.shape[-1], width // self.divide)
        kernel, bias = self._pair(name, shape)
        x = jax.nn.relu(conv_ops.conv(x, kernel, padding=((1, 1),) * 3) + bias)
      x = _pool(x, window)
    # The linear layers were trained on channels first.
    x = jnp.moveaxis(x, -1, 1).reshape(len(x), -1)
    for name, width in (
      ("fc6", HIDDEN // self.divide), ("fc7", HIDDEN // self.divide), ("fc8", None),
    ):  # fmt: skip
      kernel, bias = self._pair(name, (x.shape[-1], width or self.classes))
      x = x @ kernel + bias
      x = jax.nn.relu(x) if width else x
    return x

  def _pair(self, name: str, shape: tuple[int, ...]) -> tuple[jax.Array, jax.Array]:
    """Kernel of `shape` and bias, under names with the layer's in front."""
    init = initializers.normal(math.sqrt(2 / math.prod(shape[:-1])))
    kernel = self.param(f"{name}_kernel", init, shape)
    return kernel, self.param(f"{name}_bias", initializers.zeros, (shape[-1],))


def crop_mean(mean: np.ndarray) -> np.ndarray:
  """The published mean video [3,16,128,171] as `prepare` takes it."""
  chex.assert_shape(mean, (3, FRAMES, 128, 171))
  return np.ascontiguousarray(mean[:, :, _MEAN_CROP, _MEAN_CROP].transpose(1, 2, 3, 0))
