# SPDX-License-Identifier: Apache-2.0
"""Constraints `project(z, t) -> z`: what acts on the state and not on the network.

A sampler applies its constraint to the state before every network call, and not after
the last: what the constraint held is in the result one step further denoised. For
known frames that come out clean, apply one that holds the clean values to the result.
`z` is [B,T,h,w,C] float, `t` [B] float, the position the state is at.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from lamd_jax.diffusion import process as process_lib

Constraint = Callable[[jax.Array, jax.Array], jax.Array]


def known_frames(mask: jax.Array, value: jax.Array) -> Constraint:
  """Overwrites known frames with the same value at every step (LVDM, section 3.3).

  Args:
    mask: broadcastable to z, nonzero at what is known; [B,T,1,1,1] for frames.
    value: [B,T,h,w,C], read where the mask is set. LVDM perturbs it once a clip, to a
      fixed low noise level of which it tells the network, whatever level z is at.
  """
  return lambda z, t: jnp.where(mask != 0, value.astype(z.dtype), z)


def masked(mask: jax.Array, value_at: Callable[[jax.Array], jax.Array]) -> Constraint:
  """Blends with a value noised to the state's own level: blended latent diffusion.

  Avrahami et al. (arXiv 2206.02779), section 3: z <- m z + (1-m) q(value, t).

  Args:
    mask: broadcastable to z, in [0, 1], 1 where the chain is free to change z.
    value_at: t [B] -> [B,T,h,w,C]; see `noised`.
  """
  return lambda z, t: mask * z + (1 - mask) * value_at(t)


def noised(
  process: process_lib.Process, value: jax.Array, noise: jax.Array
) -> Callable[[jax.Array], jax.Array]:
  """Returns t -> value at level t, with the same noise at every level."""
  return lambda t: process.add_noise(value, noise, t)
