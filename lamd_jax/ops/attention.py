# SPDX-License-Identifier: Apache-2.0
"""Attention as matrix products, with optional relative positions.

Logits and softmax are float32 whatever the inputs. Products rather than
`jax.nn.dot_product_attention`: XLA runs them faster on a CPU, and relative positions
need the logits anyway. For TPUs attention over time and between many pixels
have forms of their own, `attention_rows_last.py` and `attention_row_by_row.py`, and
GPUs can take cuDNN's, `attention_cudnn.py`; which one a program gets is decided by the
platform it is lowered for (`platforms.py`).
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np

from lamd_jax.ops import attention_cudnn
from lamd_jax.ops import attention_row_by_row
from lamd_jax.ops import attention_rows_last
from lamd_jax.ops import axes
from lamd_jax.ops import platforms
from lamd_jax.ops.softmax import softmax


class Positions(NamedTuple):
  """What queries meet at each distance beside keys and values (Shaw et al. 2018).

  Equation 4 adds q_i . keys[i,j] to the logits. `transposed` instead adds
  q_j . keys[j,i], the mistake that released LVDM weights were trained with; it asks
  for as many queries as keys. Equation 3 adds values[i,j] to the value that query i
  takes from key j.
  """

  keys: jax.Array  # [Q,K,D]
  values: jax.Array  # [Q,K,D]
  scale: float  # of the products with `keys`
  transposed: bool


def attention(
  q: jax.Array,
  k: jax.Array,
  v: jax.Array,
  scale: float,
  *,
  bias: jax.Array | None = None,
  positions: Positions | None = None,
  cudnn: bool = False,
) -> jax.Array:
  """Multi-head attention, not causal.

  Args:
    q: [N,Q,H,D] queries.
    k: [N,K,H,D] keys.
    v: [N,K,H,D] values.
    scale: factor of the dot products.
    bias: [N,H,Q,K] float32, added to the scaled dot products.
    positions: what is added to keys and values.
    cudnn: a program for NVIDIA's GPUs asks cuDNN where it can (`train.cudnn_attention`).

  Returns:
    [N,Q,H,D] in the dtype of v.
  """
  chex.assert_rank([q, k, v], 4)
  chex.assert_equal_shape([k, v])
  keys, values, *how = positions or (None, None, 0.0, False)
  matrices = functools.partial(_by_matrices, scale=scale, bias=bias, how=how)
  plain = bias is None and positions is None
  forms = {}
  if bias is None and attention_rows_last.fits(q, k):
    forms["tpu"] = functools.partial(
      attention_rows_last.attention, scale=scale, position_scale=how[0],
      transposed=how[1],
    )  # fmt: skip
  elif plain and attention_row_by_row.fits(q, k):
    forms["tpu"] = lambda q, k, v, *_: attention_row_by_row.attention(q, k, v, scale)
  if cudnn and plain and attention_cudnn.fits(q, k):
    forms["cuda"] = lambda q, k, v, *_: attention_cudnn.attention(q, k, v, scale)
  if not forms:
    return matrices(q, k, v, keys, values)
  return platforms.dependent(q, k, v, keys, values, default=matrices, **forms)


def _by_matrices(
  q: jax.Array, k: jax.Array, v: jax.Array, key_positions: jax.Array | None,
  value_positions: jax.Array | None, *, scale: float, bias: jax.Array | None,
  how: tuple[float, bool],
) -> jax.Array:  # fmt: skip
  # Heads first, so that the products are plain batched ones: an einsum of the given
  # layout costs twice as much on a CPU.
  heads = lambda x: axes.constrain(x.swapaxes(1, 2), "free", "heads", "free", "free")
  if key_positions is not None:
    bias = _position_bias(q, key_positions, *how)
  q, k, v = heads(q), heads(k), heads(v)
  logits = _dots(q, k) * scale
  if bias is not None:
    logits = logits + bias
  weights = softmax(logits, -1).astype(v.dtype)
  out = weights @ v
  if value_positions is not None:
    out = out + jnp.einsum("nhqk,qkd->nhqd", weights, value_positions.astype(v.dtype))
  return out.swapaxes(1, 2)


@jax.custom_jvp
def _dots(q: jax.Array, k: jax.Array) -> jax.Array:
  """[N,H,Q,D], [N,H,K,D] -> [N,H,Q,K] float32: bfloat16 would round logits to 1/256.

  Its gradient takes what comes back in the dtype of q and k, so that those products are
  of bfloat16 as well.
  """
  return jnp.matmul(q, k.swapaxes(2, 3), preferred_element_type=jnp.float32)


@_dots.defjvp
def _dots_jvp(primals, tangents):
  (q, k), (dq, dk) = primals, tangents
  change = dq @ k.swapaxes(2, 3) + q @ dk.swapaxes(2, 3)
  return _dots(q, k), change.astype(jnp.float32)


def relative_positions(table: jax.Array, queries: int, keys: int) -> jax.Array:
  """Looks up R[i,j] = table[clip(j-i, -L, L) + L] (Shaw et al. 2018, section 3.2).

  Args:
    table: [2L+1,D].
    queries: number of rows i.
    keys: number of columns j.

  Returns:
    [queries,keys,D].
  """
  reach = (table.shape[0] - 1) // 2
  distance = np.arange(keys)[None, :] - np.arange(queries)[:, None]
  return jnp.asarray(table)[np.clip(distance, -reach, reach) + reach]


def _position_bias(
  q: jax.Array, key_positions: jax.Array, scale: float, transposed: bool
) -> jax.Array:
  """What Positions.keys [Q,K,D] add to logits of queries q [N,Q,H,D]: [N,H,Q,K]."""
  positions = key_positions.astype(q.dtype)
  form = "njhd,jid->nhij" if transposed else "nihd,ijd->nhij"
  return scale * jnp.einsum(form, q, positions).astype(jnp.float32)
