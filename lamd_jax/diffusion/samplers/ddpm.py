# SPDX-License-Identifier: Apache-2.0
"""DDPM's ancestral sampling (Ho et al., arXiv 2006.11239, algorithm 2).

Each step draws from q(z_s | z_t, x0) at the predicted x0, with the posterior's variance
(beta tilde in the paper) and x0 not clipped. It converges to the data's distribution as
the levels grow finer, at first order in the step; on few steps its samples have too
little variance. The same as DDIM with eta=1, written as the paper does.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import numpy as np

from lamd_jax import types
from lamd_jax.diffusion import constraints
from lamd_jax.diffusion import process as process_lib
from lamd_jax.diffusion.samplers import chain


class _Table(NamedTuple):
  i: np.ndarray
  t: np.ndarray
  keep: np.ndarray  # factor of z in the posterior's mean
  x0: np.ndarray  # factor of x0 likewise
  std: np.ndarray


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
  """Runs the chain; see chain.py for the arguments. `eta` is ignored."""
  del eta
  path = chain.path(process, grid)
  # Equation 7 for steps t -> s of any length; alpha_t/alpha_s is sqrt(alpha) there.
  ratio = path.sigma[1:] ** 2 / path.sigma[:-1] ** 2
  keep = path.alpha[:-1] / path.alpha[1:] * ratio
  table = _Table(
    i=np.arange(len(grid) - 1),
    t=grid[:-1],
    keep=keep,
    x0=path.alpha[1:] - keep * path.alpha[:-1],
    std=chain.posterior_std(path),
  )

  def step(carry, row):
    z, x0, _ = chain.predict(denoise, process, carry[0], row.t, conditions, constraint)
    return (row.keep * z + row.x0 * x0 + row.std * noise(row.i),)

  return chain.run(step, (z,), table, return_states)
