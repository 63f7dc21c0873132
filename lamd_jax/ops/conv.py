# SPDX-License-Identifier: Apache-2.0
"""Convolution over clips."""

from __future__ import annotations

from collections.abc import Sequence

import jax
from jax import lax


def conv(
  x: jax.Array,
  kernel: jax.Array,
  stride: tuple[int, int, int] = (1, 1, 1),
  padding: Sequence[tuple[int, int]] = ((0, 0), (0, 0), (0, 0)),
) -> jax.Array:
  """Convolves x [B,T,H,W,I] with kernel [kt,kh,kw,I,O], zero padding."""
  return lax.conv_general_dilated(
    x, kernel, stride, padding, dimension_numbers=("NDHWC", "DHWIO", "NDHWC")
  )
