# SPDX-License-Identifier: Apache-2.0
"""Weights that need no storing: every tensor follows from its name and shape.

Reference numbers can so be computed anywhere without weights travelling along.
"""

from __future__ import annotations

from collections.abc import Mapping
import zlib

import numpy as np


def fill(key: str, shape: tuple[int, ...], norm_scale: bool) -> np.ndarray:
  """Returns the float32 tensor of name `key`.

  Args:
    key: name in the state dict, relative to the module.
    shape: the tensor's shape there.
    norm_scale: whether it is the weight of a normalisation, which lies around 1.
  """
  draw = np.random.RandomState(zlib.crc32(key.encode())).standard_normal(shape)
  values = np.asarray(draw, np.float32) * np.float32(0.05)
  if key.endswith("running_var"):
    values = 1 + np.abs(values)
  elif norm_scale:
    values = 1 + values
  return values


def state(
  shapes: Mapping[str, tuple[int, ...]], norm_scales: Mapping[str, bool]
) -> dict[str, np.ndarray]:
  """Returns a filled state dict of the given names and shapes."""
  return {key: fill(key, tuple(s), norm_scales[key]) for key, s in shapes.items()}


def unlike(
  filled: Mapping[str, np.ndarray],
  sums: Mapping[str, float],
  square_sums: Mapping[str, float],
) -> list[str]:
  """Returns the names whose sums differ from the recorded ones by more than 1e-6."""
  far = lambda a, b: abs(a - b) > 1e-6 * max(1.0, abs(b))
  wide = {key: value.astype(np.float64) for key, value in filled.items()}
  return [
    key
    for key, value in wide.items()
    if far(value.sum(), sums[key]) or far(np.square(value).sum(), square_sums[key])
  ]
