# SPDX-License-Identifier: Apache-2.0
"""Normalisation of a latent between its bottleneck and its decoder: no parameters.

  none   as it is
  batch  each channel by the mean and variance of the batch and its space; at inference
         by running ones. Keeps how a clip differs from others in scale
  layer  each row by its own mean and variance over space and channels, which takes a
         clip's overall strength away
  l2     the vector at each position to length sqrt(channels)
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

EPSILON = 1e-5


class Moments(NamedTuple):
  """Mean and variance of each channel, [c] float32."""

  mean: jax.Array
  variance: jax.Array


def moments(z: jax.Array) -> Moments:
  """Returns those of z [B,T,h,w,c] over all axes but the last."""
  axes = tuple(range(z.ndim - 1))
  return Moments(z.mean(axes), z.var(axes))


def running(old: Moments, new: Moments, momentum: float) -> Moments:
  """Moves `old` by the share `momentum` to `new`; no path for gradients."""
  new = jax.lax.stop_gradient(new)
  return Moments(*(a + momentum * (b - a) for a, b in zip(old, new)))


def share(count: jax.Array, momentum: float) -> jax.Array:
  """How much the count-th batch moves running moments.

  The first counts in full, the n-th by 1/n, until that is below `momentum`: so that
  moments are the data's also after few batches.
  """
  return jnp.maximum(momentum, 1 / count)


def _none(z: jax.Array, of: Moments) -> jax.Array:
  return z


def _batch(z: jax.Array, of: Moments) -> jax.Array:
  return (z - of.mean) * jax.lax.rsqrt(of.variance + EPSILON)


def _layer(z: jax.Array, of: Moments) -> jax.Array:
  axes = tuple(range(1, z.ndim))
  centred = z - z.mean(axes, keepdims=True)
  variance = jnp.square(centred).mean(axes, keepdims=True)
  return centred * jax.lax.rsqrt(variance + EPSILON)


def _l2(z: jax.Array, of: Moments) -> jax.Array:
  return z * jax.lax.rsqrt(jnp.square(z).mean(-1, keepdims=True) + EPSILON)


# Kind -> function of z [B,T,h,w,c] float32 and the moments; "batch" alone reads them.
NORMALIZE: dict[str, Callable[[jax.Array, Moments], jax.Array]] = {
  "none": _none,
  "batch": _batch,
  "layer": _layer,
  "l2": _l2,
}
