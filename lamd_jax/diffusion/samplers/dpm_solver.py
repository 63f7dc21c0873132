# SPDX-License-Identifier: Apache-2.0
"""DPM-Solver++(2M) (Lu et al., arXiv 2211.01095, algorithm 2).

A two-step exponential integrator of the probability-flow ODE, on x0-predictions and in
lambda = log(alpha/sigma): second order with one network call a step. The first step, and
steps to or from an infinite lambda (clean, zero SNR), are of first order, which is DDIM.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lamd_jax import types
from lamd_jax.diffusion import constraints
from lamd_jax.diffusion import process as process_lib
from lamd_jax.diffusion.samplers import chain


class _Table(NamedTuple):
  t: np.ndarray
  keep: np.ndarray  # sigma'/sigma
  x0: np.ndarray  # alpha' (1 - exp(-h))
  slope: np.ndarray  # 1/(2r) = h / (2 h_before), 0 for a step of first order


def sample(
  denoise: chain.Denoiser,
  process: process_lib.Process,
  z: jax.Array,
  conditions: types.Conditions,
  *,
  grid: np.ndarray,
  noise: chain.Noise,
  eta: float,
  constraint: constraints.Constraint | None = None,
  return_states: bool = False,
) -> jax.Array:
  """Runs the chain; see chain.py for the arguments."""
  chain.refuse_noise(eta, "dpmpp_2m")
  path = chain.path(process, grid)
  h = np.diff(path.log_ratio)
  with np.errstate(invalid="ignore"):
    slope = np.where(np.isfinite(h[1:]), h[1:] / (2 * h[:-1]), 0.0)
  table = _Table(
    t=grid[:-1],
    keep=path.sigma[1:] / path.sigma[:-1],
    x0=-path.alpha[1:] * np.expm1(-h),
    slope=np.append(0.0, slope),
  )

  def step(carry, row):
    z, before = carry
    z, x0, _ = chain.predict(denoise, process, z, row.t, conditions, constraint)
    extrapolated = (1 + row.slope) * x0 - row.slope * before
    return row.keep * z + row.x0 * extrapolated, x0

  return chain.run(step, (z, jnp.zeros_like(z)), table, return_states)
