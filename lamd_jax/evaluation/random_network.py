# SPDX-License-Identifier: Apache-2.0
"""A small 3-D network with fixed random weights: features without any download.

Random features order noise, blur and shuffled frames by their strength. Distances of
128 corrupted clips of the sky world, 16x64x64, to 128 others, levels 1 to 5 of
tests/corruptions.py; uncorrupted 0.032:

  noise    0.035  0.056  0.214  1.249  6.051
  blur     0.044  0.108  0.200  0.418  0.766
  shuffle  0.055  0.082  0.148  0.192  0.209

They know no objects. A distance of theirs is no FVD, is on another scale, and is titled
"small-random-network Frechet distance (not FVD)".
"""

from __future__ import annotations

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
