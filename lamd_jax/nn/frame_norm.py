# SPDX-License-Identifier: Apache-2.0
"""The norm of an image model that runs over clips."""

from __future__ import annotations

from flax import linen as nn
import jax

from lamd_jax.nn.layers import GroupNorm
from lamd_jax.ops import axes


class FrameNorm(GroupNorm):
  """Group normalisation of x [B,T,H,W,C] with statistics of each frame.

  The parameters are those of `GroupNorm`, whose statistics would be of the clip.
  """

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    return axes.unfold(super().__call__(axes.fold(x)), *x.shape[:2])
