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

  Dowson and Landau (1982). The square root is taken by eigh of symmetric matrices
  with eigenvalues clipped at 0, so singular covariances (N <= D) need no epsilon.
  """
  a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
  mean = float(np.square(a.mean(0) - b.mean(0)).sum())
  # Few rows of many features span a small space; outside it both covariances are 0.
  outside = max(0, a.shape[1] - len(a) - len(b))
  if outside:
    basis = np.linalg.qr(np.concatenate([a - a.mean(0), b - b.mean(0)]).T)[0]
    a, b = a @ basis, b @ basis
  cov_a, cov_b = (_covariance(x, ddof) for x in (a, b))
  unit = ridge * np.eye(len(cov_a))
  values, vectors = np.linalg.eigh(cov_a + unit)
  root = (vectors * np.sqrt(values.clip(0))) @ vectors.T
  cross = np.sqrt(np.linalg.eigvalsh(root @ (cov_b + unit) @ root).clip(0)).sum()
  cross += outside * ridge
  covariance = float(np.trace(cov_a) + np.trace(cov_b) - 2 * cross)
  return Distance(mean + covariance, mean, covariance)


def _covariance(x: np.ndarray, ddof: int) -> np.ndarray:
  return np.atleast_2d(np.cov(x, rowvar=False, ddof=ddof))


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
