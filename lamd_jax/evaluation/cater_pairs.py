# SPDX-License-Identifier: Apache-2.0
"""Pairs of `cater` v1 clips with one arrangement, two looks and two movements.

A motion map says what happens where, so a movement can be taken over exactly only by a
scene whose objects stand where the donor's do. Both clips of a pair therefore start
from the same places, and differ in cone, light, the snitch's turn and what moves. The
clip that a perfect transfer would make is then known, and rendered as well.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from lamd_jax.data import philox
from lamd_jax.data.procedural.cater import actions
from lamd_jax.data.procedural.cater import render
from lamd_jax.data.procedural.cater import scene as scenes

CONE = 1  # in the order of records; the snitch is 0


class Pairs(NamedTuple):
  """N pairs: the donor A of the motion and the donor B of the content."""

  motion: np.ndarray  # [N,T,S,S,3] uint8, A
  content: np.ndarray  # [N,T,S,S,3] uint8, B
  target: np.ndarray  # [N,T,S,S,3] uint8: B's first frame moving as A does
  motion_moved: np.ndarray  # [N,2,2] float64 x, y from A's first to its last frame, units
  content_moved: np.ndarray  # [N,2,2] of B
  motion_colour: np.ndarray  # [N] int64 of A's cone, into scene.COLOUR_NAMES
  content_colour: np.ndarray  # [N] of B's, another one


def render_pairs(count: int, frames: int, size: int, seed: int) -> Pairs:
  """Renders `count` pairs. They are of no split: draws have names of their own."""
  rows = [_pair(seed, i, frames, size) for i in range(count)]
  return Pairs(*(np.stack(column) for column in zip(*rows, strict=True)))


def _pair(seed: int, i: int, frames: int, size: int) -> tuple[np.ndarray, ...]:
  stream = lambda name: philox.generator("cater_pairs", seed, name, i)
  scene = scenes.make(stream("a"), "v1")
  look = scenes.make(stream("b"), "v1")
  colours = scenes.COLOUR_NAMES.index("gold")  # the snitch's alone
  colour = scene.things[CONE].colour
  colour = (colour + 1 + scenes.pick(stream("colour"), colours - 1)) % colours
  cone = scene.things[CONE]._replace(
    colour=colour, material=look.things[CONE].material, yaw=look.things[CONE].yaw
  )
  snitch = scene.things[0]._replace(yaw=look.things[0].yaw)
  other = scene._replace(things=(snitch, cone), light=look.light)
  a = actions.plan(stream("motion a"), scene)
  b = actions.plan(stream("motion b"), scene)
  poses = np.floor(np.linspace(0, actions.POSES - 1, frames)).astype(np.int64)
  shown = lambda s, m: render.clip(s, m.position[poses], m.tilt[poses], size)[0]
  moved = lambda m: (m.position[-1] - m.position[0])[:, :2]
  return (
    shown(scene, a), shown(other, b), shown(other, a), moved(a), moved(b),
    np.int64(scene.things[CONE].colour), np.int64(colour),
  )  # fmt: skip
