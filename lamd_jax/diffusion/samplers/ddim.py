# SPDX-License-Identifier: Apache-2.0
"""DDIM (Song et al., arXiv 2010.02502, equation 12), any eta.

eta=0 is deterministic: a first-order solver of the probability-flow ODE, which it
integrates exactly for a constant (x0, eps). eta=1 has DDPM's posterior variance and is
the same chain as ddpm.py for the same noise. LVDM samples with eta=1 by default.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import numpy as np

from lamd_jax import types
from lamd_jax.diffusion import constraints
from lamd_jax.diffusion import process as process_lib
from lamd_jax.diffusion.samplers import chain
from lamd_jax.errors import ConfigError


class _Table(NamedTuple):
  i: np.ndarray
  t: np.ndarray
  alpha: np.ndarray  # of the level a step goes to
  direction: np.ndarray  # factor of the predicted noise, "direction pointing to x_t"
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
  """Runs the chain; see chain.py for the arguments. `eta` lies in [0, 1]."""
  if not 0 <= eta <= 1:
    raise ConfigError(f"sample.eta={eta}: must be from 0 (none) to 1 (DDPM's noise)")
  path = chain.path(process, grid)
  std = eta * chain.posterior_std(path)  # equation 16
  table = _Table(
    i=np.arange(len(grid) - 1),
    t=grid[:-1],
    alpha=path.alpha[1:],
    direction=np.sqrt(np.maximum(path.sigma[1:] ** 2 - std**2, 0.0)),
    std=std,
  )

  def step(carry, row):
    _, x0, eps = chain.predict(
      denoise, process, carry[0], row.t, conditions, constraint
    )
    z = row.alpha * x0 + row.direction * eps
    return (z + row.std * noise(row.i) if eta else z,)

  return chain.run(step, (z,), table, return_states)
