# SPDX-License-Identifier: Apache-2.0
"""DDIM backwards: the state from which a deterministic chain leads to given latents.

Song et al. (arXiv 2010.02502), section 4.3: DDIM with eta=0 is Euler's method on an
ordinary differential equation, which can be followed in either direction. Both ways
are of first order, so what comes back differs from what was given by an error that
falls as one over the number of steps.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import numpy as np

from lamd_jax import types
from lamd_jax.diffusion import process as process_lib
from lamd_jax.diffusion.samplers import chain


class _Table(NamedTuple):
  t: np.ndarray
  alpha: np.ndarray  # of the level a step goes to, as sigma
  sigma: np.ndarray


def invert(
  denoise: chain.Denoiser,
  process: process_lib.Process,
  z: jax.Array,
  conditions: types.Conditions,
  *,
  grid: np.ndarray,
) -> jax.Array:
  """Returns the state at grid[0], [B,T,h,w,C], of the chain that ends with z.

  Args:
    denoise: the network without guidance: guided, the way back rarely ends nearby.
    process: the process.
    z: [B,T,h,w,C], at grid[-1].
    conditions: passed on untouched.
    grid: as the chain's, [S+1], decreasing.
  """
  path, up = chain.path(process, grid), grid[::-1]
  table = _Table(
    # No network was trained at the clean end; the lowest level is all but that.
    t=np.maximum(up[:-1], 0),
    alpha=path.alpha[::-1][1:],
    sigma=path.sigma[::-1][1:],
  )

  def step(carry, row):
    _, x0, eps = chain.predict(denoise, process, carry[0], row.t, conditions, None)
    return (row.alpha * x0 + row.sigma * eps,)

  return chain.run(step, (z,), table, return_states=False)
