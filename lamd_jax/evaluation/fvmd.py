# SPDX-License-Identifier: Apache-2.0
"""Frechet video motion distance (arXiv 2407.16124) on given tracks.

Points on a 20x20 grid are followed through windows of 16 frames, by a tracker or, in a
procedural world, by truth. Directions of velocity and acceleration are counted by
cells, weighted by their size, and the counts compared as Gaussians.

The paper's release passes positions where its acceleration function expects
velocities: what it calls acceleration is the velocity again, later by a frame.
`released` keeps that, for scores that compare; else it is the acceleration.
"""

from __future__ import annotations

import numpy as np

from lamd_jax.errors import DataError
from lamd_jax.evaluation import frechet

FRAMES = 16
GRID = 20
_ANGLES = 8
_CELL = (4, 5, 5)  # frames, rows, columns of points
RIDGE = 1e-5  # added to both covariances within the root, as the release does


def windows(tracks: np.ndarray) -> np.ndarray:
  """Cuts tracks [N,T,20,20,2] into windows [M,16,20,20,2] that share one frame."""
  if tracks.ndim != 5 or tracks.shape[2:] != (GRID, GRID, 2):
    raise DataError(f"tracks are {tracks.shape}; [N,T,{GRID},{GRID},2] is due")
  if tracks.shape[1] < FRAMES:
    raise DataError(f"tracks have {tracks.shape[1]} frames; FVMD needs {FRAMES}")
  starts = range(0, tracks.shape[1] - FRAMES + 1, FRAMES - 1)
  return np.concatenate([tracks[:, s : s + FRAMES] for s in starts])


def velocity(positions: np.ndarray) -> np.ndarray:
  """Steps between frames of [M,T,...], pixels; the first is 0."""
  return np.diff(positions, axis=1, prepend=positions[:, :1])


def acceleration(velocities: np.ndarray) -> np.ndarray:
  """Steps between velocities [M,T,...]; the first two are 0, having no velocity before."""
  found = np.diff(velocities, axis=1, prepend=velocities[:, :1])
  found[:, :2] = 0
  return found


def histogram(vectors: np.ndarray) -> np.ndarray:
  """Counts of directions by cell, [M,512], of vectors [M,16,20,20,2] in pixels."""
  size = np.linalg.norm(vectors, axis=-1)
  angle = np.arctan2(vectors[..., 1], vectors[..., 0])
  bins = np.floor((angle + np.pi) / (2 * np.pi / _ANGLES)).astype(int)
  bins = bins.clip(0, _ANGLES - 1)  # an angle of exactly pi
  weight = np.ceil(np.log2(1 + size.clip(0, 255))) / _ANGLES
  spread = weight[..., None] * (bins[..., None] == np.arange(_ANGLES))
  count = spread.shape[0]
  cells = [n for pair in zip(spread.shape[1:4], _CELL) for n in (pair[0] // pair[1], pair[1])]
  return spread.reshape(count, *cells, _ANGLES).sum((2, 4, 6)).reshape(count, -1)


def features(tracks: np.ndarray, released: bool) -> np.ndarray:
  """Returns [M,1024]: velocities' histograms, then accelerations'.

  Args:
    tracks: [N,T,20,20,2] float, pixels (x, y) of a 256x256 picture.
    released: see the top of this file.
  """
  positions = windows(np.asarray(tracks, np.float64))
  speed = velocity(positions)
  second = acceleration(positions if released else speed)
  return np.concatenate([histogram(speed), histogram(second)], 1)


def distance(a: np.ndarray, b: np.ndarray, released: bool) -> float:
  """FVMD of two sets of tracks; called fvmd_release or fvmd_true, never just FVMD."""
  x, y = features(a, released), features(b, released)
  return frechet.distance(x, y, ridge=RIDGE).total
