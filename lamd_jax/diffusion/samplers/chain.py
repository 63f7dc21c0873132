# SPDX-License-Identifier: Apache-2.0
"""What all samplers share: the signature, the coefficients' tables, the scan.

  sample(denoise, process, z, conditions, *, grid, noise, eta, constraint=None,
         return_states=False) -> z0

  denoise      (z, t [B] float, conditions) -> raw, same shape as z
  process      Process: turns raw into (x0, eps)
  z            [B,T,h,w,C] float32, the state at grid[0]; its dtype is the arithmetic's
  conditions   types.Conditions, passed on untouched
  grid         [S+1] float64 NumPy, positions; samplers/grid.py
  noise        step number (int32 scalar, traced, 0..S-1) -> standard normal like z;
               called only by samplers that add noise
  eta          DDIM's noise, 0 deterministic to 1 ancestral; the solvers of the
               probability-flow ODE refuse all but 0, DDPM has its own and ignores it
  constraint   project(z, t [B]) -> z before every network call, or None
  returns      the state at grid[-1], like z; with return_states the states at
               grid[1:], [S,B,T,h,w,C], whose last is the result
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lamd_jax import types
from lamd_jax.diffusion import constraints
from lamd_jax.diffusion import process as process_lib
from lamd_jax.diffusion import schedule as schedule_lib
from lamd_jax.diffusion.process import Denoiser
from lamd_jax.errors import ConfigError

Noise = Callable[[jax.Array], jax.Array]


class Path(NamedTuple):
  """The schedule at the S+1 positions of a grid, float64 on the host."""

  alpha: np.ndarray
  sigma: np.ndarray

  @property
  def log_ratio(self) -> np.ndarray:
    """lambda = log(alpha/sigma), the solvers' clock; infinite at the ends of a path."""
    with np.errstate(divide="ignore"):
      return np.log(self.alpha) - np.log(self.sigma)


def path(process: process_lib.Process, grid: np.ndarray) -> Path:
  """Reads the schedule along a grid, after checking the grid.

  Raises:
    ConfigError: positions that do not decrease or lie outside the schedule.
  """
  last = process.schedule.steps - 1
  if (
    grid.ndim != 1
    or len(grid) < 2
    or np.any(np.diff(grid) >= 0)
    or grid[0] > last
    or grid[-1] < schedule_lib.CLEAN
  ):
    raise ConfigError(
      f"sampling grid {grid}: must decrease within [{schedule_lib.CLEAN}, {last}] and "
      "have at least two positions"
    )
  return Path(*process.schedule.at(np.asarray(grid, np.float64)))


def posterior_std(path: Path) -> np.ndarray:
  """Returns the standard deviation of q(z_s | z_t, x0) for each step t -> s, [S].

  Equation 7 of DDPM (arXiv 2006.11239) for any two levels:
  std^2 = sigma_s^2 / sigma_t^2 (sigma_t^2 - (alpha_t/alpha_s)^2 sigma_s^2).
  """
  forward = path.alpha[:-1] / path.alpha[1:]
  fresh = path.sigma[:-1] ** 2 - (forward * path.sigma[1:]) ** 2
  return path.sigma[1:] / path.sigma[:-1] * np.sqrt(np.maximum(fresh, 0.0))


def predict(
  denoise: Denoiser,
  process: process_lib.Process,
  z: jax.Array,
  t: jax.Array,
  conditions: types.Conditions,
  constraint: constraints.Constraint | None,
) -> tuple[jax.Array, jax.Array, jax.Array]:
  """Projects the state, asks the network once, and returns (z projected, x0, eps).

  `t` is a scalar: all rows of a chain are at one position.
  """
  t = jnp.full(z.shape[:1], t, z.dtype)
  if constraint is not None:
    z = constraint(z, t)
  x0, eps = process.split(denoise(z, t, conditions), z, t)
  return z, x0, eps


def run(
  step: Callable[[Any, Any], Any], carry: Any, table: Any, return_states: bool
) -> jax.Array:
  """Scans `step(carry, row) -> carry` over the rows of `table`.

  Args:
    step: one step; the network is compiled once, as part of its body.
    carry: tuple of arrays; the first is the state, whose dtype is the arithmetic's.
    table: a NamedTuple of NumPy arrays [S, ...]; floating ones are cast.
    return_states: whether to keep all states or only the last.
  """
  dtype = carry[0].dtype

  def cast(column):
    floating = np.issubdtype(column.dtype, np.floating)
    return jnp.asarray(column, dtype if floating else None)

  def body(carry, row):
    carry = step(carry, row)
    return carry, carry[0] if return_states else None

  carry, states = jax.lax.scan(body, carry, jax.tree.map(cast, table))
  return states if return_states else carry[0]


def refuse_noise(eta: float, sampler: str) -> None:
  """Raises ConfigError if noise is asked of a solver that has none to give."""
  if eta:
    raise ConfigError(
      f"sample.eta={eta}: sampler {sampler!r} is deterministic; set eta=0, or take ddim"
    )
