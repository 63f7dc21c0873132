# SPDX-License-Identifier: Apache-2.0
"""What lies on the table, where the arm goes, and what it pushes there.

The table is [-1,1]^2, x to the right, y away from the camera, z up. Everything is
quasi-static: a block moves only as far as it is pushed, and rests at once. In the plane
a block is a circle of its contact radius, and so is the gripper.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

SHAPES = ("box", "cylinder")
# RGB in [0,255], as far apart from each other and from table and arm as can be.
COLOURS = {
  "red": (190, 36, 36),
  "blue": (42, 75, 215),
  "green": (40, 130, 36),
  "purple": (129, 38, 192),
  "cyan": (41, 208, 208),
  "yellow": (255, 232, 51),
}
COLOUR_NAMES = tuple(COLOURS)
GRIPPER = 0.06  # radius
LOW, HIGH = 0.08, 0.35  # heights at which the gripper pushes and travels
REACH = 0.15  # below it the gripper touches blocks
STEP = 0.12  # longest way a frame, in the plane and up or down
_TURN = 0.2  # largest change of yaw a frame, radians
_NOISE = 0.01  # standard deviation of what is added to every step
_SUBSTEPS = 4
_PASSES = 3  # block against block
_RADII = (0.10, 0.18)
_GAP = 0.06  # between blocks at the start
_FEWEST, _MOST = 2, 6  # blocks
NO_CONTACT, BY_ARM, BY_BLOCK = range(3)


class Block(NamedTuple):
  """A block before anything moves."""

  shape: int  # into SHAPES
  colour: int  # into COLOUR_NAMES
  radius: float
  x: float
  y: float
  yaw: float  # radians


class Motion(NamedTuple):
  """F frames of an arm and K blocks."""

  actions: np.ndarray  # [F,4] dx dy dz dyaw asked for, from this frame to the next
  gripper: np.ndarray  # [F,4] x y z yaw
  blocks: np.ndarray  # [F,K,3] x y yaw
  contacts: np.ndarray  # [F,K] uint8 what pushed the block on its way to this frame


def _pick(draw: np.random.Generator, count: int) -> int:
  return int(draw.random() * count)


def _between(draw: np.random.Generator, low: float, high: float) -> float:
  return low + (high - low) * draw.random()


def lay(draw: np.random.Generator) -> tuple[Block, ...]:
  """Draws 2 to 6 blocks of distinct colours that do not touch."""
  count = _FEWEST + _pick(draw, _MOST - _FEWEST + 1)
  colours = np.argsort([draw.random() for _ in COLOURS])[:count]
  blocks: list[Block] = []
  while len(blocks) < count:
    radius = _between(draw, *_RADII)
    room = 1 - radius - _GAP
    x, y = _between(draw, -room, room), _between(draw, -room, room)
    shape, yaw = _pick(draw, len(SHAPES)), 2 * math.pi * draw.random()
    if all(math.hypot(x - b.x, y - b.y) >= radius + b.radius + _GAP for b in blocks):
      blocks.append(Block(shape, int(colours[len(blocks)]), radius, x, y, yaw))
  return tuple(blocks)


class _Arm:
  """Where the gripper is and where it wants to be."""

  def __init__(self, x: float, y: float):
    self.x, self.y, self.z, self.yaw = x, y, HIGH, 0.0
    self._goal = (x, y, HIGH, 0.0)
    self._left = 0  # frames until another goal is drawn

  def act(
    self, draw: np.random.Generator, radii: list[float], poses: list[list[float]]
  ) -> tuple[float, float, float, float]:
    """Returns the step (dx, dy, dz, dyaw) towards the goal, with noise."""
    if not self._left:
      self._left = 4 + _pick(draw, 5)
      self._goal = self._draw_goal(draw, radii, poses)
    self._left -= 1
    dx, dy = self._goal[0] - self.x, self._goal[1] - self.y
    far = math.hypot(dx, dy)
    scale = min(1.0, STEP / far) if far else 0.0
    dx, dy = dx * scale + _noise(draw), dy * scale + _noise(draw)
    dz = min(max(self._goal[2] - self.z, -STEP), STEP) + _noise(draw)
    dyaw = min(max(self._goal[3] - self.yaw, -_TURN), _TURN) + _noise(draw)
    # It comes down beside blocks, not into them.
    if self.z >= REACH and dz < 0:
      near = any(
        math.hypot(self.x + s * dx - x, self.y + s * dy - y) < radius + GRIPPER
        for s in (0, 1)
        for radius, (x, y, _) in zip(radii, poses, strict=True)
      )
      dz = 0.0 if near else dz
    return dx, dy, dz, dyaw

  def _draw_goal(
    self, draw: np.random.Generator, radii: list[float], poses: list[list[float]]
  ) -> tuple[float, float, float, float]:
    room = 1 - GRIPPER
    x, y = _between(draw, -room, room), _between(draw, -room, room)
    if draw.random() < 0.7:
      # Behind a block as seen from the gripper: on the way it pushes the block.
      k = _pick(draw, len(radii))
      dx, dy = poses[k][0] - self.x, poses[k][1] - self.y
      far = max(math.hypot(dx, dy), 1e-9)
      beyond = far + radii[k] + GRIPPER + 0.2 * draw.random()
      x, y = self.x + dx / far * beyond, self.y + dy / far * beyond
    height = LOW if draw.random() < 0.6 else HIGH
    yaw = _between(draw, -math.pi / 2, math.pi / 2)
    return min(max(x, -room), room), min(max(y, -room), room), height, yaw


def _noise(draw: np.random.Generator) -> float:
  # Near enough to normal; sums of four have a third of the variance of a unit.
  total = draw.random() + draw.random() + draw.random() + draw.random() - 2
  return _NOISE * 3**0.5 * total


def _overlap(ax: float, ay: float, b: list[float], reach: float):
  """Returns how far circles overlap, and the unit vector from the first to the second."""
  dx, dy = b[0] - ax, b[1] - ay
  far = math.hypot(dx, dy)
  if far >= reach:
    return 0.0, 0.0, 0.0
  return (reach - far, dx / far, dy / far) if far else (reach, 1.0, 0.0)


def _shift(pose: list[float], radius: float, dx: float, dy: float) -> None:
  room = 1 - radius  # blocks stop at the rim
  pose[0] = min(max(pose[0] + dx, -room), room)
  pose[1] = min(max(pose[1] + dy, -room), room)


def _push(
  arm: _Arm, dx: float, dy: float, radii: list[float], poses: list[list[float]],
  contacts: list[int],
) -> None:  # fmt: skip
  """The gripper, on its way along (dx, dy), moves and turns what it overlaps."""
  length = max(math.hypot(dx, dy), 1e-9)
  for k, (radius, pose) in enumerate(zip(radii, poses, strict=True)):
    p, nx, ny = _overlap(arm.x, arm.y, pose, GRIPPER + radius)
    if p:
      # Distance of the block's centre from the gripper's line; left of it, it turns left.
      offset = (dx * (pose[1] - arm.y) - dy * (pose[0] - arm.x)) / length
      pose[2] += 0.5 * p * offset / radius**2
      _shift(pose, radius, p * nx, p * ny)
      contacts[k] = BY_ARM


def _part(
  arm: _Arm, radii: list[float], poses: list[list[float]], contacts: list[int]
) -> None:
  """Blocks that overlap part: the one farther from the gripper gives way."""
  for _ in range(_PASSES):
    for j in range(1, len(radii)):
      for i in range(j):
        p, nx, ny = _overlap(*poses[i][:2], poses[j], radii[i] + radii[j])
        if not p:
          continue
        far = [math.hypot(poses[k][0] - arm.x, poses[k][1] - arm.y) for k in (i, j)]
        first, second, sign = (j, i, 1) if far[1] >= far[0] else (i, j, -1)
        _shift(poses[first], radii[first], sign * p * nx, sign * p * ny)
        contacts[first] = contacts[first] or BY_BLOCK
        # At the rim it cannot; then the other goes back.
        p, nx, ny = _overlap(*poses[i][:2], poses[j], radii[i] + radii[j])
        if p:
          _shift(poses[second], radii[second], -sign * p * nx, -sign * p * ny)
          contacts[second] = contacts[second] or BY_BLOCK


def _move(
  arm: _Arm, action: tuple[float, ...], radii: list[float], poses: list[list[float]]
) -> list[int]:
  """Carries out an action; returns what touched each block."""
  contacts = [NO_CONTACT] * len(radii)
  dx, dy, dz, dyaw = (part / _SUBSTEPS for part in action)
  room = 1 - GRIPPER
  for _ in range(_SUBSTEPS):
    arm.x = min(max(arm.x + dx, -room), room)
    arm.y = min(max(arm.y + dy, -room), room)
    arm.z = min(max(arm.z + dz, LOW), HIGH)
    arm.yaw += dyaw
    if arm.z >= REACH:
      continue
    _push(arm, dx, dy, radii, poses, contacts)
    if any(contacts):
      _part(arm, radii, poses, contacts)
    for radius, pose in zip(radii, poses, strict=True):
      p, nx, ny = _overlap(arm.x, arm.y, pose, GRIPPER + radius)
      if p:  # the block gave no way: the arm does
        arm.x, arm.y = arm.x - p * nx, arm.y - p * ny
  return contacts


def simulate(
  look: np.random.Generator,
  draw: np.random.Generator,
  blocks: tuple[Block, ...],
  frames: int,
) -> Motion:
  """Returns the first `frames` frames; they do not depend on how many are asked for.

  `look` gives where the arm begins, `draw` all it does.
  """
  arm = _Arm(_between(look, -0.8, 0.8), _between(look, -0.8, 0.8))
  radii = [block.radius for block in blocks]
  poses = [[block.x, block.y, block.yaw] for block in blocks]
  motion = Motion(
    np.zeros((frames, 4)), np.zeros((frames, 4)), np.zeros((frames, len(blocks), 3)),
    np.zeros((frames, len(blocks)), np.uint8),
  )  # fmt: skip
  contacts = [NO_CONTACT] * len(blocks)
  for t in range(frames):
    motion.gripper[t] = arm.x, arm.y, arm.z, arm.yaw
    motion.blocks[t], motion.contacts[t] = poses, contacts
    action = arm.act(draw, radii, poses)
    motion.actions[t] = action
    contacts = _move(arm, action, radii, poses)
  return motion
