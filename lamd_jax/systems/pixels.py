# SPDX-License-Identifier: Apache-2.0
"""Pixel ranges: uint8 until the device, float in [-1,1] after it."""

from __future__ import annotations

import jax
import jax.numpy as jnp


def to_float(video: jax.Array) -> jax.Array:
  """Maps uint8 [0,255] to float32 [-1,1]."""
  return video.astype(jnp.float32) / 127.5 - 1


def to_uint8(video: jax.Array) -> jax.Array:
  """Maps float [-1,1] to uint8 by truncation after clipping, as LVDM's release does."""
  return jnp.clip((video + 1) * 127.5, 0, 255).astype(jnp.uint8)
