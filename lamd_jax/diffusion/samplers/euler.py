# SPDX-License-Identifier: Apache-2.0
"""Euler's method on the probability-flow ODE, in straight coordinates.

y = z/(alpha+sigma) moves from noise to data as y = (1-s) x0 + s eps with the clock
s = sigma/(alpha+sigma) in [0, 1], so dy/ds = eps - x0: any schedule becomes rectified
flow's (arXiv 2209.03003, equation 1), finite at zero SNR and at the clean end. First
order. For prediction "flow" this is the usual Euler on the raw output. A step holds
(x0, eps) constant, so the result equals that of DDIM with eta=0, and so of Euler in
EDM's coordinates; what differs from those is heun.py, which builds on this.
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
  t: np.ndarray
  enter: np.ndarray  # 1/(alpha+sigma) here
  leave: np.ndarray  # alpha+sigma where the step goes
  ds: np.ndarray


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
  chain.refuse_noise(eta, "euler")
  path = chain.path(process, grid)
  scale = path.alpha + path.sigma
  table = _Table(grid[:-1], 1 / scale[:-1], scale[1:], np.diff(path.sigma / scale))

  def step(carry, row):
    z, x0, eps = chain.predict(
      denoise, process, carry[0], row.t, conditions, constraint
    )
    return (row.leave * (row.enter * z + row.ds * (eps - x0)),)

  return chain.run(step, (z,), table, return_states)
