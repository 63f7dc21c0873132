# SPDX-License-Identifier: Apache-2.0
"""Resizing as a matrix along each axis: exact, linear, the same on every device.

Each function returns [size,length] float64, whose rows sum to 1: row o holds the
weights of output pixel o. None of them averages when it shrinks; what must not alias
is blurred before. Pixels beyond the border repeat the border's.

  bilinear          pixel centres at half-integers: torch's interpolate
  cubic             likewise, a = -0.75: torch's bicubic, OpenCV's INTER_CUBIC
  bilinear_corners  the outermost pixels stay where they are: align_corners=True
"""

from __future__ import annotations

import chex
import jax
import jax.numpy as jnp
import numpy as np

# Pillow and JAX take -0.5, which differs by up to 0.07 of the range.
_CUBIC_A = -0.75


def bilinear(length: int, size: int) -> np.ndarray:
  at = np.clip(_half_pixel(length, size), 0, length - 1)
  return _two_taps(at, length)


def bilinear_corners(length: int, size: int) -> np.ndarray:
  return _two_taps(np.linspace(0, length - 1, size), length)


def cubic(length: int, size: int) -> np.ndarray:
  """Keys' cubic convolution (IEEE ASSP 29(6), 1981), four taps."""
  at, a = _half_pixel(length, size), _CUBIC_A
  matrix = np.zeros((size, length))
  low = np.floor(at).astype(np.int64)
  for tap in range(-1, 3):
    d = np.abs(at - low - tap)
    near = ((a + 2) * d - (a + 3)) * d * d + 1
    far = ((a * d - 5 * a) * d + 8 * a) * d - 4 * a
    place = np.clip(low + tap, 0, length - 1)
    np.add.at(matrix, (np.arange(size), place), np.where(d <= 1, near, far))
  return matrix


def _half_pixel(length: int, size: int) -> np.ndarray:
  return (np.arange(size) + 0.5) * length / size - 0.5


def _two_taps(at: np.ndarray, length: int) -> np.ndarray:
  low = np.floor(at).astype(np.int64)
  matrix, rows = np.zeros((len(at), length)), np.arange(len(at))
  np.add.at(matrix, (rows, low), 1 - (at - low))
  np.add.at(matrix, (rows, np.minimum(low + 1, length - 1)), at - low)
  return matrix


def resize(x: jax.Array, rows: np.ndarray, columns: np.ndarray) -> jax.Array:
  """Applies one matrix to the rows and one to the columns of pictures.

  Args:
    x: [N,H,W,C] float.
    rows: [H',H], of one of the functions above.
    columns: [W',W], likewise.

  Returns:
    [N,H',W',C] of the dtype of x.
  """
  chex.assert_rank(x, 4)
  rows, columns = (jnp.asarray(m, x.dtype) for m in (rows, columns))
  x = jnp.einsum("oh,nhwc->nowc", rows, x, precision="highest")
  return jnp.einsum("pw,nowc->nopc", columns, x, precision="highest")
