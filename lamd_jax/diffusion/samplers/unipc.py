# SPDX-License-Identifier: Apache-2.0
"""UniPC of order 2 (Zhao et al., arXiv 2302.04867, algorithms 1 and 2), on x0.

Each network call serves twice: it corrects the step that led to it (UniC) and predicts
the next (UniP). In lambda = log(alpha/sigma), with h the step and r from 0 to 1 in it,

  z' = sigma'/sigma z + alpha' h int_0^1 exp(-h (1-r)) x0(r) dr    (exact)

where x0(r) is replaced by the polynomial through the predictions at hand: two for the
predictor, three, the new one among them, for the corrector. The paper's weights a_p
fulfil the same conditions up to a higher order in h, whatever its B(h); we take the
integrals themselves, so B(h) does not occur. Third order at one call a step.

Steps to or from an infinite lambda (clean, zero SNR) are of first order, which is DDIM,
and are not corrected: the result, which no network call follows, never is.
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
  # The step that led here, from the state before it: factors of that state and of the
  # predictions [here, before, before that]; all 0 where there is nothing to correct.
  correct: np.ndarray  # [S]
  correct_x0: np.ndarray  # [S,3]
  corrected: np.ndarray  # [S] bool
  # The step from here: factors of the state and of [here, before].
  keep: np.ndarray  # [S]
  keep_x0: np.ndarray  # [S,2]


def _weights(h: float, nodes: list[float]) -> np.ndarray:
  """Returns h int_0^1 exp(-h (1-r)) l_k(r) dr for the Lagrange basis l_k on `nodes`."""
  r, w = np.polynomial.legendre.leggauss(32)  # exact to rounding at any useful h
  r, w = (r + 1) / 2, w / 2
  kernel = h * w * np.exp(-h * (1 - r))
  basis = [
    np.prod([(r - b) / (a - b) for b in nodes if b != a], axis=0) for a in nodes
  ]
  return np.array([np.sum(kernel * b) for b in basis])


def _table(path: chain.Path, grid: np.ndarray) -> _Table:
  steps = len(grid) - 1
  h = np.diff(path.log_ratio)
  keep = path.sigma[1:] / path.sigma[:-1]
  keep_x0 = np.zeros((steps, 2))
  correct_x0 = np.zeros((steps, 3))
  for i in range(steps):
    if not np.isfinite(h[i]):
      keep_x0[i, 0] = path.alpha[i + 1]  # h -> inf: z' = alpha' x0 + sigma'/sigma z
      continue
    # Where the prediction before lies, in units of this step.
    before = [-h[i - 1] / h[i]] if i and np.isfinite(h[i - 1]) else []
    known = [0.0, *before]
    keep_x0[i, : len(known)] = path.alpha[i + 1] * _weights(h[i], known)
    if i + 1 < steps:
      nodes = [1.0, *known]
      correct_x0[i + 1, : len(nodes)] = path.alpha[i + 1] * _weights(h[i], nodes)
  corrected = np.any(correct_x0, axis=1)
  correct = np.where(corrected, np.append(0.0, keep[:-1]), 0.0)
  return _Table(grid[:-1], correct, correct_x0, corrected, keep, keep_x0)


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
  """Runs the chain; see chain.py for the arguments.

  With a constraint, the network sees projected states; what the corrector makes of
  them is projected before the next call.
  """
  chain.refuse_noise(eta, "unipc")
  table = _table(chain.path(process, grid), grid)

  def step(carry, row):
    predicted, start, before, before_that = carry
    z, x0, _ = chain.predict(
      denoise, process, predicted, row.t, conditions, constraint
    )
    a = row.correct_x0
    corrected = row.correct * start + a[0] * x0 + a[1] * before + a[2] * before_that
    z = jnp.where(row.corrected, corrected, z)
    predicted = row.keep * z + row.keep_x0[0] * x0 + row.keep_x0[1] * before
    return predicted, z, x0, before

  zeros = jnp.zeros_like(z)
  return chain.run(step, (z, zeros, zeros, zeros), table, return_states)
