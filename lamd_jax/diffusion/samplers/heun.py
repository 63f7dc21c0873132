# SPDX-License-Identifier: Apache-2.0
"""Heun's method on the probability-flow ODE, in straight coordinates.

Algorithm 1 of EDM (Karras et al., arXiv 2206.00364) with the clock of euler.py in place
of theirs: an Euler step, a second slope at its end, and the step again with the mean of
both. Second order at two network calls a step. As there, a step to the clean end stays
Euler's, for no network is asked at sigma=0. Steps are counted as in all samplers: S
steps make 2S calls, or 2S-1 to a clean end.
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
  """One row a network call, so that the network is compiled once, not twice."""

  t: np.ndarray
  enter: np.ndarray  # 1/(alpha+sigma) where the call is made
  leave: np.ndarray  # alpha+sigma where the step ends
  ds: np.ndarray  # of the step
  second: np.ndarray  # bool: the call at the step's end


def _table(path: chain.Path, grid: np.ndarray) -> _Table:
  scale = path.alpha + path.sigma
  step = np.repeat(np.arange(len(grid) - 1), 2)
  second = np.tile([False, True], len(grid) - 1)
  if path.sigma[-1] == 0:
    step, second = step[:-1], second[:-1]
  ds = np.diff(path.sigma / scale)
  at = step + second
  return _Table(grid[at], 1 / scale[at], scale[step + 1], ds[step], second)


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
  chain.refuse_noise(eta, "heun")
  table = _table(chain.path(process, grid), grid)

  def call(carry, row):
    point, y, first = carry
    z, x0, eps = chain.predict(denoise, process, point, row.t, conditions, constraint)
    slope = eps - x0
    y = jnp.where(row.second, y, row.enter * z)
    mean = jnp.where(row.second, (first + slope) / 2, slope)
    return row.leave * (y + row.ds * mean), y, slope

  zeros = jnp.zeros_like(z)
  states = chain.run(call, (z, zeros, zeros), table, return_states)
  if not return_states:
    return states
  # A step is over after its second call, the last one perhaps after its only call.
  ends = np.flatnonzero(np.append(~table.second[1:], True))
  return states[ends]
