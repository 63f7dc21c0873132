# SPDX-License-Identifier: Apache-2.0
"""Multistep sampling of a consistency function (Song et al., arXiv 2303.01469, alg. 1).

Each step jumps to a clean clip, x0 = f(z_t, t), and noises it afresh to the next level,
z_s = alpha_s x0 + sigma_s eps. One step is a sample already; further ones mend it, each
at the price of what the noise hides. The network must have been distilled: of a plain
denoiser x0 is the mean of all clips that z_t could have been, and the result a blur.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lamd_jax import types
from lamd_jax.diffusion import consistency
from lamd_jax.diffusion import constraints
from lamd_jax.diffusion import process as process_lib
from lamd_jax.diffusion.samplers import chain


class _Table(NamedTuple):
  i: np.ndarray
  t: np.ndarray
  alpha: np.ndarray  # of the level a step goes to, as sigma
  sigma: np.ndarray


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
  """Runs the chain; see chain.py for the arguments. `eta` is ignored: noise is new."""
  del eta
  path = chain.path(process, grid)
  answer = consistency.function(denoise, process)
  table = _Table(np.arange(len(grid) - 1), grid[:-1], path.alpha[1:], path.sigma[1:])

  def step(carry, row):
    z = carry[0]
    t = jnp.full(z.shape[:1], row.t, z.dtype)
    if constraint is not None:
      z = constraint(z, t)
    return (row.alpha * answer(z, t, conditions) + row.sigma * noise(row.i),)

  return chain.run(step, (z,), table, return_states)
