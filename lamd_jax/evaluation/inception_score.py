# SPDX-License-Identifier: Apache-2.0
"""Inception score (Salimans et al., arXiv 1606.03498): confident and varied at once."""

from __future__ import annotations

import numpy as np

from lamd_jax.errors import DataError


def score(
  probabilities: np.ndarray, splits: int, epsilon: float = 0.0
) -> tuple[float, float]:
  """Returns mean and standard deviation over splits of exp(mean KL(p(y|x) || p(y))).

  It lies between 1 and the number of classes, and grows with the clips of a split.

  Args:
    probabilities: [N,K], rows sum to 1.
    splits: parts, in turn, as equal as can be: 2048 in ten are 204 or 205 each, as in
      StyleGAN-V's script.
    epsilon: added to probabilities within logarithms, as TGAN2's script does.
  """
  p = np.asarray(probabilities, np.float64)
  if p.ndim != 2 or not 1 <= splits <= len(p):
    raise DataError(f"{p.shape} probabilities cannot be cut into {splits} splits")
  if not np.allclose(p.sum(1), 1, atol=1e-4) or p.min() < 0:
    raise DataError("probabilities do not sum to 1: softmax them first")
  found = []
  cuts = np.arange(splits + 1) * len(p) // splits
  for begin, end in zip(cuts, cuts[1:]):
    part = p[begin:end]
    marginal = part.mean(0)
    with np.errstate(divide="ignore", invalid="ignore"):
      terms = part * (np.log(part + epsilon) - np.log(marginal + epsilon))
    # 0 log 0 is 0.
    found.append(np.exp(np.where(part > 0, terms, 0).sum(1).mean()))
  return float(np.mean(found)), float(np.std(found))
