# SPDX-License-Identifier: Apache-2.0
"""Attention between a few frames of many pixels, as TPUs do it best.

A TPU holds arrays in tiles of 8x128 numbers along their last two axes. Of frames and
head widths of 16, logits and heads would fill an eighth of them, and each product's
matrix unit likewise. Here rows (pixels of all clips) are the last axis and the few
frames and channels the first: products are sums of whole tiles, without the matrix unit.
By the TPU compiler's own reckoning it takes a quarter of the time and a tenth of the
memory (benchmarks/NOTES.md, 16). What the numbers are: `attention.attention`.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from lamd_jax.ops import axes
from lamd_jax.ops.softmax import softmax

_MOST_FRAMES = 32  # each query frame is compiled by itself
_FEWEST_ROWS = 1024  # of a device; fewer fit the TPU's own memory, tiles filled or not


def fits(q: jax.Array, k: jax.Array) -> bool:
  """Whether this form is for queries q [N,Q,H,D] and keys k [N,K,H,D]."""
  rows, queries = q.shape[:2]
  same = k.shape[1] == queries <= _MOST_FRAMES
  return same and rows // axes.row_parts() >= _FEWEST_ROWS


def attention(
  q: jax.Array,
  k: jax.Array,
  v: jax.Array,
  key_positions: jax.Array | None,
  value_positions: jax.Array | None,
  *,
  scale: float,
  position_scale: float,
  transposed: bool,
) -> jax.Array:
  """As `attention.attention`, for as many queries as keys; computes in float32.

  Args:
    q: [N,T,H,D], as k and v.
    k: keys.
    v: values.
    key_positions: [T,T,D], as value_positions; None: there are none.
    value_positions: see `attention.Positions`.
    scale: of the dot products.
    position_scale: of those with key_positions.
    transposed: see `attention.Positions`.
  """
  dtype = v.dtype
  queries, keys, values = (_rows_last(x).astype(jnp.float32) for x in (q, k, v))
  over_heads = lambda table: table.astype(jnp.float32)[:, :, None, None]
  if transposed:  # frame i asks for [:,i]
    key_positions = key_positions.swapaxes(0, 1)

  def frame(_: None, of: tuple[jax.Array, ...]) -> tuple[None, jax.Array]:
    """One query frame [D,H,N] -> [D,H,N]."""
    query, near_keys, near_values = of
    products, found = query * keys * scale, values  # [T,D,H,N]
    if near_keys is not None:
      asks = queries if transposed else query
      products += asks * over_heads(near_keys) * position_scale
      found += over_heads(near_values)
    weights = softmax(products.sum(1), 0)  # [T,H,N]
    return None, (weights[:, None] * found).sum(0).astype(dtype)

  # Unrolled: in a loop the TPU compiler keeps arrays outside its own memory.
  each = (queries, key_positions, value_positions)
  _, out = jax.lax.scan(frame, None, each, unroll=True)
  return out.transpose(3, 0, 2, 1)


def _rows_last(x: jax.Array) -> jax.Array:
  """[N,T,H,D] -> [T,D,H,N]."""
  return axes.constrain(x.transpose(1, 3, 2, 0), "free", "free", "heads", "free")
