# SPDX-License-Identifier: Apache-2.0
"""The training loss of a denoiser and its weight over noise levels."""

from __future__ import annotations

from collections.abc import Callable

import chex
import jax
import jax.numpy as jnp

from lamd_jax.diffusion import process as process_lib
from lamd_jax.errors import ConfigError

# Keys of diffusion.loss.
DISTANCES: dict[str, Callable[[jax.Array], jax.Array]] = {
  "l1": jnp.abs,
  "l2": jnp.square,
}


def min_snr(process: process_lib.Process, t: jax.Array, gamma: float) -> jax.Array:
  """Returns the min-SNR-gamma weight (Hang et al., arXiv 2303.09556, section 3.4).

  min(SNR, gamma) is the weight of a squared error in x0. A loss on another prediction
  has it times (d x0 / d raw)^2, which gives min(SNR, gamma)/SNR for eps and
  min(SNR, gamma)/(SNR + 1) for v. The level of zero SNR, where there is one, so has
  no weight; leave gamma at 0 to train it.

  Args:
    process: the process.
    t: any shape, float, schedule position.
    gamma: the paper takes 5.
  """
  snr = process.snr(t)
  alpha, sigma = process.alpha_sigma(t)
  if process.prediction == "eps":
    return jnp.minimum(1.0, gamma / snr)
  slope = {"x0": jnp.ones_like(sigma), "v": sigma, "flow": sigma / (alpha + sigma)}
  return jnp.minimum(snr, gamma) * jnp.square(slope[process.prediction])


def loss(
  process: process_lib.Process,
  raw: jax.Array,
  target: jax.Array,
  t: jax.Array,
  kind: str,
  min_snr_gamma: float,
) -> jax.Array:
  """Returns the loss of each example, [B] float32: mean over all its elements.

  Args:
    process: the process.
    raw: [B,T,h,w,C] float, the network's answer.
    target: same shape, `process.target(...)`.
    t: [B] or [B,T] float, schedule position.
    kind: l1 | l2.
    min_snr_gamma: gamma of `min_snr`, 0 for unit weight. The weight is derived for l2;
      l1 takes it as it is.
  """
  chex.assert_equal_shape([raw, target])
  chex.assert_rank(t, {1, 2})
  if kind not in DISTANCES:
    names = ", ".join(DISTANCES)
    raise ConfigError(f"diffusion.loss={kind!r}: must be one of {names}")
  error = DISTANCES[kind](raw.astype(jnp.float32) - target.astype(jnp.float32))
  if min_snr_gamma:
    weight = min_snr(process, t, min_snr_gamma)
    error = error * weight.reshape(t.shape + (1,) * (error.ndim - t.ndim))
  return error.mean(axis=tuple(range(1, error.ndim)))
