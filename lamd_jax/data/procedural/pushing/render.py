# SPDX-License-Identifier: Apache-2.0
"""Ray casting of arm, blocks and table, as the cater world does it, by another camera.

Blocks are the shapes of cater, scaled; the arm is made of capsules. What rests during the
clip is drawn once. Blocks and the gripper cast shadows; the links, far above, do not.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import numpy as np

from lamd_jax.data.procedural import noise
from lamd_jax.data.procedural.cater import render as cater_render
from lamd_jax.data.procedural.cater import shapes
from lamd_jax.data.procedural.cater.camera import MIDDLE
from lamd_jax.data.procedural.cater.camera import Rays
from lamd_jax.data.procedural.pushing import dynamics

CENTRE = np.array([0.0, -2.3, 2.5])
_TARGET = np.array([0.0, 0.05, 0.0])
FOCAL = 2.2  # half picture widths
_FORWARD = (_TARGET - CENTRE) / np.sqrt(((_TARGET - CENTRE) ** 2).sum())
_RIGHT = np.array([1.0, 0.0, 0.0])
# Rows: right, up, forward in world coordinates.
AXES = np.stack([_RIGHT, np.cross(_RIGHT, _FORWARD), _FORWARD])
_OFFSETS = np.array([[-1, -1], [1, -1], [-1, 1], [1, 1], [0, 0]]) * 0.25  # pixels, x y

ARM = 1  # instance of the arm; block k is k + 2
HEIGHT = 0.07  # half that of a block: the gripper travels above
_SIDE = 0.886  # half a box's side over its contact radius: a square of the same area
_BASE = np.array([0.0, 1.6, 0.9])
_LINK = 1.5  # length
_WRIST = 0.22  # above the gripper's tip
_BAR = 0.10  # half of the bar that shows the gripper's yaw

_TABLE = np.array((0.74, 0.66, 0.56), np.float32)
_FLOOR = np.array((0.34, 0.35, 0.38), np.float32)
_STEEL = np.array((0.26, 0.27, 0.30), np.float32)
_TIP = np.array((0.88, 0.88, 0.90), np.float32)
_GRAIN = 0.05  # depth of the table's texture
_ALBEDO = np.array(list(dynamics.COLOURS.values()), np.float32) / 255

Triple = tuple[np.ndarray, np.ndarray, np.ndarray]


class Part(NamedTuple):
  """A block or a piece of the arm, where it is in one frame."""

  owner: int  # instance
  albedo: np.ndarray  # [3] float32
  centre: np.ndarray  # [3]; of a capsule one end
  axis: np.ndarray  # [3] from there to the other end; zeros for a block
  radius: float  # of a capsule
  shape: int  # of a block, into cater's shapes; -1: a capsule
  half: np.ndarray  # [3] a block's extent
  yaw: float


@functools.lru_cache(maxsize=8)
def rays(size: int) -> Rays:
  """Returns the rays of a size x size picture. Shared: do not write to them."""
  steps = np.arange(size) + 0.5
  across = (2 * (steps[None, :, None] + _OFFSETS[:, 0]) / size - 1) / FOCAL
  upward = (1 - 2 * (steps[:, None, None] + _OFFSETS[:, 1]) / size) / FOCAL
  direction = tuple(
    AXES[2, i] + across * AXES[0, i] + upward * AXES[1, i] for i in range(3)
  )
  ground = -CENTRE[2] / direction[2]  # every ray points below the horizon
  x, y = (CENTRE[i] + ground * direction[i] for i in range(2))
  return Rays(direction, ground, x, y)


def project(points: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
  """Maps world points [...,3] to pixels [...,2] (x right, y down) and depths [...]."""
  x, y, depth = np.moveaxis((np.asarray(points) - CENTRE) @ AXES.T, -1, 0)
  across, upward = FOCAL * x / depth, FOCAL * y / depth
  return np.stack([(1 + across) * size / 2, (1 - upward) * size / 2], -1), depth


def block_part(block: dynamics.Block, owner: int, pose: np.ndarray) -> Part:
  """Returns a block at pose [3], x y yaw."""
  round_ = dynamics.SHAPES[block.shape] == "cylinder"
  width = block.radius if round_ else block.radius * _SIDE
  return Part(
    owner, _ALBEDO[block.colour], np.array([pose[0], pose[1], HEIGHT]), np.zeros(3), 0.0,
    shapes.CYLINDER if round_ else shapes.CUBE, np.array([width, width, HEIGHT]),
    float(pose[2]),
  )  # fmt: skip


def _capsule(start: np.ndarray, end: np.ndarray, radius: float, albedo) -> Part:
  return Part(ARM, albedo, start, end - start, radius, -1, np.zeros(3), 0.0)


def base_part() -> Part:
  """Returns the column that the arm stands on."""
  return _capsule(_BASE * (1, 1, 0), _BASE, 0.1, _STEEL)


def arm_parts(gripper: np.ndarray) -> list[Part]:
  """Returns gripper, bar and the two links for gripper [4], x y z yaw."""
  tip, yaw = gripper[:3], float(gripper[3])
  wrist = tip + (0, 0, _WRIST)
  across = _BAR * np.array([np.cos(yaw), np.sin(yaw), 0])
  middle = tip + (0, 0, 0.6 * _WRIST)
  # Links of equal length: the elbow lies above the middle of base and wrist.
  way = wrist - _BASE
  far = np.sqrt((way * way).sum())
  above = np.array([0, 0, 1.0]) - way * (way[2] / far**2)
  above /= np.sqrt((above * above).sum())
  elbow = _BASE + way / 2 + above * np.sqrt(_LINK**2 - far**2 / 4)
  return [
    _capsule(tip, wrist, dynamics.GRIPPER, _TIP),
    _capsule(middle - across, middle + across, 0.035, _TIP),
    _capsule(wrist, elbow, 0.045, _STEEL),
    _capsule(_BASE, elbow, 0.055, _STEEL),
  ]


def _dot(a, b):
  return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]


def _roots(a, b, c):
  root = np.sqrt(b * b - a * c)
  return (-b - root) / a, (-b + root) / a


def _meet(part: Part, origin: Triple, ray: Triple) -> tuple[np.ndarray, np.ndarray]:
  """Where rays from origin (off the part's centre) are inside; nan or enter > leave."""
  if part.shape >= 0:
    return shapes.interval(part.shape, 1.0, _unit(part, origin), _unit(part, ray))
  length = np.sqrt(_dot(part.axis, part.axis))
  u, r2 = part.axis / length, part.radius**2
  dd, du = _dot(ray, ray), _dot(ray, u)
  od, ou, oo = _dot(origin, ray), _dot(origin, u), _dot(origin, origin)
  with np.errstate(divide="ignore", invalid="ignore"):
    side = _roots(dd - du * du, od - ou * du, oo - ou * ou - r2)
    a, b = -ou / du, (length - ou) / du
    enter = np.maximum(side[0], np.minimum(a, b))
    leave = np.minimum(side[1], np.maximum(a, b))
    missed = ~(enter <= leave)
    enter, leave = np.where(missed, np.nan, enter), np.where(missed, np.nan, leave)
    # Its hull is a cylinder with a ball at each end; fmin and fmax pass over the nan.
    for shift in (0.0, length):
      ball = _roots(
        dd, od - shift * du, oo - 2 * shift * ou + shift * shift - r2
      )
      enter, leave = np.fmin(enter, ball[0]), np.fmax(leave, ball[1])
  return enter, leave


def _unit(part: Part, v) -> Triple:
  """A vector in a block's own coordinates, in which it has the extent 1."""
  cos, sin = np.cos(part.yaw), np.sin(part.yaw)
  return (
    (cos * v[0] + sin * v[1]) / part.half[0],
    (cos * v[1] - sin * v[0]) / part.half[1],
    v[2] / part.half[2],
  )


def _normal(part: Part, point: Triple) -> Triple:
  """Unit normals at surface points, relative to the part's centre."""
  if part.shape < 0:
    length = np.sqrt(_dot(part.axis, part.axis))
    u = part.axis / length
    along = np.clip(_dot(point, u), 0, length)
    return tuple((point[i] - along * u[i]) / part.radius for i in range(3))
  n = shapes.normal(part.shape, 1.0, _unit(part, point))
  cos, sin = np.cos(part.yaw), np.sin(part.yaw)
  # A face keeps its direction, and a round side is stretched alike in x and y.
  return cos * n[0] - sin * n[1], sin * n[0] + cos * n[1], n[2]


def _ball_window(centre: np.ndarray, reach: float, size: int) -> tuple[int, int, int, int]:
  """Rows and columns [low, high) that a ball can touch."""
  x, y, depth = AXES @ (centre - CENTRE)
  near, far, half = depth - reach, depth + reach, size / 2

  def edges(low: float, high: float) -> tuple[int, int]:
    first = (1 + FOCAL * min(low / near, low / far)) * half
    last = (1 + FOCAL * max(high / near, high / far)) * half
    return max(int(first), 0), max(min(int(last) + 2, size), 0)

  return *edges(-y - reach, -y + reach), *edges(x - reach, x + reach)


def _window(part: Part, size: int, light: np.ndarray | None) -> cater_render.Window:
  """Rows and columns that a part, and with `light` its shadow, can touch."""
  reach = part.radius if part.shape < 0 else float(np.sqrt(_dot(part.half, part.half)))
  ends = [part.centre] if part.shape >= 0 else [part.centre, part.centre + part.axis]
  balls = [_ball_window(end, reach, size) for end in ends]
  if light is not None:
    # The shadow of a ball is longer by 1 / light_z.
    balls += [
      _ball_window(end - light * (end[2] / light[2]), reach / light[2], size)
      for end in ends
    ]
  low, high = np.min(balls, 0), np.max(balls, 0)
  return slice(low[0], high[1]), slice(low[2], high[3])


def _draw(layer: cater_render.Layer, part: Part, light: np.ndarray) -> None:
  """Draws a part where it is nearer than what is there, lit as if alone."""
  size = len(layer.depth)
  at = _window(part, size, None)
  ray = [d[at] for d in rays(size).direction]
  origin = CENTRE - part.centre
  enter, leave = _meet(part, origin, ray)
  hit = (enter <= leave) & (enter < layer.depth[at])
  if not hit.any():
    return
  enter = enter[hit]
  point = tuple(o + enter * d[hit] for o, d in zip(origin, ray, strict=True))
  facing = np.maximum(_dot(_normal(part, point), light), 0)
  layer.depth[at][hit] = enter
  layer.owner[at][hit] = part.owner
  layer.shadow[at][hit] = False
  layer.dark[at][hit] = cater_render.AMBIENT * part.albedo
  bright = cater_render.AMBIENT + (cater_render.DIFFUSE * facing)[:, None]
  layer.lit[at][hit] = part.albedo * bright


def _cast(
  layer: cater_render.Layer, part: Part, light: np.ndarray, onto: np.ndarray | None
) -> None:
  """Puts samples into the part's shadow: all, or those that `onto` [S,S,5] marks."""
  size = len(layer.depth)
  at = _window(part, size, light)
  open_ = (layer.owner[at] != part.owner) & ~layer.shadow[at]
  if onto is not None:
    open_ &= onto[at]
  depth = layer.depth[at][open_]
  start = CENTRE - part.centre
  point = tuple(
    s + depth * d[at][open_] for s, d in zip(start, rays(size).direction, strict=True)
  )
  enter, leave = _meet(part, point, light)
  shaded = np.zeros(open_.size, bool)
  shaded[np.flatnonzero(open_.ravel())[(enter <= leave) & (leave > 0)]] = True
  layer.shadow[at] |= shaded.reshape(open_.shape)


def table(light: np.ndarray, draw: np.random.Generator, size: int) -> cater_render.Layer:
  """Returns the empty table, its texture drawn from `draw`, and the floor around it."""
  seen, shape = rays(size), (size, size, 5)
  tile = noise.band_tiles(draw, 64, ((3, 20),)).transpose(1, 2, 0).astype(np.float32)
  u, v = (((a.ravel() + 1) * 16).astype(np.float32) for a in (seen.x, seen.y))
  grain = 1 + np.float32(_GRAIN) * noise.lookup(tile, u, v).reshape(*shape, 1)
  on = (np.abs(seen.x) <= 1) & (np.abs(seen.y) <= 1)
  albedo = np.where(on[..., None], _TABLE * grain, _FLOOR).astype(np.float32)
  bright = cater_render.AMBIENT + cater_render.DIFFUSE * np.float32(light[2])
  return cater_render.Layer(
    seen.ground.copy(), np.zeros(shape, np.uint8), np.zeros(shape, bool),
    albedo * cater_render.AMBIENT, albedo * bright,
  )  # fmt: skip


def clip(
  blocks: tuple[dynamics.Block, ...],
  motion: dynamics.Motion,
  light: np.ndarray,
  grain: np.random.Generator,
  size: int,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """Renders the T frames of `motion`, light [3] a unit vector towards the sun.

  Returns video [T,S,S,3] uint8, and depth [T,S,S] float32 and owner [T,S,S] uint8 of the
  pixel centres: 0 table and floor, 1 arm, k + 2 block k.
  """
  frames, count = motion.blocks.shape[:2]
  poses = motion.blocks
  moves = (poses != poses[:1]).any((0, 2))
  resting = [block_part(blocks[k], k + 2, poses[0, k]) for k in np.flatnonzero(~moves)]
  still = table(light, grain, size)
  for part in [base_part(), *resting]:
    _draw(still, part, light)
  for part in resting:
    _cast(still, part, light, None)
  empty = cater_render.develop(still, cater_render.ALL)
  owners = np.array([ARM, *np.flatnonzero(moves) + 2], np.uint8)
  video = np.empty((frames, size, size, 3), np.uint8)
  depth = np.empty((frames, size, size), np.float32)
  owner = np.empty((frames, size, size), np.uint8)
  for t in range(frames):
    layer = still.copy()
    moving = [block_part(blocks[k], k + 2, poses[t, k]) for k in np.flatnonzero(moves)]
    arm = arm_parts(motion.gripper[t])
    for part in moving + arm:
      _draw(layer, part, light)
    onto = np.isin(layer.owner, owners)
    for part in resting:
      _cast(layer, part, light, onto)
    video[t] = empty
    for part in moving + arm[:2]:
      _cast(layer, part, light, None)
    for part in moving + arm[:2]:
      at = _window(part, size, light)
      video[t][at] = cater_render.develop(layer, at)
    for part in arm[2:]:
      at = _window(part, size, None)
      video[t][at] = cater_render.develop(layer, at)
    depth[t] = layer.depth[..., MIDDLE]
    owner[t] = layer.owner[..., MIDDLE]
  return video, depth, owner
