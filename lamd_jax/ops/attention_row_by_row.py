# SPDX-License-Identifier: Apache-2.0
"""Attention between the pixels of a frame, as TPUs do it best: some frames at a time.

With 1024 pixels the logits of all frames are gigabytes that the matrix products write and
the softmax reads. Those of a frame or two stay in the TPU's own memory. The backward pass
makes them anew from what it keeps, the result and each row's normaliser (Dao et al. 2022,
FlashAttention, section 3.1). By the TPU compiler's own reckoning all of it takes a third
of the time (benchmarks/NOTES.md, 17). What the numbers are: `attention.attention`.
"""

from __future__ import annotations

from collections.abc import Callable
import functools

import jax
from jax.ad_checkpoint import checkpoint_name
import jax.numpy as jnp

from lamd_jax.ops import axes

_AT_ONCE = 32 << 20  # bytes of logits; TPUs have 128 MiB of their own memory


def fits(q: jax.Array, k: jax.Array) -> bool:
  """Whether this form is for queries q [N,Q,H,D] and keys k [N,K,H,D]."""
  rows, rest = divmod(q.shape[0], axes.row_parts())
  return not rest and rows * _row_bytes(q, k) > _AT_ONCE


def _row_bytes(q: jax.Array, k: jax.Array) -> int:
  """Of logits, one for each of a row's queries, heads and keys; keys fill tiles."""
  _, queries, heads, _ = q.shape
  return 4 * queries * heads * -(-k.shape[1] // 128) * 128


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def attention(q: jax.Array, k: jax.Array, v: jax.Array, scale: float) -> jax.Array:
  """As `attention.attention`; no forward-mode derivative."""
  return _forward(q, k, v, scale)[0]


def _forward(q, k, v, scale):
  def some(q, k, v):
    logits = _logits(q, k, scale)
    largest = logits.max(-1, keepdims=True)
    weights = jnp.exp(logits - largest)
    total = weights.sum(-1, keepdims=True)
    out = _product("nhqk,nkhd->nqhd", weights.astype(v.dtype), v)
    out = out / total.squeeze(-1).swapaxes(1, 2)[..., None]
    return out.astype(v.dtype), largest + jnp.log(total)

  out, normaliser = _row_by_row(some, _rows_at_once(q, k), q, k, v)
  # Kept where convolutions are: else a block that is computed anew does all of it twice.
  out, normaliser = checkpoint_name(out, "conv"), checkpoint_name(normaliser, "conv")
  return out, (q, k, v, out, normaliser)


def _backward(scale, kept, change):
  def some(q, k, v, out, normaliser, change):
    weights = jnp.exp(_logits(q, k, scale) - normaliser)  # [n,H,Q,K]
    onto_weights = _product("nqhd,nkhd->nhqk", change, v)
    mean = (change.astype(jnp.float32) * out).sum(-1).swapaxes(1, 2)[..., None]
    onto_logits = (weights * (onto_weights - mean) * scale).astype(q.dtype)
    return (
      _product("nhqk,nkhd->nqhd", onto_logits, k).astype(q.dtype),
      _product("nhqk,nqhd->nkhd", onto_logits, q).astype(k.dtype),
      _product("nhqk,nqhd->nkhd", weights.astype(v.dtype), change).astype(v.dtype),
    )

  q, k = kept[:2]
  return _row_by_row(some, _rows_at_once(q, k), *kept, change)


attention.defvjp(_forward, _backward)


def _logits(q: jax.Array, k: jax.Array, scale: float) -> jax.Array:
  return _product("nqhd,nkhd->nhqk", q, k) * scale


# Sums in float32 whatever the inputs.
_product = functools.partial(jnp.einsum, preferred_element_type=jnp.float32)


def _rows_at_once(q: jax.Array, k: jax.Array) -> int:
  """How many rows a device takes at once: a divisor of those it has."""
  rows = q.shape[0] // axes.row_parts()
  most = max(1, _AT_ONCE // _row_bytes(q, k))
  return max(n for n in range(1, min(most, rows) + 1) if rows % n == 0)


def _row_by_row(run: Callable[..., jax.Array], at_once: int, *rows: jax.Array):
  """Runs on `at_once` rows of each device after the other; rows are the first axes."""
  split = [axes.in_steps(x, at_once) for x in rows]
  found = jax.lax.map(lambda part: run(*part), split)
  return jax.tree.map(axes.from_steps, found)
