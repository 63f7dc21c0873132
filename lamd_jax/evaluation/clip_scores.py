# SPDX-License-Identifier: Apache-2.0
"""Scores of CLIP features: does a clip fit its text, does it stay itself?

Features come from `networks.clip_image` and `networks.clip_text`, or from a file; the
report names which CLIP. A still clip has a consistency of 1: print its motion beside it.
"""

from __future__ import annotations

import numpy as np

from lamd_jax.errors import DataError


def _unit(x: np.ndarray) -> np.ndarray:
  x = np.asarray(x, np.float64)
  norm = np.linalg.norm(x, axis=-1, keepdims=True)
  if not np.isfinite(norm).all() or not (norm > 0).all():
    raise DataError("CLIP features are not finite, or all zero in some row")
  return x / norm


def clipsim(text: np.ndarray, frames: np.ndarray) -> np.ndarray:
  """Mean cosine of a caption with its clip's frames, [N]; also prompt consistency.

  Args:
    text: [N,D], pooled and projected.
    frames: [N,T,D], projected.
  """
  if text.ndim != 2 or frames.ndim != 3 or text.shape != frames[:, 0].shape:
    raise DataError(f"text is {text.shape}, frames {frames.shape}; [N,D], [N,T,D] are due")
  return np.einsum("nd,ntd->nt", _unit(text), _unit(frames)).mean(1)


def frame_consistency(frames: np.ndarray) -> np.ndarray:
  """Mean cosine of consecutive frames, [N], of features [N,T,D], T >= 2."""
  f = _unit(frames)
  return np.einsum("ntd,ntd->nt", f[:, 1:], f[:, :-1]).mean(1)


def background_consistency(frames: np.ndarray) -> np.ndarray:
  """VBench's: over t > 0 the mean of the cosines with the frame before and the first.

  Negative cosines count as 0.
  """
  f = _unit(frames)
  before = np.einsum("ntd,ntd->nt", f[:, 1:], f[:, :-1])
  first = np.einsum("ntd,nd->nt", f[:, 1:], f[:, 0])
  return ((before.clip(0) + first.clip(0)) / 2).mean(1)
