# SPDX-License-Identifier: Apache-2.0
"""Frechet distance of two Gaussians, in float64, and its bootstrap interval."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class Distance(NamedTuple):
  """Squared Frechet distance and its two parts."""

  total: float
  mean: float  # |m1 - m2|^2
  covariance: float  # tr(C1 + C2 - 2 (C1 C2)^1/2)


def distance(
  a: np.ndarray, b: np.ndarray, ddof: int = 1, ridge: float = 0.0
) -> Distance:
  """Frechet distance of the Gaussians fitted to features a [N,D] and b [M,D].

  Covariances are sums over N - ddof; published scores use both 1 and 0. `ridge` times
  the unit matrix is added to both within the root, where a published score does so.

  Dowson and Landau (1982). With C = A^T A of centred rows A, the eigenvalues of C1 C2
  are the squared singular values of A1 A2^T. Nothing is squared and rooted again, so
  singular covariances (N <= D) cost no digits and need no epsilon.
  """
  a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
  mean = float(np.square(a.mean(0) - b.mean(0)).sum())
  a, b = ((x - x.mean(0)) / np.sqrt(len(x) - ddof) for x in (a, b))
  traces, outside = np.square(a).sum() + np.square(b).sum(), 0.0
  if ridge:
    rows = np.concatenate([a, b])
    count, width = rows.shape
    if count < width:  # outside the span of all rows both covariances are the ridge
      span = np.linalg.qr(rows.T)[0]
      a, b, outside = a @ span, b @ span, ridge * (width - count)
    unit = np.sqrt(ridge) * np.eye(a.shape[1])
    a, b = (np.concatenate([x, unit]) for x in (a, b))
  a, b = _short(a), _short(b)
  root = np.linalg.svd(a @ b.T, compute_uv=False).sum() + outside
  covariance = float(traces - 2 * root)
  return Distance(mean + covariance, mean, covariance)


def _short(rows: np.ndarray) -> np.ndarray:
  """At most as many rows as columns, with the same covariance."""
  if len(rows) <= rows.shape[1]:
    return rows
  try:
    return np.linalg.cholesky(rows.T @ rows).T
  except np.linalg.LinAlgError:  # singular in spite of its many rows; slower, exact
    return np.linalg.qr(rows, mode="r")


def standardise(
  reference: np.ndarray, *others: np.ndarray
) -> tuple[np.ndarray, ...]:
  """Maps all to the scale on which `reference` [N,D] has mean 0 and variance 1."""
  mean, std = reference.mean(0), reference.std(0)
  std = np.where(std > 1e-12, std, 1)
  return tuple((x - mean) / std for x in (reference, *others))


def bootstrap(
  a: np.ndarray, b: np.ndarray, resamples: int, seed: int
) -> dict[str, tuple[float, float]]:
  """95 % percentile intervals of `distance(a, b)`, both sets resampled by rows."""
  generator = np.random.default_rng(seed)
  draws = np.array([
    distance(
      a[generator.integers(0, len(a), len(a))], b[generator.integers(0, len(b), len(b))]
    )
    for _ in range(resamples)
  ])
  low, high = np.percentile(draws, [2.5, 97.5], axis=0)
  return {
    name: (float(low[i]), float(high[i])) for i, name in enumerate(Distance._fields)
  }
