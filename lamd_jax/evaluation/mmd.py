# SPDX-License-Identifier: Apache-2.0
"""Squared maximum mean discrepancies with polynomial kernels, in float64."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from lamd_jax.errors import DataError


def unbiased_cubic(a: np.ndarray, b: np.ndarray) -> float:
  """KVD: unbiased MMD^2 with k(x,y) = (x.y/D + 1)^3 (Binkowski et al., 1801.01401).

  Over all pairs, not subsets. Near 0 it may be negative, by chance.

  Args:
    a: [N,D] features, N at least 2.
    b: [M,D].
  """
  _check(a, b)
  kernel = lambda x, y: (x @ y.T / x.shape[1] + 1) ** 3
  a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)

  def within(x: np.ndarray) -> float:
    k = kernel(x, x)
    return (k.sum() - np.trace(k)) / (len(x) * (len(x) - 1))

  return float(within(a) + within(b) - 2 * kernel(a, b).mean())


def biased_square_x100(a: np.ndarray, b: np.ndarray) -> float:
  """JEDi (2410.05203): 100 times the biased MMD^2 with k(x,y) = (x.y/D)^2."""
  _check(a, b)
  kernel = lambda x, y: np.square(x @ y.T / x.shape[1]).mean()
  a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
  return float(100 * (kernel(a, a) + kernel(b, b) - 2 * kernel(a, b)))


def _check(a: np.ndarray, b: np.ndarray) -> None:
  if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[1] or min(len(a), len(b)) < 2:
    raise DataError(
      f"features are {a.shape} and {b.shape}; an MMD needs [N,D] and [M,D], 2 rows each"
    )


FUNCTIONS: dict[str, Callable[[np.ndarray, np.ndarray], float]] = {
  "unbiased_cubic": unbiased_cubic,
  "biased_square_x100": biased_square_x100,
}
