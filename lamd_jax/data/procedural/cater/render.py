# SPDX-License-Identifier: Apache-2.0
"""Ray casting of a scene: depth by closed form, Lambert and Phong light, hard shadows.

What rests is drawn once for the clip. A frame copies it, draws what moves into the
rectangles that it can touch, and casts shadows between the two.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from lamd_jax.data.procedural.cater import camera
from lamd_jax.data.procedural.cater import shapes
from lamd_jax.data.procedural.cater.scene import COLOURS, Scene

# Light of the sky, mean 0.35: bluish, which tells shadows from gray objects.
AMBIENT = np.array((0.30, 0.35, 0.40), np.float32)
DIFFUSE = 0.75
_GROUND = (0.80, 0.79, 0.77)
# Specular strength and times the cosine is squared, for rubber and metal.
_SPECULAR = ((0.10, 3), (0.55, 5))
_DARK = 0.30  # what the snitch's meridians leave of its colour
_ALBEDO = np.array(list(COLOURS.values())) / 255

Window = tuple[slice, slice]
ALL: Window = (slice(None), slice(None))


class Layer(NamedTuple):
  """A picture by samples: S rows, S columns, five samples a pixel."""

  depth: np.ndarray  # [S,S,5] float64
  owner: np.ndarray  # [S,S,5] uint8, 0 ground, k+1 object k
  shadow: np.ndarray  # [S,S,5] bool
  dark: np.ndarray  # [S,S,5,3] float32 colour in shadow
  lit: np.ndarray  # [S,S,5,3] float32 colour in the light

  def copy(self) -> Layer:
    return Layer(*(a.copy() for a in self))


class _Pose(NamedTuple):
  """An object where it is in one frame."""

  centre: np.ndarray  # [3]
  turn: np.ndarray  # [3,3] rows: the object's axes in the world


def turn(yaw: float, tilt: float) -> np.ndarray:
  """Returns an object's axes in the world as rows [3,3]: columns of Rz(yaw) Ry(tilt)."""
  cos, sin = np.cos(yaw), np.sin(yaw)
  c, s = np.cos(tilt), np.sin(tilt)
  return np.array([[cos * c, sin * c, -s], [-sin, cos, 0.0], [cos * s, sin * s, c]])


def _pose(scene: Scene, k: int, centre: np.ndarray, tilt: float) -> _Pose:
  return _Pose(centre, turn(scene.things[k].yaw, tilt))


def _local(turn: np.ndarray, v) -> shapes.Triple:
  return tuple(row[0] * v[0] + row[1] * v[1] + row[2] * v[2] for row in turn)


def _dot(a, b):
  return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]


def _draw(layer: Layer, scene: Scene, k: int, pose: _Pose, size: int) -> None:
  """Draws object k where it is nearer than what is there, lit as if alone."""
  thing = scene.things[k]
  at = camera.window(pose.centre, thing.radius * shapes.REACH[thing.shape], size)
  ray = _local(pose.turn, [d[at] for d in camera.rays(size).direction])
  origin = _local(pose.turn, camera.CENTRE - pose.centre)
  enter, leave = shapes.interval(thing.shape, thing.radius, origin, ray)
  hit = (enter <= leave) & (enter < layer.depth[at])
  if not hit.any():
    return
  enter = enter[hit]
  ray = tuple(d[hit] for d in ray)
  point = tuple(o + enter * d for o, d in zip(origin, ray, strict=True))
  normal = shapes.normal(thing.shape, thing.radius, point)
  light = _local(pose.turn, scene.light)
  albedo = _ALBEDO[thing.colour].astype(np.float32)
  if thing.shape == shapes.SNITCH:
    albedo = albedo * np.where(shapes.stripes(point, thing.radius), _DARK, 1)[:, None]
  facing = np.maximum(_dot(normal, light), 0)
  # Phong by the half vector between the light and the eye.
  length = np.sqrt(_dot(ray, ray))
  half = tuple(l - d / length for l, d in zip(light, ray, strict=True))
  shine = np.maximum(_dot(normal, half), 0) / np.sqrt(_dot(half, half))
  strength, squarings = _SPECULAR[thing.material]
  for _ in range(squarings):
    shine = shine * shine
  shine = np.where(facing > 0, strength * shine, 0)
  layer.depth[at][hit] = enter
  layer.owner[at][hit] = k + 1
  layer.shadow[at][hit] = False
  layer.dark[at][hit] = AMBIENT * albedo
  bright = AMBIENT + (DIFFUSE * facing)[:, None]
  layer.lit[at][hit] = albedo * bright + shine[:, None]


def _shadow_window(scene: Scene, k: int, pose: _Pose, size: int) -> Window:
  """Returns the rectangle between an object and the end of its shadow."""
  reach = scene.things[k].radius * shapes.REACH[scene.things[k].shape]
  light, centre = scene.light, pose.centre
  # The shadow of a sphere on the ground is an ellipse, longer by 1 / light_z; below
  # the ground on the same axis lies a sphere that covers its far end.
  far = centre - light * (centre[2] / light[2])
  a = camera.window(centre, reach, size)
  b = camera.window(far, reach / light[2], size)
  return tuple(
    slice(min(p.start, q.start), max(p.stop, q.stop)) for p, q in zip(a, b, strict=True)
  )


