# SPDX-License-Identifier: Apache-2.0
"""Percentile bootstrap of a mean over clips, some of which may have no score."""

from __future__ import annotations

from typing import Any

import numpy as np


def mean(values: np.ndarray, draws: np.ndarray) -> dict[str, Any]:
  """Mean and 95 % interval of what is not nan; None where all is.

  Args:
    values: [N], one a clip.
    draws: [R,N] int, the clips of each resample.
  """
  if np.isnan(values).all():
    return {"mean": None, "interval": None}
  picked = values[draws]
  known = ~np.isnan(picked)
  means = np.where(known, picked, 0).sum(1) / np.maximum(known.sum(1), 1)
  low, high = np.percentile(means[known.any(1)], [2.5, 97.5])
  return {"mean": float(np.nanmean(values)), "interval": [float(low), float(high)]}
