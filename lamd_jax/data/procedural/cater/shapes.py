# SPDX-License-Identifier: Apache-2.0
"""Closed-form meetings of rays and the five shapes, in the shape's own coordinates.

A shape is centred at the origin, its axis is z. Every shape is convex, so the ray is
inside it for one interval of its parameter. Origins and directions are triples that
broadcast: many directions from one camera, or many points towards one light.
"""

from __future__ import annotations

import numpy as np

Triple = tuple[np.ndarray, np.ndarray, np.ndarray]

NAMES = ("cube", "sphere", "cylinder", "cone", "snitch")
CUBE, SPHERE, CYLINDER, CONE, SNITCH = range(5)
_SLOPE = 0.5  # of the cone: radius lost a unit of height

# Radius of the sphere around a shape of radius 1. A cube's radius is half its side.
REACH = (3**0.5, 1.0, 2**0.5, 2**0.5, 1.0)


def _slab(o: np.ndarray, d: np.ndarray, h: float) -> tuple[np.ndarray, np.ndarray]:
  """Where the ray is between -h and h; a parallel ray divides by 0, which is right."""
  a, b = (-h - o) / d, (h - o) / d
  return np.minimum(a, b), np.maximum(a, b)


def _roots(a, b, c) -> tuple[np.ndarray, np.ndarray]:
  """Roots of a t^2 + 2 b t + c, in order; nan where there are none."""
  root = np.sqrt(b * b - a * c)
  first, second = (-b - root) / a, (-b + root) / a
  return np.minimum(first, second), np.maximum(first, second)


def interval(
  shape: int, r: float, o: Triple, d: Triple
) -> tuple[np.ndarray, np.ndarray]:
  """Returns where the ray o + t d enters and leaves; nan or enter > leave: never."""
  with np.errstate(divide="ignore", invalid="ignore"):
    if shape == CUBE:
      (a, b), (e, f), (g, h) = (_slab(o[i], d[i], r) for i in range(3))
      return np.maximum(np.maximum(a, e), g), np.minimum(np.minimum(b, f), h)
    if shape in (SPHERE, SNITCH):
      return _roots(
        d[0] * d[0] + d[1] * d[1] + d[2] * d[2],
        o[0] * d[0] + o[1] * d[1] + o[2] * d[2],
        o[0] * o[0] + o[1] * o[1] + o[2] * o[2] - r * r,
      )
    low, high = _slab(o[2], d[2], r)
    a, b = d[0] * d[0] + d[1] * d[1], o[0] * d[0] + o[1] * d[1]
    c = o[0] * o[0] + o[1] * o[1]
    if shape == CYLINDER:
      enter, leave = _roots(a, b, c - r * r)
    else:
      # x^2 + y^2 = k^2 (r - z)^2, a double cone; the slab leaves the lower one.
      k, w = _SLOPE * _SLOPE, o[2] - r
      a = a - k * d[2] * d[2]
      enter, leave = _roots(a, b - k * w * d[2], c - k * w * w)
      # A ray steeper than the cone is inside beyond the roots, below on one side.
      steep, falling = a < 0, d[2] < 0
      if np.any(steep):
        enter, leave = (
          np.where(steep, np.where(falling, leave, -np.inf), enter),
          np.where(steep, np.where(falling, np.inf, enter), leave),
        )
    return np.maximum(enter, low), np.minimum(leave, high)


def normal(shape: int, r: float, p: Triple) -> Triple:
  """Returns the unit normal at surface points p, by the nearest face."""
  if shape in (SPHERE, SNITCH):
    return p[0] / r, p[1] / r, p[2] / r
  if shape == CUBE:
    a, b, c = (np.abs(v) for v in p)
    along_x = (a >= b) & (a >= c)
    along_y = ~along_x & (b >= c)
    return (
      np.where(along_x, np.sign(p[0]), 0),
      np.where(along_y, np.sign(p[1]), 0),
      np.where(along_x | along_y, 0, np.sign(p[2])),
    )
  across = np.sqrt(p[0] * p[0] + p[1] * p[1])
  if shape == CYLINDER:
    cap = np.abs(p[2]) > across
    rise = np.where(cap, np.sign(p[2]), 0)
    out = np.where(cap, 0, 1 / np.maximum(across, 1e-9))
  else:
    base = p[2] < -r * (1 - 1e-6)
    length = (1 + _SLOPE * _SLOPE) ** 0.5
    rise = np.where(base, -1, _SLOPE / length)
    out = np.where(base, 0, 1 / np.maximum(across, 1e-9) / length)
  return p[0] * out, p[1] * out, rise


def stripes(p: Triple, r: float) -> np.ndarray:
  """Whether points of the snitch lie on its dark meridians, so that turning shows."""
  return np.minimum(np.abs(p[0]), np.abs(p[1])) < 0.22 * r