def _cast(
  layer: Layer, scene: Scene, k: int, pose: _Pose, size: int, onto: np.ndarray | None
) -> None:
  """Puts samples into the shadow of object k: all, or those `onto` [S,S,5] marks."""
  thing = scene.things[k]
  at = _shadow_window(scene, k, pose, size)
  open_ = (layer.owner[at] != k + 1) & ~layer.shadow[at]
  if onto is not None:
    open_ &= onto[at]
  depth = layer.depth[at][open_]
  direction = [d[at][open_] for d in camera.rays(size).direction]
  start = camera.CENTRE - pose.centre
  point = [s + depth * d for s, d in zip(start, direction, strict=True)]
  # Only points near the axis through the object towards the light can be in shadow.
  along = _dot(point, scene.light)
  reach = thing.radius * shapes.REACH[thing.shape]
  near = (_dot(point, point) - along * along < reach * reach) & (along < 0)
  if not near.any():
    return
  point = _local(pose.turn, [p[near] for p in point])
  light = _local(pose.turn, scene.light)
  enter, leave = shapes.interval(thing.shape, thing.radius, point, light)
  where = np.flatnonzero(open_.ravel())[near][(enter <= leave) & (leave > 0)]
  shaded = np.zeros(open_.size, bool)
  shaded[where] = True
  layer.shadow[at] |= shaded.reshape(open_.shape)


def ground(scene: Scene, size: int) -> Layer:
  """Returns the empty floor in the scene's light."""
  rays = camera.rays(size)
  shape = (size, size, 5)
  albedo = np.broadcast_to(np.array(_GROUND, np.float32), (*shape, 3))
  if scene.checker is not None:
    cos, sin, squares, across, along = scene.checker[:5]
    u = np.floor((cos * rays.x + sin * rays.y) * squares + across)
    v = np.floor((cos * rays.y - sin * rays.x) * squares + along)
    colours = scene.checker[5:].reshape(2, 3).astype(np.float32)
    albedo = colours[(u + v).astype(np.int64) & 1]
  bright = AMBIENT + DIFFUSE * float(scene.light[2])
  return Layer(
    rays.ground.copy(),
    np.zeros(shape, np.uint8),
    np.zeros(shape, bool),
    albedo * AMBIENT,
    albedo * bright.astype(np.float32),
  )


def develop(layer: Layer, at: Window) -> np.ndarray:
  """Returns the colours of a rectangle of pixels, uint8."""
  colour = np.where(layer.shadow[at][..., None], layer.dark[at], layer.lit[at])
  # A sum in fixed order, so that the bytes do not depend on how NumPy adds.
  mean = (colour[..., 0, :] + colour[..., 1, :] + colour[..., 2, :]
          + colour[..., 3, :] + colour[..., 4, :]) * np.float32(51)  # fmt: skip
  return (np.minimum(mean, 255) + np.float32(0.5)).astype(np.uint8)


def place(
  layer: Layer, scene: Scene, position: np.ndarray, tilt: np.ndarray, which: np.ndarray
) -> list[Window]:
  """Draws the objects `which` into a layer without others, and their shadows.

  Args:
    layer: the floor.
    scene: objects and light.
    position: [K,3] centres.
    tilt: [K] radians.
    which: [N] objects to draw.

  Returns the rectangles outside of which nothing has changed.
  """
  size = len(layer.depth)
  poses = {k: _pose(scene, k, position[k], tilt[k]) for k in which}
  for k in which:
    _draw(layer, scene, k, poses[k], size)
  for k in which:
    _cast(layer, scene, k, poses[k], size, None)
  return [_shadow_window(scene, k, poses[k], size) for k in which]


def clip(
  scene: Scene, position: np.ndarray, tilt: np.ndarray, size: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """Renders T frames.

  Args:
    scene: objects and light.
    position: [T,K,3] float64 centres.
    tilt: [T,K] float64 radians about each object's y axis.
    size: pixels.

  Returns:
    video [T,S,S,3] uint8, depth [T,S,S] float32 and owner [T,S,S] uint8 of the pixel
    centres: 0 ground, k+1 object k.
  """
  frames, count = position.shape[:2]
  moves = (position != position[:1]).any((0, 2)) | (tilt != tilt[:1]).any(0)
  resting, moving = np.flatnonzero(~moves), np.flatnonzero(moves)
  poses = {k: _pose(scene, k, position[0, k], tilt[0, k]) for k in range(count)}
  still = ground(scene, size)
  place(still, scene, position[0], tilt[0], resting)
  empty = develop(still, ALL)
  video = np.empty((frames, size, size, 3), np.uint8)
  depth = np.empty((frames, size, size), np.float32)
  owner = np.empty((frames, size, size), np.uint8)
  for t in range(frames):
    same = t > 0 and (position[t] == position[t - 1]).all()
    if same and (tilt[t] == tilt[t - 1]).all():
      video[t], depth[t], owner[t] = video[t - 1], depth[t - 1], owner[t - 1]
      continue
    layer = still.copy()
    for k in moving:
      poses[k] = _pose(scene, k, position[t, k], tilt[t, k])
      _draw(layer, scene, k, poses[k], size)
    onto = np.isin(layer.owner, moving + 1)
    for k in resting:
      _cast(layer, scene, k, poses[k], size, onto)
    video[t] = empty
    for k in moving:
      _cast(layer, scene, k, poses[k], size, None)
    for k in moving:
      at = _shadow_window(scene, k, poses[k], size)
      video[t][at] = develop(layer, at)
    depth[t] = layer.depth[..., camera.MIDDLE]
    owner[t] = layer.owner[..., camera.MIDDLE]
  return video, depth, owner
