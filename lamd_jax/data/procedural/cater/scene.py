# SPDX-License-Identifier: Apache-2.0
"""What stands where before anything moves, after CATER (Girdhar and Ramanan, 2020)."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from lamd_jax.data.procedural.cater import camera
from lamd_jax.data.procedural.cater import shapes

MODES = ("v1", "v2", "textured", "unique_colors")
SIZES = ("large", "medium", "small")
_RADII = (0.75, 0.5, 0.25)
_SNITCH_RADIUS = 0.3
# RGB in [0,255]; gold is the snitch's alone.
COLOURS = {
  "gray": (87, 87, 87),
  "red": (173, 35, 35),
  "blue": (42, 75, 215),
  "green": (29, 105, 20),
  "brown": (129, 74, 25),
  "purple": (129, 38, 192),
  "cyan": (41, 208, 208),
  "yellow": (255, 238, 51),
  "gold": (255, 215, 0),
}
COLOUR_NAMES = tuple(COLOURS)
MATERIALS = ("rubber", "metal")
EXTENT = 3.0  # objects stand at x and y in (-3,3)
GAP = 0.25  # smallest distance between two objects
_MARGIN = 0.4  # smallest offset along the camera's right and away from it
_TRIES = 50  # places tried for an object before all are placed anew
_LIGHT = (6.3, 0.4, 8.0)  # the sun stands in this direction, before its jitter


class Thing(NamedTuple):
  """An object at rest."""

  shape: int  # into shapes.NAMES
  size: int  # into SIZES
  colour: int  # into COLOUR_NAMES
  material: int  # into MATERIALS
  radius: float  # the centre rests at this height
  x: float
  y: float
  yaw: float  # radians


class Scene(NamedTuple):
  """Everything of a video but its motion."""

  things: tuple[Thing, ...]
  light: np.ndarray  # [3] float64 unit, towards the sun
  checker: np.ndarray | None  # cosine, sine, squares a unit, two offsets, 2 RGB colours


def pick(draw: np.random.Generator, count: int) -> int:
  """Returns one of 0, ..., count-1."""
  return int(draw.random() * count)


def spread(draw: np.random.Generator) -> float:
  """Returns a coordinate in the open interval (-3,3)."""
  return EXTENT * (2 * max(draw.random(), 1e-9) - 1)


def radius(shape: int, size: int) -> float:
  if shape == shapes.SNITCH:
    return _SNITCH_RADIUS
  return _RADII[size] / 2**0.5 if shape == shapes.CUBE else _RADII[size]


def make(draw: np.random.Generator, mode: str) -> Scene:
  """Draws the objects, their places, the light and, if `textured`, the ground."""
  kinds = _kinds(draw, mode)
  places = None
  while places is None:
    places = _places(draw, kinds)
  things = tuple(
    Thing(*kind, radius(kind[0], kind[1]), x, y, 2 * np.pi * draw.random())
    for kind, (x, y) in zip(kinds, places, strict=True)
  )
  light = np.array([v + 2 * draw.random() - 1 for v in _LIGHT])
  light /= np.sqrt((light * light).sum())
  checker = None
  if mode == "textured":
    angle = np.pi / 2 * draw.random()
    squares = 0.6 + 0.9 * draw.random()
    checker = np.array(
      [np.cos(angle), np.sin(angle), squares, draw.random(), draw.random()]
      + [0.35 + 0.5 * draw.random() for _ in range(6)]
    )
  return Scene(things, light, checker)


def _kinds(draw: np.random.Generator, mode: str) -> list[tuple[int, int, int, int]]:
  """Draws shape, size, colour and material of every object."""
  count = 2 if mode == "v1" else 3 + pick(draw, 6)
  gold = COLOUR_NAMES.index("gold")
  kinds = [(shapes.SNITCH, SIZES.index("small"), gold, MATERIALS.index("metal"))]
  unused = np.argsort([draw.random() for _ in range(gold)])
  for k in range(1, count):
    if k <= 2:  # a medium cone, then a large one: something can always be contained
      shape, size = shapes.CONE, SIZES.index("medium" if k == 1 else "large")
    else:
      shape, size = pick(draw, 4), pick(draw, 3)
    colour = int(unused[k - 1]) if mode == "unique_colors" else pick(draw, gold)
    kinds.append((shape, size, colour, pick(draw, 2)))
  return kinds


def _places(
  draw: np.random.Generator, kinds: list[tuple[int, int, int, int]]
) -> list[tuple[float, float]] | None:
  """Draws places, or None where an object found none."""
  placed = np.zeros((0, 2))
  radii = np.array([radius(kind[0], kind[1]) for kind in kinds])
  for k in range(len(kinds)):
    for _ in range(_TRIES):
      place = np.array([spread(draw), spread(draw)])
      offset = placed - place
      distance = np.sqrt((offset * offset).sum(1)) - radii[:k] - radii[k]
      # Seen from the camera nothing stands right behind or beside another.
      if (distance >= GAP).all() and (
        np.abs(offset @ camera.GROUND_AXES.T) >= _MARGIN
      ).all():
        placed = np.concatenate([placed, place[None]])
        break
    else:
      return None
  return [(float(x), float(y)) for x, y in placed]
