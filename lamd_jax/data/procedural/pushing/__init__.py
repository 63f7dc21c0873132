# SPDX-License-Identifier: Apache-2.0
"""An arm pushes blocks about a table: videos with actions, contacts and poses.

Stands in for robot pushing data. What the arm does to a block follows from its actions
and from where things lie, so a generated future can be checked: no block may move that
nothing touched. Frame t does not depend on how many frames are asked for.
"""

from __future__ import annotations

import numpy as np

from lamd_jax.data import philox
from lamd_jax.data.procedural.pushing import dynamics
from lamd_jax.data.procedural.pushing import render
from lamd_jax.data.records import WorldSample

VERSION = 1  # raise it whenever the bytes of a video change
MODES = ("push",)
FRAMES = 30  # of a video; its caption tells of all of them
_LIGHT = (-0.5, -0.5, 1.2)  # the sun stands in this direction, before its jitter
_MOVED = 0.05  # a shorter way is not worth a caption


class Pushing:
  """See the module; `sample` is the contract of `records.World`."""

  fps = 8.0

  def __init__(self, mode: str, seed: int = 0):
    """Makes the world.

    Args:
      mode: push (2 to 6 boxes and cylinders of distinct colours).
      seed: another seed is another data set.
    """
    if mode not in MODES:
      raise ValueError(f"pushing mode {mode!r}: choose one of {', '.join(MODES)}")
    self.mode, self.seed = mode, seed

  def sample(
    self,
    split: str,
    index: int,
    frames: int,
    size: int,
    start: int = 0,
    motion_index: int | None = None,
  ) -> WorldSample:
    """Renders frames start, ..., start+frames-1 of video `index` of `split`.

    `motion_index` takes what the arm does from another video: the first frame stays
    and the future is redrawn.

    Returns a sample whose `state` holds, for T frames and K blocks:
      actions [T,4] float32 dx dy dz dyaw asked for, from a frame to the next; gripper
      [T,4] float32 x y z yaw; blocks [T,K,3] float32 x y yaw; contacts [T,K] uint8 what
      pushed a block on its way to this frame (into dynamics: 0 nothing, 1 the arm, 2
      another block); attributes [K,2] uint8 shape and colour, into the names of
      `dynamics`; radius [K] float32 of contact; visible [T,K] int32 pixels; light [3]
      float32 unit, towards the sun. Lengths are in half table sides, angles in radians.
    """
    blocks, light, motion = self._plan(split, index, motion_index, start + frames)
    caption = _caption(blocks, motion)
    motion = dynamics.Motion(*(a[start : start + frames] for a in motion))
    grain = self._stream("grain", split, index)
    video, depth, owner = render.clip(blocks, motion, light, grain, size)
    visible = [(owner == k + 2).sum((1, 2), dtype=np.int32) for k in range(len(blocks))]
    state = {
      "actions": motion.actions.astype(np.float32),
      "gripper": motion.gripper.astype(np.float32),
      "blocks": motion.blocks.astype(np.float32),
      "contacts": motion.contacts,
      "attributes": np.array([block[:2] for block in blocks], np.uint8),
      "radius": np.array([block.radius for block in blocks], np.float32),
      "visible": np.stack(visible, 1),
      "light": light.astype(np.float32),
    }
    return WorldSample(
      video, depth[..., None], owner[..., None], state, caption, self.fps
    )

  def caption(self, split: str, index: int) -> str:
    """Returns the caption of a video without rendering it."""
    blocks, _, motion = self._plan(split, index, None, FRAMES)
    return _caption(blocks, motion)

  def _stream(self, name: str, split: str, index: int) -> np.random.Generator:
    return philox.generator("pushing", VERSION, self.seed, self.mode, name, split, index)

  def _plan(
    self, split: str, index: int, motion_index: int | None, frames: int
  ) -> tuple[tuple[dynamics.Block, ...], np.ndarray, dynamics.Motion]:
    look = self._stream("look", split, index)
    blocks = dynamics.lay(look)
    light = np.array([v + 0.4 * look.random() - 0.2 for v in _LIGHT])
    light /= np.sqrt((light * light).sum())
    moved = index if motion_index is None else motion_index
    draw = self._stream("motion", split, moved)
    return blocks, light, dynamics.simulate(look, draw, blocks, max(frames, FRAMES))


def _caption(blocks: tuple[dynamics.Block, ...], motion: dynamics.Motion) -> str:
  """Names the block that was moved most, and where to as the camera sees it."""
  way = motion.blocks[FRAMES - 1, :, :2] - motion.blocks[0, :, :2]
  far = np.sqrt((way * way).sum(1))
  k = int(far.argmax())
  if far[k] < _MOVED:
    return "the arm moves."
  dx, dy = way[k]
  if abs(dx) >= abs(dy):
    direction = "right" if dx > 0 else "left"
  else:
    direction = "away" if dy > 0 else "closer"
  colour = dynamics.COLOUR_NAMES[blocks[k].colour]
  shape = dynamics.SHAPES[blocks[k].shape]
  return f"the arm pushes the {colour} {shape} {direction}."
