# SPDX-License-Identifier: Apache-2.0
"""Attention between the pixels of a frame by cuDNN, on NVIDIA's GPUs.

Its kernels keep the logits on the chip, where matrices write and read them: 537 MB in
float32 for each clip of 16 frames of 32x32 latents with 8 heads. The weights of the
softmax are rounded to bfloat16 before the second product, as those of matrices are.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from lamd_jax.ops import axes

_MULTIPLE, _WIDEST = 8, 128  # channels of a head that cuDNN takes
_FEWEST_KEYS = 128  # a tile of the kernel; below, logits are small as well


def fits(q: jax.Array, k: jax.Array) -> bool:
  """Whether cuDNN takes queries q [N,Q,H,D] and keys k [N,K,H,D], and is worth asking."""
  rows, length, _, width = q.shape
  return (
    q.dtype == jnp.bfloat16
    and width % _MULTIPLE == 0
    and width <= _WIDEST
    and min(length, k.shape[1]) >= _FEWEST_KEYS
    and rows % axes.row_parts() == 0
  )


def attention(q: jax.Array, k: jax.Array, v: jax.Array, scale: float) -> jax.Array:
  """As `attention.attention`; no forward-mode derivative."""
  # It refuses rows that are cut, and inputs that lie differently.
  place = lambda x: axes.constrain(x, "rows", "whole", "heads", "whole")
  return jax.nn.dot_product_attention(
    place(q), place(k), place(v), scale=scale, implementation="cudnn"
  )
