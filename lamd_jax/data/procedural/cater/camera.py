# SPDX-License-Identifier: Apache-2.0
"""The one camera of `cater`: projection, and the rays of every sample of a picture.

Five samples a pixel: four for the colour's sake around the fifth, its centre, which
also gives depth and instance. Directions have length 1 along the view axis, so the ray
parameter of a hit is its depth.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import numpy as np

CENTRE = np.array([7.093, -6.266, 5.089])
FOCAL = 2.1875  # half picture widths: a 35 mm lens before a 32 mm sensor

_FORWARD = np.array([-0.659, 0.584, -0.474])
_FORWARD /= np.sqrt((_FORWARD * _FORWARD).sum())
_RIGHT = np.array([-_FORWARD[1], _FORWARD[0], 0.0])
_RIGHT = -_RIGHT / np.sqrt((_RIGHT * _RIGHT).sum())
# Rows: right, up, forward in world coordinates.
AXES = np.stack([_RIGHT, np.cross(_RIGHT, _FORWARD), _FORWARD])
# Where the camera's directions lie on the ground, rows: right, away from it.
GROUND_AXES = np.array([_RIGHT[:2], [-_RIGHT[1], _RIGHT[0]]])

_OFFSETS = np.array([[-1, -1], [1, -1], [-1, 1], [1, 1], [0, 0]]) * 0.25  # pixels, x y
MIDDLE = 4  # the sample at a pixel's centre


class Rays(NamedTuple):
  """Directions of all samples of a picture, and where they meet the ground."""

  direction: tuple[np.ndarray, np.ndarray, np.ndarray]  # x y z, each [S,S,5] float64
  ground: np.ndarray  # [S,S,5] float64 depth of the plane z = 0
  x: np.ndarray  # [S,S,5] float64 where on it
  y: np.ndarray


@functools.lru_cache(maxsize=8)
def rays(size: int) -> Rays:
  """Returns the rays of a size x size picture. Shared: do not write to them."""
  steps = np.arange(size) + 0.5
  columns = steps[None, :, None] + _OFFSETS[:, 0]
  rows = steps[:, None, None] + _OFFSETS[:, 1]
  across = (2 * columns / size - 1) / FOCAL
  upward = (1 - 2 * rows / size) / FOCAL
  direction = tuple(
    AXES[2, i] + across * AXES[0, i] + upward * AXES[1, i] for i in range(3)
  )
  # Every ray of a square picture points below the horizon.
  ground = -CENTRE[2] / direction[2]
  x, y = (CENTRE[i] + ground * direction[i] for i in range(2))
  return Rays(direction, ground, x, y)


def project(points: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
  """Maps world points [...,3] to pixels [...,2] (x right, y down) and depths [...]."""
  x, y, depth = np.moveaxis((np.asarray(points) - CENTRE) @ AXES.T, -1, 0)
  across, upward = FOCAL * x / depth, FOCAL * y / depth
  return np.stack([(1 + across) * size / 2, (1 - upward) * size / 2], -1), depth


def unproject(pixels: np.ndarray, height: float, size: int) -> np.ndarray:
  """Maps pixels [...,2] to the points [...,2] (x, y) of the plane z = height."""
  across = (2 * pixels[..., 0] / size - 1) / FOCAL
  upward = (1 - 2 * pixels[..., 1] / size) / FOCAL
  ones = np.ones_like(across)
  direction = np.stack([across, upward, ones], -1) @ AXES
  reach = (height - CENTRE[2]) / direction[..., 2]
  return CENTRE[:2] + reach[..., None] * direction[..., :2]


def window(centre: np.ndarray, reach: float, size: int) -> tuple[slice, slice]:
  """Returns the rows and columns that a sphere can touch; empty outside the picture."""
  x, y, depth = AXES @ (centre - CENTRE)
  near, far = depth - reach, depth + reach
  half = size / 2

  def edges(low: float, high: float) -> slice:
    first = (1 + FOCAL * min(low / near, low / far)) * half
    last = (1 + FOCAL * max(high / near, high / far)) * half
    return slice(max(int(first), 0), max(min(int(last) + 2, size), 0))

  return edges(-y - reach, -y + reach), edges(x - reach, x + reach)
