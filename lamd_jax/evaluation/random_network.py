# SPDX-License-Identifier: Apache-2.0
"""A small 3-D network with fixed random weights: features without any download.

Random features order noise, blur and shuffled frames by their strength. Distances of
128 corrupted clips of the sky world, 16x64x64, to 128 others, levels 1 to 5 of
`CORRUPTIONS`; uncorrupted 0.032:

  noise    0.035  0.056  0.214  1.249  6.051
  blur     0.044  0.108  0.200  0.418  0.766
  shuffle  0.055  0.082  0.148  0.192  0.209

They know no objects. A distance of theirs is no FVD, is on another scale, and is titled
"small-random-network Frechet distance (not FVD)".
"""

from __future__ import annotations

from collections.abc import Callable
import math

import chex
import jax
import jax.numpy as jnp
import numpy as np

from lamd_jax.ops import conv as conv_ops

SEED = 20_181_203  # never changed: another seed is another score
_PICTURE = 5  # first kernel's height and width
# Output width, stride of each layer; kernels are 3 frames deep.
_LAYERS = (
  (16, (1, 2, 2)), (32, (2, 2, 2)), (48, (2, 2, 2)), (64, (2, 2, 2)),
)  # fmt: skip
FEATURES = 2 * sum(width for width, _ in _LAYERS)
MIN_SIZE = 16  # pixels: the last layer then sees one
MIN_FRAMES = 9  # as I3D's


def parameters() -> list[np.ndarray]:
  """Returns the kernels [3,k,k,I,O] float32, the same in every version of NumPy.

  Half of a layer's kernels sum to 0 over time: they see change alone.
  """
  draw = np.random.RandomState(SEED)
  kernels, width = [], 3
  for i, (out, _) in enumerate(_LAYERS):
    side = 3 if i else _PICTURE
    kernel = draw.standard_normal((3, side, side, width, out))
    kernel[..., ::2] -= kernel[..., ::2].mean(0)
    # He et al.'s scale: activations keep their size in depth.
    size = np.sqrt(np.square(kernel).sum((0, 1, 2, 3)))
    kernels.append((kernel * math.sqrt(2) / size).astype(np.float32))
    width = out
  return kernels


def features(kernels: list[jax.Array], clips: jax.Array) -> jax.Array:
  """Returns [B,FEATURES] float32: mean and deviation of each channel of each layer.

  Args:
    kernels: of `parameters`.
    clips: [B,T,H,W,3] uint8, at their own size.
  """
  chex.assert_rank(clips, 5)
  x = clips.astype(jnp.float32) / 127.5 - 1
  found = []
  for kernel, (_, stride) in zip(kernels, _LAYERS):
    around = tuple((k // 2, k // 2) for k in kernel.shape[:3])
    x = jax.nn.relu(conv_ops.conv(x, kernel, stride, around))
    mean = x.mean((1, 2, 3))
    deviation = jnp.sqrt(jnp.square(x - mean[:, None, None, None]).mean((1, 2, 3)))
    found += [mean, deviation]
  return jnp.concatenate(found, -1)


# What a score must rank by strength, level 1 (hardly seen) to 5 (destroyed).
_NOISE = (4, 8, 16, 32, 64)  # standard deviation, grey levels
_BLUR = (1, 2, 3, 5, 8)  # standard deviation, 1/64 of the picture's height
_SHUFFLE = (2, 4, 7, 11, 16)  # sixteenths of the frames, which change places


def noisy(clip: np.ndarray, level: int, draw: np.random.Generator) -> np.ndarray:
  """Adds Gaussian noise to clip [T,H,W,3] uint8."""
  noise = draw.standard_normal(clip.shape, np.float32) * _NOISE[level - 1]
  return np.clip(np.rint(clip + noise), 0, 255).astype(np.uint8)


def blurred(clip: np.ndarray, level: int, draw: np.random.Generator) -> np.ndarray:
  """Blurs frames by a Gaussian; beyond the border its pixels are repeated."""
  del draw
  x = clip.astype(np.float32)
  sigma = _BLUR[level - 1] * clip.shape[1] / 64
  for axis, length in ((1, clip.shape[1]), (2, clip.shape[2])):
    at = np.arange(-3 * length, 3 * length + 1)
    weight = np.exp(-np.square(at) / (2 * sigma**2))
    matrix = np.zeros((length, length), np.float32)
    for row in range(length):
      np.add.at(matrix[row], np.clip(row + at, 0, length - 1), weight / weight.sum())
    x = np.moveaxis(np.tensordot(matrix, x, (1, axis)), 0, axis)
  return np.clip(np.rint(x), 0, 255).astype(np.uint8)


def shuffled(clip: np.ndarray, level: int, draw: np.random.Generator) -> np.ndarray:
  """Moves randomly chosen frames of the clip, each to the place of another."""
  count = max(2, round(_SHUFFLE[level - 1] * len(clip) / 16))
  chosen = draw.permutation(len(clip))[:count]
  order = np.arange(len(clip))
  order[chosen] = np.roll(chosen, 1)
  return clip[order]


CORRUPTIONS: dict[
  str, Callable[[np.ndarray, int, np.random.Generator], np.ndarray]
] = {"noise": noisy, "blur": blurred, "shuffle": shuffled}
