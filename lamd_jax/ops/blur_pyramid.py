# SPDX-License-Identifier: Apache-2.0
"""Gen-1's degradation of structure: rounds of blur and downsampling (arXiv 2302.03011).

The paper removes detail from depth by repeated blurring and says neither the kernel
nor the factor. Ours: each round is a 5-tap binomial blur, the edge repeated, and then
bilinear downsampling by r = (min(H,W)/2)^(1/levels), so that the short side of the
last level is 2 pixels whatever the size; at the end bilinear upsampling to H x W. A
side of N pixels has max(2, round(N / r^l)) after round l. At 256 pixels and 7 levels,
which are the paper's, r is 2.

All of it is linear and separable. The map of every level is computed once, so that a
level per sample leaves shapes static: a gather and two matrix products.
"""

from __future__ import annotations

import functools
import math

import chex
import jax
import jax.numpy as jnp
import numpy as np

from lamd_jax.ops import interpolation

_BINOMIAL = np.array([1, 4, 6, 4, 1]) / 16
_SHORTEST = 2  # pixels, of the last level's short side


@functools.cache
def maps(height: int, width: int, levels: int) -> tuple[np.ndarray, np.ndarray]:
  """Returns A [levels+1,H,H] and B [levels+1,W,W], float32; do not write to them.

  Level t of a picture D [H,W] is A[t] D B[t]^T; A[0] and B[0] are identities.

  Raises:
    ValueError: a side is shorter than two pixels, or there is no level.
  """
  if min(height, width) < _SHORTEST or levels < 1:
    raise ValueError(
      f"no blur pyramid of {levels} levels on {height}x{width}: it takes one level or"
      f" more and sides of {_SHORTEST} pixels or more"
    )
  factor = (min(height, width) / _SHORTEST) ** (1 / levels)
  rows, columns = (_side(side, factor, levels) for side in (height, width))
  return rows, columns


def sizes(side: int, factor: float, levels: int) -> list[int]:
  """Returns a side's pixels after 0, 1, ... `levels` rounds."""
  # Rounded twice, so that a power which is a half up to the last bit goes up anywhere.
  at = lambda level: math.floor(round(side / factor**level, 6) + 0.5)
  return [side] + [max(_SHORTEST, at(level)) for level in range(1, levels + 1)]


def _side(side: int, factor: float, levels: int) -> np.ndarray:
  lengths = sizes(side, factor, levels)
  down, found = np.eye(side), [np.eye(side)]
  for before, after in zip(lengths, lengths[1:]):
    down = interpolation.bilinear(before, after) @ _blur(before) @ down
    found.append(interpolation.bilinear(after, side) @ down)
  return np.stack(found).astype(np.float32)


def _blur(length: int) -> np.ndarray:
  matrix, rows = np.zeros((length, length)), np.arange(length)
  for tap, weight in enumerate(_BINOMIAL):
    place = np.clip(rows + tap - len(_BINOMIAL) // 2, 0, length - 1)
    np.add.at(matrix, (rows, place), weight)
  return matrix


def degrade(depth: jax.Array, level: jax.Array, levels: int) -> jax.Array:
  """Takes detail out of each clip, as much as its level says.

  Args:
    depth: [B,T,H,W,C] float, any range, which is kept.
    level: [B] int32 in [0,levels], t_s; 0 returns the clip as it is, bit for bit. A
      level outside gives NaN, not a neighbour's blur.
    levels: T_s, the paper's 7.

  Returns:
    [B,T,H,W,C] of the dtype of depth; computed in float32.
  """
  chex.assert_rank([depth, level], [5, 1])
  chex.assert_equal_shape_prefix([depth, level], 1)
  chex.assert_type([depth, level], [float, int])
  inside = (level >= 0) & (level <= levels)
  pick = lambda table: jnp.asarray(table)[jnp.clip(level, 0, levels)]
  rows, columns = (pick(table) for table in maps(*depth.shape[2:4], levels))
  x = depth.astype(jnp.float32)
  x = jnp.einsum("boh,bthwc->btowc", rows, x, precision="highest")
  x = jnp.einsum("bpw,btowc->btopc", columns, x, precision="highest")
  expand = lambda flag: flag[:, None, None, None, None]
  x = jnp.where(expand(inside), x.astype(depth.dtype), jnp.nan)
  # A product with an identity is exact only where the hardware multiplies in float32.
  return jnp.where(expand(level == 0), depth, x)
