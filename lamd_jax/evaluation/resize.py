# SPDX-License-Identifier: Apache-2.0
"""The bilinear resizes that published scores used. They give different scores.

  half_pixel     pixel centres at half-integers, two taps: torch's interpolate
  half_pixel_aa  the same, averaging when it shrinks: jax.image.resize's default
  tf1_legacy     pixel i at i, two taps: TensorFlow 1; off by half a pixel or more

A resize is a matrix along each axis, so it is exact, linear and runs anywhere.
"""

from __future__ import annotations

from collections.abc import Callable
import math

import jax
import jax.numpy as jnp
import numpy as np


def _taps(at: np.ndarray, length: int) -> np.ndarray:
  """Matrix [len(at),length] of two-tap interpolation, border pixels repeated."""
  at = np.clip(at, 0, length - 1)
  low = np.floor(at).astype(np.int64)
  matrix = np.zeros((len(at), length))
  rows = np.arange(len(at))
  np.add.at(matrix, (rows, low), 1 - (at - low))
  np.add.at(matrix, (rows, np.minimum(low + 1, length - 1)), at - low)
  return matrix


def half_pixel(length: int, size: int) -> np.ndarray:
  return _taps((np.arange(size) + 0.5) * length / size - 0.5, length)


def tf1_legacy(length: int, size: int) -> np.ndarray:
  return _taps(np.arange(size) * length / size, length)


def half_pixel_aa(length: int, size: int) -> np.ndarray:
  """Triangles as wide as the step between output pixels, at least one pixel."""
  wide = max(1.0, length / size)
  centres = (np.arange(size) + 0.5) * length / size - 0.5
  distance = np.abs(centres[:, None] - np.arange(length)) / wide
  matrix = np.maximum(0, 1 - distance)
  return matrix / matrix.sum(1, keepdims=True)


FLAVOURS: dict[str, Callable[[int, int], np.ndarray]] = {
  "half_pixel": half_pixel,
  "half_pixel_aa": half_pixel_aa,
  "tf1_legacy": tf1_legacy,
}


def matrices(
  height: int, width: int, size: int, flavour: str, crop: str
) -> tuple[np.ndarray, np.ndarray]:
  """Returns the matrices [size,height] and [size,width], float32, of a resize.

  Args:
    height: of the source.
    width: of the source.
    size: side of the square that comes out.
    flavour: a key of FLAVOURS.
    crop: squash (all of the picture, aspect ignored) | centre (the short side to
      `size`, the long one in proportion and rounded up, and its middle).
  """
  sides = []
  for length in (height, width):
    full = size
    if crop == "centre":
      full = math.ceil(length * size / min(height, width))
    first = (full - size) // 2
    sides.append(FLAVOURS[flavour](length, full)[first : first + size])
  return sides[0].astype(np.float32), sides[1].astype(np.float32)


def to_network(clips: jax.Array, size: int, flavour: str, crop: str) -> jax.Array:
  """Clips [B,T,H,W,3] uint8 -> [B,T,size,size,3] float32 in [-1,1]."""
  rows, columns = matrices(*clips.shape[2:4], size, flavour, crop)
  x = clips.astype(jnp.float32)
  x = jnp.einsum("oh,bthwc->btowc", rows, x, precision="highest")
  x = jnp.einsum("ow,bthwc->bthoc", columns, x, precision="highest")
  return x / 127.5 - 1
