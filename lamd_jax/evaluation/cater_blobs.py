# SPDX-License-Identifier: Apache-2.0
"""Where the snitch's and the cone's colours are in each frame of a `cater` v1 clip."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from lamd_jax.data.procedural.cater import render
from lamd_jax.data.procedural.cater import scene as scenes

GOLD = scenes.COLOUR_NAMES.index("gold")
_GRAY = scenes.COLOUR_NAMES.index("gray")
# Cones like the snitch: gold is nearly yellow, and brown where it is shaded.
_GOLDEN = [scenes.COLOUR_NAMES.index(name) for name in ("yellow", "brown")]
_PALETTE = np.array(list(scenes.COLOURS.values())) / 255
LIGHT = np.array([6.3, 0.4, 8.0]) / np.linalg.norm([6.3, 0.4, 8.0])
_CONTRAST = 0.14  # RGB distance from the floor at which a pixel belongs to something
_DOUBT = 0.25  # votes of the second colour, of the first's, from which both are tried


class Blobs(NamedTuple):
  """Per frame and object (snitch, cone): where its colour is."""

  pixel: np.ndarray  # [T,2,2] float64 x, y; nan where unseen
  colour: int  # of the cone, as supposed


def _shades(colours: np.ndarray) -> np.ndarray:
  """Returns the colours [C,3] from the shadow side to a highlight, [C,6,3]."""
  facing = np.array([0, 0.25, 0.5, 0.75, 1, 1])[:, None]
  shine = np.array([0, 0, 0, 0, 0, 0.3])[:, None]
  light = render.AMBIENT + render.DIFFUSE * facing
  return np.minimum(colours[:, None] * light + shine, 1)


def components(mask: np.ndarray) -> list[np.ndarray]:
  """Returns the 8-connected parts of a mask [H,W] as lists of (row, column) [N,2]."""
  left = {(int(y), int(x)) for y, x in np.argwhere(mask)}
  parts = []
  while left:
    stack, part = [left.pop()], []
    while stack:
      y, x = stack.pop()
      part.append((y, x))
      near = {(y + i, x + j) for i in (-1, 0, 1) for j in (-1, 0, 1)} & left
      left -= near
      stack.extend(near)
    parts.append(np.array(part))
  return sorted(parts, key=len, reverse=True)


class Solid(NamedTuple):
  """Pixels that differ from the floor, and how far they are from what they may be."""

  at: np.ndarray  # [N,3] frame, row, column
  floor: np.ndarray  # [N] squared distance to floor and shadow
  colour: np.ndarray  # [N,9] to the palette's colours
  dark: np.ndarray  # [N] bool: as dark as shadow, or darker


def classify(video: np.ndarray) -> Solid:
  floor = np.median(video.reshape(-1, 3), 0)
  shadow = floor * render.AMBIENT / (render.AMBIENT + render.DIFFUSE * LIGHT[2])
  at = np.argwhere(np.sqrt(np.square(video - floor).sum(-1)) > _CONTRAST)
  pixels = video[tuple(at.T)]
  # The floor is seen through every edge: between floor and shadow is shadow.
  mix = np.linspace(0, 1, 6)[:, None]
  dim = np.square(pixels[:, None] - (mix * floor + (1 - mix) * shadow)).sum(-1).min(1)
  gap = np.square(pixels[:, None, None] - _shades(_PALETTE)).sum(-1).min(2)
  dark = pixels.mean(1) < 0.6 * floor.mean()
  return Solid(at, dim, gap, dark)


def span(at: np.ndarray, frames: int, size: int) -> render.Window:
  """Returns the rectangle of all that stands in the first or the last frame."""
  rows = at[(at[:, 0] == 0) | (at[:, 0] == frames - 1), 1:]
  if not len(rows):
    return render.ALL
  low, high = np.maximum(rows.min(0) - size // 16, 0), rows.max(0) + size // 16
  return slice(int(low[0]), int(high[0])), slice(int(low[1]), int(high[1]))


def cone_colours(solid: Solid) -> np.ndarray:
  """Returns the likely colours of the cone, one or two."""
  sure = solid.colour.min(1) < solid.floor
  votes = np.bincount(solid.colour[sure].argmin(1), minlength=len(_PALETTE))[:GOLD]
  order = np.argsort(-votes, kind="stable")[:2]
  return order if votes[order[1]] > _DOUBT * votes[order[0]] else order[:1]


def find(solid: Solid, colour: int, frames: int, size: int) -> Blobs:
  """Finds both objects in every frame, the cone by its colour."""
  gold, cone = solid.colour[:, GOLD], solid.colour[:, colour]
  something = np.minimum(gold, cone) < solid.floor
  if colour == _GRAY:
    # Gray is the colour of shadow: both are taken, and told apart by place and fit.
    own = something & (gold < cone)
    something, cone = own | solid.dark, np.where(own, np.inf, 0)
  mask, cone_map = np.zeros((2, frames, size, size), bool)
  mask[tuple(solid.at.T)] = something
  cone_map[tuple(solid.at.T)] = something & (cone < gold)
  pixel = np.full((frames, 2, 2), np.nan)
  for t in range(frames):
    if colour == _GRAY:
      found = _assign_dark(mask[t] & ~cone_map[t], cone_map[t])
    else:
      found = _assign(mask[t], cone_map[t], colour in _GOLDEN)
    for k, points in enumerate(found):
      if len(points) >= max(3 * (size / 64) ** 2, 2):
        pixel[t, k] = points.mean(0)[::-1] + 0.5
  return Blobs(pixel, colour)


def _assign(
  mask: np.ndarray, cone_map: np.ndarray, alike: bool
) -> tuple[np.ndarray, np.ndarray]:
  """Splits a frame's pixels into the snitch's and the cone's, (row, column) [N,2]."""
  parts = components(mask)
  none = np.zeros((0, 2), np.int64)
  if alike and len(parts) > 1 and len(parts[1]) > 0.2 * len(parts[0]):
    # Of two parts the cone is the larger and the one more of its colour.
    snitch, cone = sorted(parts[:2], key=lambda p: len(p) * cone_map[tuple(p.T)].mean())
    return snitch, cone
  share = [cone_map[tuple(p.T)].mean() for p in parts]
  snitch = next((p for p, s in zip(parts, share, strict=True) if s < 0.35), none)
  cone = next((p for p, s in zip(parts, share, strict=True) if s >= 0.35), none)
  if len(cone) and not len(snitch):
    # One touches the other: the larger gold part of what was taken for the cone.
    own = np.zeros_like(mask)
    own[tuple(cone.T)] = True
    gold = components(own & ~cone_map)
    if gold and len(gold[0]) > 0.2 * len(cone):
      return gold[0], cone[cone_map[tuple(cone.T)]]
  return snitch, cone


def _assign_dark(gold: np.ndarray, dark: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """The same for a gray cone: of two large dark parts the lower is its shadow."""
  none = np.zeros((0, 2), np.int64)
  parts = components(dark)
  large = [p for p in parts if len(p) > 0.4 * len(parts[0])]
  cone = min(large, key=lambda p: p[:, 0].mean(), default=none)
  return next(iter(components(gold)), none), cone
