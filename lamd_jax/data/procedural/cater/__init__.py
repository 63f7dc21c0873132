# SPDX-License-Identifier: Apache-2.0
"""Objects on a floor, seen by one camera, moving as a caption says; after CATER.

A video is one segment of 41 poses. A clip of T frames always spans all of it: frame i
is pose floor(40 i / (T-1)), so the first shows rest and the last the end. Never mirror
a clip: its caption holds coordinates.
"""

from __future__ import annotations

import numpy as np

from lamd_jax.data import philox
from lamd_jax.data.procedural.cater import actions
from lamd_jax.data.procedural.cater import captions
from lamd_jax.data.procedural.cater import render
from lamd_jax.data.procedural.cater import scene as scenes
from lamd_jax.data.procedural.cater import tracks
from lamd_jax.data.records import WorldSample

VERSION = 1  # raise it whenever the bytes of a video change
MODES = scenes.MODES
_SNITCH = (actions.STILL, actions.SLIDE, actions.ROTATE, actions.PICK_PLACE)
_CONE = (actions.STILL, actions.SLIDE, actions.PICK_PLACE, actions.CONTAIN)


def _poses(frames: int) -> np.ndarray:
  return np.floor(np.linspace(0, actions.POSES - 1, frames)).astype(np.int64)


def _still(action: int) -> int:
  return actions.STILL if action == actions.NO_OP else int(action)


class Cater:
  """See the module; `sample` is the contract of `records.World`, from frame 0 on."""

  fps = 8.0

  def __init__(self, mode: str, seed: int = 0):
    """Makes the world.

    Args:
      mode: v1 (a snitch and a cone) | v2 (3 to 8 objects) | textured (v2 on a random
        checkered ground) | unique_colors (v2, no colour twice).
      seed: another seed is another data set.
    """
    if mode not in MODES:
      raise ValueError(f"cater mode {mode!r}: choose one of {', '.join(MODES)}")
    self.mode, self.seed = mode, seed

  def sample(
    self,
    split: str,
    index: int,
    frames: int,
    size: int,
    start: int = 0,
    motion_index: int | None = None,
    *,
    ambiguous: bool = False,
  ) -> WorldSample:
    """Renders video `index` of `split` whole, as `frames` frames.

    `motion_index` takes the draws of motion from another video: the first frame stays
    and the future is redrawn. `ambiguous` captions leave out attributes and name only
    the quadrant of a target.

    Returns a sample whose `state` holds, for T frames and K objects in record order:
      position [T,K,3] float32 centres; rotation [T,K,2] float32 yaw and tilt, radians;
      contained_by [T,K] int8 object, -1; visible [T,K] int32 pixels; attributes [K,4]
      uint8 shape, size, colour, material, into the names of `shapes` and `scene`;
      radius [K] float32; action [K] int8 into actions.NAMES; interval [K,2] int8
      first and last pose of it; partner [K] int8 object to be contained, -1; cell
      [K,2] int8 of the last frame; light [3] float32 unit, towards the sun.
    """
    if start:
      raise ValueError(f"cater start={start}: a clip spans its video, so start is 0")
    scene, motion = self._plan(split, index, motion_index)
    poses = _poses(frames)
    position, tilt = motion.position[poses], motion.tilt[poses]
    video, depth, owner = render.clip(scene, position, tilt, size)
    things = scene.things
    count = len(things)
    yaw = np.broadcast_to([o.yaw for o in things], tilt.shape)
    final = motion.position[-1, :, :2]
    state = {
      "position": position.astype(np.float32),
      "rotation": np.stack([yaw, tilt], -1).astype(np.float32),
      "contained_by": motion.contained_by[poses],
      "visible": np.stack(
        [(owner == k + 1).sum((1, 2), dtype=np.int32) for k in range(count)], 1
      ),
      "attributes": np.array([o[:4] for o in things], np.uint8),
      "radius": np.array([o.radius for o in things], np.float32),
      "action": motion.action,
      "interval": motion.interval,
      "partner": motion.partner,
      "cell": np.array([[captions.cell(v) for v in row] for row in final], np.int8),
      "light": scene.light.astype(np.float32),
    }
    caption = self._caption(scene, motion, split, index, ambiguous)
    return WorldSample(
      video, depth[..., None], owner[..., None], state, caption, self.fps
    )

  def tracks(
    self, split: str, index: int, frames: int, grid: int, size: int
  ) -> np.ndarray:
    """Returns where a grid of the first frame's points is in each of `frames` frames.

    [T,grid,grid,2] float32, pixels (x, y) of a picture of `size`; see `tracks.follow`.
    """
    scene, motion = self._plan(split, index, None)
    poses = _poses(frames)
    return tracks.follow(
      scene, motion.position[poses], motion.tilt[poses], grid, size
    )

  def caption(self, split: str, index: int, *, ambiguous: bool = False) -> str:
    """Returns the caption of a video without rendering it."""
    scene, motion = self._plan(split, index, None)
    return self._caption(scene, motion, split, index, ambiguous)

  def appearance(self, split: str, index: int) -> str:
    """Returns a caption that says what is there, not what moves."""
    scene = scenes.make(self._stream("look", split, index), self.mode)
    return captions.appearance(scene.things)

  def action_class(self, split: str, index: int) -> int:
    """Returns what moves how in a video of v1, 0 to 15.

    4 x the snitch's action (still, slide, rotate, pick and place) + the cone's (still,
    slide, pick and place, contain); a movement that always collided counts as still.
    """
    snitch, cone = self._plan(split, index, None)[1].action
    return 4 * _SNITCH.index(_still(snitch)) + _CONE.index(_still(cone))

  def _stream(self, name: str, split: str, index: int) -> np.random.Generator:
    return philox.generator("cater", VERSION, self.seed, self.mode, name, split, index)

  def _plan(
    self, split: str, index: int, motion_index: int | None
  ) -> tuple[scenes.Scene, actions.Motion]:
    scene = scenes.make(self._stream("look", split, index), self.mode)
    moved = index if motion_index is None else motion_index
    return scene, actions.plan(self._stream("motion", split, moved), scene)

  def _caption(
    self, scene: scenes.Scene, motion: actions.Motion, split: str, index: int,
    ambiguous: bool,
  ) -> str:  # fmt: skip
    draw = self._stream("words", split, index) if ambiguous else None
    return captions.write(
      scene.things, motion.action, motion.partner, motion.position[-1, :, :2],
      self.mode, draw,
    )  # fmt: skip
