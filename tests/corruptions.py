# SPDX-License-Identifier: Apache-2.0
"""Clips made worse by degrees: what a score must rank, level 1 (hardly seen) to 5."""

from collections.abc import Callable

import numpy as np

_NOISE = (4, 8, 16, 32, 64)  # standard deviation, grey levels
_BLUR = (1, 2, 3, 5, 8)  # standard deviation, 1/64 of the picture's height
_SHUFFLE = (2, 4, 7, 11, 16)  # sixteenths of the frames, which change places


def noisy(clip: np.ndarray, level: int, draw: np.random.Generator) -> np.ndarray:
  """Adds Gaussian noise to clip [T,H,W,3] uint8."""
  noise = draw.standard_normal(clip.shape, np.float32) * _NOISE[level - 1]
  return np.clip(np.rint(clip + noise), 0, 255).astype(np.uint8)


def blurred(clip: np.ndarray, level: int, draw: np.random.Generator) -> np.ndarray:
  """Blurs frames by a Gaussian; beyond the border its pixels are repeated."""
  del draw
  x = clip.astype(np.float32)
  sigma = _BLUR[level - 1] * clip.shape[1] / 64
  for axis, length in ((1, clip.shape[1]), (2, clip.shape[2])):
    at = np.arange(-3 * length, 3 * length + 1)
    weight = np.exp(-np.square(at) / (2 * sigma**2))
    matrix = np.zeros((length, length), np.float32)
    for row in range(length):
      np.add.at(matrix[row], np.clip(row + at, 0, length - 1), weight / weight.sum())
    x = np.moveaxis(np.tensordot(matrix, x, (1, axis)), 0, axis)
  return np.clip(np.rint(x), 0, 255).astype(np.uint8)


def shuffled(clip: np.ndarray, level: int, draw: np.random.Generator) -> np.ndarray:
  """Moves randomly chosen frames of the clip, each to the place of another."""
  count = max(2, round(_SHUFFLE[level - 1] * len(clip) / 16))
  chosen = draw.permutation(len(clip))[:count]
  order = np.arange(len(clip))
  order[chosen] = np.roll(chosen, 1)
  return clip[order]


CORRUPTIONS: dict[
  str, Callable[[np.ndarray, int, np.random.Generator], np.ndarray]
] = {"noise": noisy, "blur": blurred, "shuffle": shuffled}
