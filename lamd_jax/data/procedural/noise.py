# SPDX-License-Identifier: Apache-2.0
"""Periodic band-passed noise and its look-up; what the worlds are textured with."""

from __future__ import annotations

import numpy as np


def smoothstep(x: np.ndarray) -> np.ndarray:
  """Maps (-inf,0] to 0, [1,inf) to 1, smoothly in between."""
  x = np.clip(x, 0, 1)
  return x * x * (3 - 2 * x)


def band_tiles(
  rng: np.random.Generator, size: int, bands: tuple[tuple[int, int], ...]
) -> np.ndarray:
  """Returns periodic noise [bands,size,size] float64, unit variance in each band.

  `bands` are [low, high) in cycles a tile; within a band the amplitude falls as 1/k.
  Disjoint bands of one white-noise tile are independent, so one forward transform
  serves all. float64, because the last bits of a transform differ between machines:
  after rounding to float32 and uint8 they no longer show.
  """
  spectrum = np.fft.rfft2(rng.random((size, size)) - 0.5)
  ky = np.fft.fftfreq(size, 1 / size)[:, None]
  kx = np.fft.rfftfreq(size, 1 / size)[None]
  k = np.sqrt(ky * ky + kx * kx)
  tiles = []
  for low, high in bands:
    gain = np.where((k >= low) & (k < high), 1 / np.maximum(k, 1), 0)
    tile = np.fft.irfft2(spectrum * gain, (size, size))
    tiles.append(tile / tile.std())
  return np.stack(tiles)


def band_line(rng: np.random.Generator, x: np.ndarray, low: int, high: int) -> np.ndarray:
  """Returns 1-D noise at x (any shape, period 1), in [-1,1]: cycles low, ..., high."""
  k = np.arange(low, high + 1)
  phases = rng.random(len(k))
  waves = np.sin(2 * np.pi * (k * x[..., None] + phases)) / k
  return waves.sum(-1) / (1 / k).sum()


def lookup(tiles: np.ndarray, u: np.ndarray, v: np.ndarray) -> np.ndarray:
  """Bilinear look-up in periodic tiles.

  Args:
    tiles: [size,size,C] float32, size a power of two; axis 0 is v, axis 1 is u.
    u: [N] float32, in tile pixels, any value.
    v: [N] float32, likewise.

  Returns:
    [N,C] float32.
  """
  size, _, channels = tiles.shape
  flat = tiles.reshape(-1, channels)
  floor_u, floor_v = np.floor(u), np.floor(v)
  fu, fv = (u - floor_u)[:, None], (v - floor_v)[:, None]
  mask = size - 1
  u0, v0 = floor_u.astype(np.int32) & mask, (floor_v.astype(np.int32) & mask) * size
  u1, v1 = (u0 + 1) & mask, (v0 + size) & (size * size - 1)
  top = flat.take(v0 + u0, 0)
  top += fu * (flat.take(v0 + u1, 0) - top)
  low = flat.take(v1 + u0, 0)
  low += fu * (flat.take(v1 + u1, 0) - low)
  top += fv * (low - top)
  return top
