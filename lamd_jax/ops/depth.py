# SPDX-License-Identifier: Apache-2.0
"""Around a depth estimator: frames to its input, its output to what conditions read."""

from __future__ import annotations

import chex
import jax
import jax.numpy as jnp

from lamd_jax.ops import interpolation

# Percentiles that become black and white; what lies outside is clipped.
LOW, HIGH = 1, 99
# A clip whose depth varies by less, relative to its size, has no structure.
_FLAT = 1e-6


def network_size(
  height: int, width: int, size: int, multiple: int
) -> tuple[int, int]:
  """Returns the height and width at which MiDaS looks at frames.

  One side becomes `size`, the one that has to change least, the other keeps the
  aspect; both are rounded to multiples of `multiple`, and are at least one.

  Args:
    height: of the frames.
    width: of the frames.
    size: pixels; 384 for DPT-Large.
    multiple: pixels; 32 for DPT-Large.
  """
  scale = min(size / height, size / width, key=lambda s: abs(1 - s))
  fit = lambda side: max(multiple, round(scale * side / multiple) * multiple)
  return fit(height), fit(width)


def prepare(frames: jax.Array, size: int, multiple: int) -> jax.Array:
  """Frames [N,H,W,3] uint8 -> [N,h,w,3] float32, about [-1,1], for DPT.

  Bicubic as OpenCV's, which MiDaS takes: not averaging, and up to a tenth beyond the
  range at edges. Then mean 0.5 and standard deviation 0.5 of values in [0,1].

  Args:
    frames: [N,H,W,3] uint8.
    size: see `network_size`.
    multiple: likewise.
  """
  chex.assert_shape(frames, (None, None, None, 3))
  sides = frames.shape[1:3]
  to = network_size(*sides, size, multiple)
  matrices = (interpolation.cubic(a, b) for a, b in zip(sides, to))
  return interpolation.resize(frames.astype(jnp.float32) / 127.5 - 1, *matrices)


def restore(inverse_depth: jax.Array, height: int, width: int) -> jax.Array:
  """Inverse depth [N,h,w] float -> [N,height,width], bicubic, never below 0."""
  chex.assert_rank(inverse_depth, 3)
  sides = zip(inverse_depth.shape[1:], (height, width))
  matrices = (interpolation.cubic(a, b) for a, b in sides)
  x = interpolation.resize(inverse_depth[..., None], *matrices)
  return jnp.maximum(x, 0)[..., 0]


def normalise(inverse_depth: jax.Array) -> jax.Array:
  """Brings each clip's inverse depth to 0..255, near is white.

  Per clip and not per frame, which flickers. The 1st percentile becomes 0, the 99th
  255. A clip of constant depth becomes 0 everywhere. Depth from the other sources goes
  the same way, on the host (`data.transforms.normalise_depth`).

  Args:
    inverse_depth: [B,T,H,W] float, finite, of any scale and shift.

  Returns:
    [B,T,H,W,1] uint8.
  """
  chex.assert_rank(inverse_depth, 4)
  x = jnp.asarray(inverse_depth, jnp.float32)
  axes = (1, 2, 3)
  low, high = jnp.percentile(x, jnp.array([LOW, HIGH]), axis=axes, keepdims=True)
  span = high - low
  varies = span > _FLAT * jnp.maximum(jnp.abs(low), jnp.abs(high))
  unit = jnp.where(varies, (x - low) / jnp.where(varies, span, 1), 0)
  return (255 * jnp.clip(unit, 0, 1) + 0.5).astype(jnp.uint8)[..., None]
