# SPDX-License-Identifier: Apache-2.0
"""Checks without a reference network: does it move, does it copy, does it warp?

A still video has perfect consistency and the colours of its first frame. These numbers
stand beside every score, for real clips and for generated ones. Clips are uint8
[N,T,H,W,3]; differences are in grey levels of 255.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from lamd_jax.errors import DataError

STATIC = 0.5  # a clip whose frames differ by less, on average, stands still
COPY = 1.0  # a frame this close to the first one is a copy of it
_BINS = 16
_SIDE = 16  # pixels of the thumbnails that neighbours are sought by


class Statistics(NamedTuple):
  """One clip; `mean` gives those of a set."""

  difference: float  # mean |x_t - x_t+1|
  difference_std: float  # over the clip's steps
  static: float  # 1 if the clip stands still
  first_frame_copies: float  # fraction of later frames
  flickering: float  # (255 - difference) / 255: VBench's temporal flickering
  histogram: np.ndarray  # [3,16] of colours, each row sums to 1


def statistics(clip: np.ndarray) -> Statistics:
  """Returns the statistics of one clip [T,H,W,3] uint8, T >= 2."""
  x = clip.astype(np.float32)
  steps = np.abs(np.diff(x, axis=0)).mean((1, 2, 3))
  first = np.abs(x[1:] - x[0]).mean((1, 2, 3))
  levels = clip.reshape(-1, 3) // (256 // _BINS)
  counts = [np.bincount(levels[:, c], minlength=_BINS) for c in range(3)]
  return Statistics(
    float(steps.mean()),
    float(steps.std()),
    float(steps.mean() < STATIC),
    float((first < COPY).mean()),
    float((255 - steps.mean()) / 255),
    np.array(counts) / len(levels),
  )


def mean(clips: Iterable[Statistics]) -> Statistics:
  return Statistics(*(np.mean(field, axis=0) for field in zip(*clips)))


def histogram_distance(a: np.ndarray, b: np.ndarray) -> float:
  """Half the L1 distance of histograms of `Statistics`, mean over channels: 0 to 1."""
  return float(np.abs(a - b).sum(1).mean() / 2)


def thumbnails(clips: np.ndarray) -> np.ndarray:
  """Means over 16x16 blocks of each frame, [N, T * 16 * 16 * 3] float32."""
  height, width = clips.shape[2:4]
  if min(height, width) < _SIDE:
    raise DataError(f"clips are {width}x{height}; {_SIDE} pixels or more are needed")
  edges = lambda length: np.arange(_SIDE) * length // _SIDE
  sums = np.add.reduceat(clips.astype(np.float32), edges(height), 2)
  sums = np.add.reduceat(sums, edges(width), 3)
  size = lambda length: np.diff([*edges(length), length])
  sums /= size(height)[:, None, None] * size(width)[:, None]
  return sums.reshape(len(clips), -1)


class Nearest(NamedTuple):
  distance: np.ndarray  # [N] root mean square difference of thumbnails, grey levels
  index: np.ndarray  # [N] of the nearest training clip


def nearest(ours: np.ndarray, training: Iterable[np.ndarray]) -> Nearest:
  """Finds the training clip nearest to each of ours: has it been learnt by heart?

  Compares frame by frame, without shifts in time.

  Args:
    ours: `thumbnails` of N clips.
    training: batches of thumbnails of training clips, any number of them.
  """
  best = np.full(len(ours), np.inf)
  index = np.full(len(ours), -1)
  start = 0
  for theirs in training:
    if theirs.shape[1] != ours.shape[1]:
      raise DataError("training clips have another number of frames than ours")
    for row, thumbnail in enumerate(ours):
      square = np.square(theirs - thumbnail).mean(1)
      found = int(square.argmin())
      if square[found] < best[row]:
        best[row], index[row] = square[found], start + found
    start += len(theirs)
  if not start:
    raise DataError("there is no training clip to compare with")
  return Nearest(np.sqrt(best), index)


def warp_error(clip: np.ndarray, flow: np.ndarray) -> float:
  """Mean |x_t - x_t+1 fetched along the flow|, grey levels, where the flow stays inside.

  Args:
    clip: [T,H,W,3] uint8.
    flow: [T-1,H,W,2] float, pixels (right, down) from frame t to t+1.

  Returns:
    NaN if no pixel stays inside.
  """
  if flow.shape != (len(clip) - 1, *clip.shape[1:3], 2):
    raise DataError(f"flow is {flow.shape} for a clip {clip.shape}; [T-1,H,W,2] is due")
  height, width = clip.shape[1:3]
  rows, columns = np.mgrid[:height, :width].astype(np.float64)
  total, count = 0.0, 0
  for before, after, step in zip(clip, clip[1:], flow):
    x, y = columns + step[..., 0], rows + step[..., 1]
    inside = (x >= 0) & (x <= width - 1) & (y >= 0) & (y <= height - 1)
    x, y = x[inside], y[inside]
    x0, y0 = np.floor(x).astype(int), np.floor(y).astype(int)
    x1, y1 = np.minimum(x0 + 1, width - 1), np.minimum(y0 + 1, height - 1)
    fx, fy = (x - x0)[:, None], (y - y0)[:, None]
    top = (1 - fx) * after[y0, x0] + fx * after[y0, x1]
    bottom = (1 - fx) * after[y1, x0] + fx * after[y1, x1]
    difference = np.abs((1 - fy) * top + fy * bottom - before[inside])
    total, count = total + difference.sum(), count + difference.size
  return total / count if count else float("nan")


def block_matching(clip: np.ndarray, block: int = 8, reach: int = 4) -> np.ndarray:
  """A flow by whole pixels for scores that must not need a flow network.

  Each block takes the shift within `reach` pixels of least absolute difference, the
  shortest of equal ones. Scores that use it say "block matching".

  Returns:
    [T-1,H,W,2] float64, as `warp_error` takes it.
  """
  height, width = clip.shape[1:3]
  shifts = [(dx, dy) for dy in range(-reach, reach + 1) for dx in range(-reach, reach + 1)]
  shifts.sort(key=lambda s: s[0] ** 2 + s[1] ** 2)
  rows, columns = np.arange(0, height, block), np.arange(0, width, block)
  flow = np.zeros((len(clip) - 1, height, width, 2))
  around = ((reach, reach), (reach, reach), (0, 0))
  for t, (before, after) in enumerate(zip(clip, clip[1:])):
    before = before.astype(np.int32)
    padded = np.pad(after.astype(np.int32), around, mode="edge")
    costs = []
    for dx, dy in shifts:
      moved = padded[reach + dy :, reach + dx :][:height, :width]
      cost = np.abs(moved - before).sum(-1)
      costs.append(np.add.reduceat(np.add.reduceat(cost, rows, 0), columns, 1))
    best = np.array(shifts)[np.argmin(costs, axis=0)]
    wide = best.repeat(block, 0).repeat(block, 1)
    flow[t] = wide[:height, :width]
  return flow
