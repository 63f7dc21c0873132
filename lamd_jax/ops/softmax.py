# SPDX-License-Identifier: Apache-2.0
"""Softmax with a gradient of its own."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp


@functools.partial(jax.custom_jvp, nondiff_argnums=(1,))
def softmax(x: jax.Array, axis: int) -> jax.Array:
  """Over `axis` of attention's logits, which sums to one then.

  Its gradient needs the result alone, and so keeps one array of that size a layer, where
  differentiating `jax.nn.softmax` keeps three.
  """
  e = jnp.exp(x - x.max(axis, keepdims=True))
  return e / e.sum(axis, keepdims=True)


@softmax.defjvp
def _softmax_jvp(axis, primals, tangents):
  y, dx = softmax(primals[0], axis), tangents[0]
  return y, y * (dx - (y * dx).sum(axis, keepdims=True))
