# SPDX-License-Identifier: Apache-2.0
"""Where the points of the first picture go: true tracks, seen or hidden."""

from __future__ import annotations

import numpy as np

from lamd_jax.data.procedural.cater import camera
from lamd_jax.data.procedural.cater import render
from lamd_jax.data.procedural.cater.scene import Scene


def follow(
  scene: Scene, position: np.ndarray, tilt: np.ndarray, grid: int, size: int
) -> np.ndarray:
  """Follows a grid of the first picture's points, each with what it lies on.

  Args:
    scene: objects.
    position: [T,K,3] float64 centres.
    tilt: [T,K] float64 radians about each object's y axis.
    grid: points a side; each is the centre of the pixel in the middle of its cell.
    size: pixels of the picture.

  Returns:
    [T,grid,grid,2] float32, pixels (x right, y down). Points of the ground rest; those
    of an object go on when something hides it.
  """
  _, depth, owner = render.clip(scene, position[:1], tilt[:1], size)
  middle = ((np.arange(grid) + 0.5) * size / grid).astype(np.int64)
  rows, columns = np.meshgrid(middle, middle, indexing="ij")
  start = np.stack([columns, rows], -1) + 0.5
  found = np.repeat(start[None], len(position), 0)
  ray = np.stack([2 * start[..., 0] / size - 1, 1 - 2 * start[..., 1] / size], -1)
  ray = ray / camera.FOCAL @ camera.AXES[:2] + camera.AXES[2]
  world = camera.CENTRE + depth[0, rows, columns][..., None] * ray
  on = owner[0, rows, columns]
  for k, thing in enumerate(scene.things):
    mine = on == k + 1
    if not mine.any():
      continue
    local = (world[mine] - position[0, k]) @ render.turn(thing.yaw, tilt[0, k]).T
    for t in range(1, len(position)):
      moved = local @ render.turn(thing.yaw, tilt[t, k]) + position[t, k]
      found[t, mine] = camera.project(moved, size)[0]
  return found.astype(np.float32)
