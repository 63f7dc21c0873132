# SPDX-License-Identifier: Apache-2.0
"""Attention as einsums, with optional relative positions.

Logits and softmax are float32 whatever the inputs. Einsums rather than
`jax.nn.dot_product_attention`: XLA runs them faster on a CPU, and relative positions
need the logits anyway.
"""

from __future__ import annotations

import chex
import jax
import jax.numpy as jnp
import numpy as np

from lamd_jax.ops import axes


def attention(
  q: jax.Array,
  k: jax.Array,
  v: jax.Array,
  scale: float,
  *,
  bias: jax.Array | None = None,
  value_positions: jax.Array | None = None,
) -> jax.Array:
  """Multi-head attention, not causal.

  Args:
    q: [N,Q,H,D] queries.
    k: [N,K,H,D] keys.
    v: [N,K,H,D] values.
    scale: factor of the dot products.
    bias: [N,H,Q,K] float32, added to the scaled dot products.
    value_positions: [Q,K,D], added to the value that query i takes from key j
      (Shaw et al. 2018, equation 3).

  Returns:
    [N,Q,H,D] in the dtype of v.
  """
  chex.assert_rank([q, k, v], 4)
  chex.assert_equal_shape([k, v])
  # Heads first, so that the products are plain batched ones: an einsum of the given
  # layout costs twice as much on a CPU.
  heads = lambda x: axes.constrain(x.swapaxes(1, 2), "free", "heads", "free", "free")
  q, k, v = heads(q), heads(k), heads(v)
  logits = _dots(q, k) * scale
  if bias is not None:
    logits = logits + bias
  weights = _softmax(logits).astype(v.dtype)
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


@jax.custom_jvp
def _softmax(x: jax.Array) -> jax.Array:
  """Over the last axis. Its gradient needs the result alone, and so keeps one [Q,K]
  array a layer, where differentiating `jax.nn.softmax` keeps three."""
  e = jnp.exp(x - x.max(-1, keepdims=True))
  return e / e.sum(-1, keepdims=True)


@_softmax.defjvp
def _softmax_jvp(primals, tangents):
  y, dx = _softmax(primals[0]), tangents[0]
  return y, y * (dx - (y * dx).sum(-1, keepdims=True))


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


def position_bias(
  q: jax.Array, key_positions: jax.Array, scale: float, *, transposed: bool
) -> jax.Array:
  """The logits' bias from relative positions of the keys, [N,H,Q,K] float32.

  Shaw et al. 2018, equation 4, adds q_i . R[i,j]. `transposed` instead adds
  q_j . R[j,i], the mistake that released LVDM weights were trained with; it asks
  for as many queries as keys.

  Args:
    q: [N,Q,H,D] queries, not scaled.
    key_positions: [Q,K,D].
    scale: factor of the dot products.
    transposed: see above.
  """
  positions = key_positions.astype(q.dtype)
  form = "njhd,jid->nhij" if transposed else "nihd,ijd->nhij"
  return scale * jnp.einsum(form, q, positions).astype(jnp.float32)
