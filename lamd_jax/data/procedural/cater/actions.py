# SPDX-License-Identifier: Apache-2.0
"""Who moves how: one segment of 41 poses in which at most two objects act.

A segment is too short for a second movement of an object, so a cone never carries
what it contains.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from lamd_jax.data.procedural.cater import scene as scenes
from lamd_jax.data.procedural.cater import shapes
from lamd_jax.data.procedural.cater.scene import Scene, Thing

POSES = 41
NAMES = ("still", "slide", "rotate", "pick_place", "contain", "no_op")
STILL, SLIDE, ROTATE, PICK_PLACE, CONTAIN, NO_OP = range(6)
LIFT = 2.0  # units
_RAMP = 0.2  # part of the time spent going up, and going down
_TRIALS = 100
LATE = 10  # largest start
SHORTEST, LONGEST = 20, 30  # frames an action takes


class Motion(NamedTuple):
  """Poses of K objects over the segment."""

  position: np.ndarray  # [41,K,3] float64 centres
  tilt: np.ndarray  # [41,K] float64 radians about the object's y axis
  contained_by: np.ndarray  # [41,K] int8 object, -1: none
  action: np.ndarray  # [K] int8 into NAMES
  interval: np.ndarray  # [K,2] int8 first and last pose of the action
  partner: np.ndarray  # [K] int8 what `contain` is about to contain, -1


def progress(start: int, length: int) -> np.ndarray:
  """Returns how much of the action is done at each pose, [41] in [0,1]."""
  return np.clip((np.arange(POSES) - start) / length, 0, 1)


def path(
  origin: np.ndarray, target: np.ndarray, done: np.ndarray, lifted: bool
) -> np.ndarray:
  """Returns centres [...,3] at `done` [...] in [0,1] between two resting centres [3].

  Lifted: up in the first fifth, across until the fourth is over, then down.
  """
  across = np.clip((done - _RAMP) / (1 - 2 * _RAMP), 0, 1) if lifted else done
  centres = origin + across[..., None] * (target - origin)
  if lifted:
    centres[..., 2] += LIFT * np.clip(np.minimum(done, 1 - done) / _RAMP, 0, 1)
  return centres


def fits(cone: Thing, other: Thing) -> bool:
  """Whether `other` can vanish under `cone`.

  A sphere must also be small enough not to show through the cone's side: a medium one
  under a large cone would.
  """
  if cone.shape != shapes.CONE or other.radius >= cone.radius:
    return False
  if other.shape == shapes.CONE:
    return True
  sine = 1 / 5**0.5  # of the angle between a cone's side and its axis
  room = (2 * cone.radius - other.radius) * sine
  return other.shape in (shapes.SPHERE, shapes.SNITCH) and other.radius <= room


def plan(draw: np.random.Generator, scene: Scene) -> Motion:
  """Draws the movements of one or two objects; contain comes first half the time."""
  things = scene.things
  count = len(things)
  rest = np.array([(o.x, o.y, o.radius) for o in things])
  motion = Motion(
    np.repeat(rest[None], POSES, 0),
    np.zeros((POSES, count)),
    np.full((POSES, count), -1, np.int8),
    np.zeros(count, np.int8),
    np.zeros((count, 2), np.int8),
    np.full(count, -1, np.int8),
  )
  wanted = 1 + scenes.pick(draw, 2)
  moved = int(draw.random() < 0.5 and _contain(draw, things, motion))
  for k in np.argsort([draw.random() for _ in range(count)]):
    if moved == wanted:
      break
    if motion.action[k] == STILL and k not in motion.partner:
      moved += _move(draw, things, motion, int(k))
  return motion


def _timing(draw: np.random.Generator) -> tuple[int, int]:
  length = SHORTEST + scenes.pick(draw, LONGEST - SHORTEST + 1)
  return scenes.pick(draw, LATE + 1), length


def _free(
  things: tuple[Thing, ...], motion: Motion, k: int, centres: np.ndarray, partner: int
) -> bool:
  """Whether object k on `centres` [41,3] keeps its distance from all but `partner`."""
  offset = motion.position - centres[:, None]
  radii = np.array([o.radius for o in things])
  gaps = np.sqrt((offset * offset).sum(-1)) - radii - radii[k]
  gaps = np.delete(gaps, [k] if partner < 0 else [k, partner], 1)
  return bool((gaps >= scenes.GAP).all())


def _contain(
  draw: np.random.Generator, things: tuple[Thing, ...], motion: Motion
) -> bool:
  pairs = [
    (k, j) for k in range(len(things)) for j in range(len(things))
    if k != j and fits(things[k], things[j])
  ]  # fmt: skip
  if not pairs:
    return False
  for _ in range(_TRIALS):
    k, j = pairs[scenes.pick(draw, len(pairs))]
    start, length = _timing(draw)
    done = progress(start, length)
    target = np.array([things[j].x, things[j].y, things[k].radius])
    centres = path(motion.position[0, k], target, done, lifted=True)
    if _free(things, motion, k, centres, j):
      motion.position[:, k] = centres
      motion.contained_by[:, j] = np.where(done == 1, k, -1)
      motion.action[k], motion.partner[k] = CONTAIN, j
      motion.interval[k] = start, start + length
      return True
  return False


def _move(
  draw: np.random.Generator, things: tuple[Thing, ...], motion: Motion, k: int
) -> bool:
  """Slides, turns or lifts object k; False, and no_op, where it always collides."""
  round_about = things[k].shape in (shapes.CONE, shapes.SPHERE)
  kinds = (SLIDE, PICK_PLACE) if round_about else (SLIDE, PICK_PLACE, ROTATE)
  origin = motion.position[0, k].copy()
  for _ in range(_TRIALS):
    kind = kinds[scenes.pick(draw, len(kinds))]
    start, length = _timing(draw)
    done = progress(start, length)
    target = np.array([scenes.spread(draw), scenes.spread(draw), origin[2]])
    if kind == ROTATE:
      target = origin
    centres = path(origin, target, done, lifted=kind == PICK_PLACE)
    if _free(things, motion, k, centres, -1):
      motion.position[:, k] = centres
      if kind == ROTATE:
        motion.tilt[:, k] = np.pi / 2 * done
      motion.action[k] = kind
      motion.interval[k] = start, start + length
      return True
  motion.action[k] = NO_OP
  return False
