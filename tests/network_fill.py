# SPDX-License-Identifier: Apache-2.0
"""Weights by name, of a size at which a deep network neither fades nor explodes."""

import math

import numpy as np

from lamd_jax.interchange import fill


def state(shapes, norm_scales) -> dict[str, np.ndarray]:
  """As `fill.state`, with every matrix and kernel at He et al.'s scale."""
  filled = fill.state(shapes, norm_scales)
  for name, value in filled.items():
    if value.ndim > 1:
      # The fill rule draws at 0.05.
      filled[name] = value * np.float32(20 * math.sqrt(2 / math.prod(value.shape[1:])))
  return filled
