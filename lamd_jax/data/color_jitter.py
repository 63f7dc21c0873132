# SPDX-License-Identifier: Apache-2.0
"""Colour jitter: one change of brightness, contrast, saturation and hue for a clip.

The four follow each other in this order, as in LFDM (Ni et al. 2023), whose numbers
configs take over. Two things differ from a picture at a time: contrast has one centre,
the mean of the whole clip, so that what stands still keeps its colour when something
bright comes in; and only the end is rounded and clipped, so that no step loses lights
which a later one would bring back.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from lamd_jax.data import philox

# Grey of red, green and blue (BT.601, as Pillow's mode L).
_GREY = (np.float32(0.299), np.float32(0.587), np.float32(0.114))


class Change(NamedTuple):
  """What is done to a clip; (1, 1, 1, 0) is nothing."""

  brightness: float  # factor of everything
  contrast: float  # factor of the distance to the clip's mean grey
  saturation: float  # factor of the distance to the pixel's own grey
  hue: float  # turns of the colour circle, from red towards green


def draw(strengths: Sequence[float], seed: int, position: int) -> Change:
  """Returns the change of a place in the data order.

  Args:
    strengths: (b, c, s, h), `data.color_jitter`. Factors are uniform in [1-b, 1+b] and
      so on, the turn is uniform in [-h, h].
    seed: of the order.
    position: place in it.
  """
  # A stream of its own: starts and flips stay what they are without jitter.
  signed = 2 * philox.generator("color_jitter", seed, position).random(4) - 1
  b, c, s, h = (float(x * y) for x, y in zip(strengths, signed))
  return Change(1 + b, 1 + c, 1 + s, h)


def apply(video: np.ndarray, change: Change, inside: np.ndarray) -> np.ndarray:
  """Returns a clip with its colours changed, every frame alike.

  Args:
    video: [T,H,W,3] uint8.
    change: what is done.
    inside: [H,W] bool, what is picture. The rest is black and stays so.
  """
  # Sums of bytes are exact, in whatever order NumPy adds.
  sums = [int(video[..., c].sum(dtype=np.int64)) for c in range(3)]
  pixels = len(video) * np.count_nonzero(inside)
  mean = sum(float(w) * s for w, s in zip(_GREY, sums)) / pixels
  gain = np.float32(change.brightness * change.contrast)
  shift = np.float32((1 - change.contrast) * change.brightness * mean)
  saturation = np.float32(change.saturation)
  out = video.copy()
  for frame, changed in zip(video, out):  # one at a time stays in a core's cache
    color = np.moveaxis(frame, -1, 0).astype(np.float32, order="C")
    grey = _GREY[0] * color[0] + _GREY[1] * color[1] + _GREY[2] * color[2]
    color -= grey
    color *= saturation
    color += grey
    color *= gain
    color += shift
    if change.hue:
      _turn(color, np.float32(change.hue))
    color += np.float32(0.5)
    np.clip(color, 0, 255, out=color)
    new = np.moveaxis(color, 0, -1)
    np.copyto(changed, new, casting="unsafe", where=inside[..., None])
  return out


def _turn(color: np.ndarray, turns: np.float32) -> None:
  """Turns the hue of planes [3,...] float32 in place; HSV's value and chroma stay.

  Values may lie outside of [0, 255]: only differences and the largest one count.
  """
  red, green, blue = color
  high = np.maximum(np.maximum(red, green), blue)
  low = np.minimum(np.minimum(red, green), blue)
  chroma = high - low
  is_red, is_green = high == red, high == green
  # Sixths of a turn: red lies at 0, green at 2, blue at 4.
  hue = np.where(is_red, green - blue, np.where(is_green, blue - red, red - green))
  hue /= np.maximum(chroma, np.float32(1e-6))  # a grey's hue is never used
  zero, two, four = map(np.float32, (0, 2, 4))
  hue += np.where(is_red, zero, np.where(is_green, two, four))
  hue += 6 * turns
  hue -= 6 * np.floor(hue / 6)
  # A channel is full within a sixth of its own hue, and gone beyond two.
  red[...] = np.abs(hue - 3) - 1
  green[...] = 2 - np.abs(hue - 2)
  blue[...] = 2 - np.abs(hue - 4)
  np.clip(color, 0, 1, out=color)
  color *= chroma
  color += low
