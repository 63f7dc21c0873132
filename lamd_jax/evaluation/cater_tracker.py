# SPDX-License-Identifier: Apache-2.0
"""Finds the cone and the snitch of a `cater` v1 clip from its colours alone.

Pixels go to the nearest shade of the palette, objects are connected components. Where
an object rests, in the first and the last frame, the blob is only a guess: the pose is
fitted by rendering the two objects and comparing pictures, which shadows and the
camera's perspective then help instead of disturb. An action is the closed-form path
between the two poses that the blobs follow best. Nothing is assumed known of the clip.
"""

from __future__ import annotations

import copy
import functools
from typing import NamedTuple

import numpy as np

from lamd_jax.data.procedural.cater import actions
from lamd_jax.data.procedural.cater import camera
from lamd_jax.data.procedural.cater import captions
from lamd_jax.data.procedural.cater import render
from lamd_jax.data.procedural.cater import scene as scenes
from lamd_jax.data.procedural.cater import shapes
from lamd_jax.evaluation import cater_blobs

OBJECTS = ("snitch", "cone")  # in the order of records
SNITCH, CONE = range(2)
_RADII = np.array([0.3, 0.5])
_STILL = 0.6  # pixels at 64: by less no path is better than standing still
_MOVED = 0.25  # units: shorter slides are none
_CLOSE = 0.6  # units between a cone and what it contains, at most
_CHANGE = 4.0  # weight of the change between the end frames when judging a turn
_GLIMPSE = 1.0  # squared difference at 64 pixels below which nothing is seen of it
_YAWS = np.arange(24) * np.pi / 24  # the snitch's pattern repeats every half turn


class Track(NamedTuple):
  """What one object is seen to do in a clip of T frames."""

  position: np.ndarray  # [T,3] float64 centre in world units; nan where never seen
  visible: np.ndarray  # [T] bool
  lifted: np.ndarray  # [T] bool
  action: int  # into actions.NAMES: still, slide, rotate, pick_place or contain
  cell: tuple[int, int]  # where it ends; (0, 0) where never seen


@functools.lru_cache(maxsize=4)
def _floor(size: int) -> render.Layer:
  return render.ground(scenes.Scene((), cater_blobs.LIGHT, None), size)


class _Fit:
  """Compares a frame with renderings of the two objects at rest."""

  def __init__(self, frame: np.ndarray, present: np.ndarray, at: render.Window):
    """Takes frame [S,S,3] in [0,1], the objects present [N] and where to look."""
    self.size = len(frame)
    self.present = present
    plain = render.develop(_floor(self.size), (slice(0, 1), slice(0, 1)))[0, 0] / 255
    gain = plain / np.maximum(np.median(frame.reshape(-1, 3), 0), 0.05)
    self._target = frame * gain
    self._layer = _floor(self.size).copy()
    self._target = self._target.astype(np.float32)
    self._at, self._empty = at, plain.astype(np.float32) - self._target

  def without(self, k: int) -> _Fit:
    """Returns the same comparison with object k left out."""
    other = copy.copy(self)
    other.present = self.present[self.present != k]
    return other

  def residual(
    self, place: np.ndarray, colour: int, material: int, yaw: float, tilt: float
  ) -> np.ndarray:
    """Returns rendering minus frame, flat, for places [2,2]; yaw nan: no pattern."""
    plain = np.isnan(yaw)
    snitch = shapes.SPHERE if plain else shapes.SNITCH
    things = (
      scenes.Thing(snitch, 2, cater_blobs.GOLD, 1, 0.3, 0, 0, 0 if plain else yaw),
      scenes.Thing(shapes.CONE, 1, colour, material, 0.5, 0, 0, 0),
    )
    position = np.concatenate([place, _RADII[:, None]], 1)
    scene = scenes.Scene(things, cater_blobs.LIGHT, None)
    touched = render.place(
      self._layer, scene, position, np.array([tilt, 0]), self.present
    )
    error = self._empty.copy()
    for at in touched:
      drawn = render.develop(self._layer, at) * np.float32(1 / 255)
      error[at] = drawn - self._target[at]
    for at in touched:  # the layer is used again: most of it is floor
      for mine, clean in zip(self._layer, _floor(self.size), strict=True):
        mine[at] = clean[at]
    return error[self._at].ravel()

  def picture(self, residual: np.ndarray) -> np.ndarray:
    """Returns a residual as a picture [S,S,3], 0 where it was not looked at."""
    whole = np.zeros_like(self._target)
    whole[self._at] = residual.reshape(whole[self._at].shape)
    return whole

  def refine(self, place: np.ndarray, rounds: int, *look) -> np.ndarray:
    """Damped Gauss-Newton over the places of the present objects."""
    free = [(k, i) for k in self.present for i in range(2)]
    if not free:
      return place
    place, damping = place.copy(), 0.05
    base = self.residual(place, *look)
    for _ in range(rounds):
      slopes = []
      for k, i in free:
        moved = place.copy()
        moved[k, i] += 0.1  # about a pixel: smaller steps see only rounding
        slopes.append((self.residual(moved, *look) - base) / 0.1)
      jacobian = np.stack(slopes, 1)
      # Not by BLAS: its threads cost more than so small a product.
      normal = np.einsum("ni,nj->ij", jacobian, jacobian)
      normal += damping * np.diag(np.diag(normal)) + 1e-9 * np.eye(len(free))
      gradient = np.einsum("ni,n->i", jacobian, base)
      step = np.clip(-np.linalg.solve(normal, gradient), -0.5, 0.5)
      moved = place.copy()
      for (k, i), s in zip(free, step, strict=True):
        moved[k, i] = np.clip(moved[k, i] + s, -4, 4)
      trial = self.residual(moved, *look)
      if trial @ trial < base @ base:
        place, base, damping = moved, trial, damping / 4
      else:
        damping *= 8
      if np.abs(step).max() < 0.01:
        break
    return place


def _ground_guess(pixel: np.ndarray, size: int) -> np.ndarray:
  """Back-projects blob centres [2,2] to the ground; a cone's lies below its middle."""
  heights = (_RADII[SNITCH], 0.8 * _RADII[CONE])
  pairs = zip(pixel, heights, strict=True)
  return np.stack([camera.unproject(p, h, size) for p, h in pairs])


class _Ends(NamedTuple):
  """What fits the first and the last frame best."""

  place: np.ndarray  # [2,2,2] end, object, x y; nan where it cannot be seen
  turned: bool  # whether the snitch's pattern is a quarter turn on
  cost: float  # squared difference of the renderings from both frames
  doubt: float  # the same, with what the snitch's change alone tells


def _fit_ends(video: np.ndarray, blobs: cater_blobs.Blobs, at: render.Window) -> _Ends:
  """Fits both end frames; each step starts from what the one before found."""
  places = np.full((2, 2, 2), np.nan)
  fits = []
  costs = np.zeros(2)
  for end, t in enumerate((0, -1)):
    guess = _ground_guess(blobs.pixel[t], video.shape[1]).clip(-3.5, 3.5)
    present = np.flatnonzero(~np.isnan(guess[:, 0]))
    fit, place = _start(_Fit(video[t], present, at), np.nan_to_num(guess), blobs.colour)
    places[end, fit.present] = place[fit.present]
    fits.append((end, fit))
    for material in range(2):
      error = fit.residual(place, blobs.colour, material, np.nan, 0.0)
      costs[material] += error @ error
  look = (blobs.colour, int(costs.argmin()))
  seen = ~np.isnan(places[:, SNITCH, 0])
  ends = [_with_turn(fits, places, look, False)]
  drift = places[1, SNITCH] - places[0, SNITCH]
  if seen.all() and drift @ drift < _MOVED**2:
    ends.append(_with_turn(fits, places, look, True))
  return min(ends, key=lambda e: e.doubt)


def _start(fit: _Fit, guess: np.ndarray, colour: int) -> tuple[_Fit, np.ndarray]:
  """Fits places with a plain snitch, and drops a snitch that explains nothing."""
  look = (colour, 0, np.nan, 0.0)
  place = fit.refine(guess, 5, *look)
  if len(fit.present) == 2:
    # A shaded side of the cone can look like gold.
    alone = fit.without(SNITCH)
    other = alone.refine(place, 3, *look)
    both, one = fit.residual(place, *look), alone.residual(other, *look)
    share = both - alone.residual(place, *look)  # what it adds to the picture
    worth = float(share @ share)
    if worth < _GLIMPSE * (fit.size / 64) ** 2 or one @ one - both @ both < 0.3 * worth:
      return alone, other
  return fit, place


def _with_turn(
  fits: list[tuple[int, _Fit]], places: np.ndarray, look: tuple[int, int], turned: bool
) -> _Ends:
  """Finds the snitch's yaw if it turned, or if not, then all places once more."""
  tilts = (0.0, np.pi / 2 if turned else 0.0)
  known = np.nan_to_num(places)
  costs = []
  yaws = _YAWS if turned else _YAWS[:12]  # upright it repeats every quarter turn
  for yaw in yaws:
    errors = [fit.residual(known[end], *look, yaw, tilts[end]) for end, fit in fits]
    costs.append(sum(e @ e for e in errors))
  yaw = float(yaws[int(np.argmin(costs))])
  refined, errors = places.copy(), []
  for end, fit in fits:
    place = fit.refine(known[end], 4, *look, yaw, tilts[end])
    refined[end] = np.where(np.isnan(places[end]), np.nan, place)
    errors.append(fit.residual(place, *look, yaw, tilts[end]))
  doubt = cost = sum(float(e @ e) for e in errors)
  if not np.isnan(places[:, SNITCH]).any():
    # What is wrong in both frames alike, such as the light, says nothing of turning.
    size = fits[0][1].size
    at = camera.window(np.array([*known[0, SNITCH], 0.3]), 0.5, size)
    change = fits[1][1].picture(errors[1]) - fits[0][1].picture(errors[0])
    doubt += _CHANGE * float(np.square(change[at]).sum())
  return _Ends(refined, turned, cost, doubt)


@functools.lru_cache(maxsize=4)
def _progress(frames: int) -> np.ndarray:
  """Returns how far any action is at each frame, for every start and length, [N,T]."""
  poses = np.floor(np.linspace(0, actions.POSES - 1, frames)).astype(np.int64)
  return np.stack([
    actions.progress(start, length)[poses]
    for start in range(actions.LATE + 1)
    for length in range(actions.SHORTEST, actions.LONGEST + 1)
  ])


def _follow(
  pixel: np.ndarray, first: np.ndarray, last: np.ndarray, radius: float, size: int
) -> tuple[int, np.ndarray]:
  """Returns the action whose path fits a blob's track [T,2] best, and the path [T,3].

  `first` and `last` [2] are the places at both ends.
  """
  ends = [np.array([*p, radius]) for p in (first, last)]
  seen = ~np.isnan(pixel[:, 0])
  anchors = camera.project(np.stack(ends), size)[0]
  # Blob centres lie off the projected centre, by the same vector in both end frames.
  shifts = [pixel[t] - anchors[e] for e, t in ((0, 0), (1, -1)) if seen[t]]
  shift = np.mean(shifts, 0) if shifts else np.zeros(2)
  unit = size / 64

  def miss(paths: np.ndarray) -> np.ndarray:
    """Mean squared distance of paths [...,T,3]; a stray blob counts little."""
    gap = camera.project(paths[..., seen, :], size)[0] + shift - pixel[seen]
    return np.minimum(np.square(gap).sum(-1), (4 * unit) ** 2).mean(-1)

  still = np.repeat(ends[0][None], len(pixel), 0)
  best = (miss(still) - (_STILL * unit) ** 2, actions.STILL, still)
  for kind in (actions.SLIDE, actions.PICK_PLACE):
    lifted = kind == actions.PICK_PLACE
    if not lifted and np.square(ends[1] - ends[0]).sum() < _MOVED**2:
      continue
    paths = actions.path(ends[0], ends[1], _progress(len(pixel)), lifted)
    error = miss(paths)
    if error.min() < best[0]:
      best = (error.min(), kind, paths[error.argmin()])
  return best[1], best[2]


def track(video: np.ndarray) -> tuple[Track, Track]:
  """Returns what the snitch and the cone of a v1 clip [T,S,S,3] uint8 do.

  A clip spans its segment, as the world renders it. Works from 48 pixels on.
  """
  if video.ndim != 4 or video.shape[1] != video.shape[2] or video.shape[3] != 3:
    raise ValueError(f"a clip of shape {video.shape}: give [T,S,S,3]")
  clip = np.asarray(video, np.float64) / 255
  frames, size = clip.shape[:2]
  solid = cater_blobs.classify(clip)
  colours = cater_blobs.cone_colours(solid)
  tried = [cater_blobs.find(solid, int(c), frames, size) for c in colours]
  at = cater_blobs.span(solid.at, frames, size)
  found = [_fit_ends(clip, blobs, at) for blobs in tried]
  best = int(np.argmin([ends.cost for ends in found]))
  blobs, ends = tried[best], found[best]
  visible = ~np.isnan(blobs.pixel[..., 0])
  visible[[0, -1]] = ~np.isnan(ends.place[..., 0])
  pixel = np.where(visible[..., None], blobs.pixel, np.nan)
  tracks = []
  for k in range(2):
    if not visible[:, k].any():
      nowhere = np.full((frames, 3), np.nan)
      tracks.append(
        Track(nowhere, visible[:, k], np.zeros(frames, bool), actions.STILL, (0, 0))
      )
      continue
    first, last = ends.place[:, k]
    if np.isnan(first).any():
      first = _ground_guess(_first_seen(pixel), size)[k]
    if np.isnan(last).any():
      # Out of sight at the end, so it stays where it was: under the cone, or gone.
      last = first
    kind, centres = _follow(pixel[:, k], first, last, _RADII[k], size)
    lifted = centres[:, 2] > _RADII[k] + 0.1
    cell = tuple(captions.cell(float(np.clip(v, -2.999, 3))) for v in centres[-1, :2])
    tracks.append(Track(centres, visible[:, k], lifted, kind, cell))
  snitch, cone = tracks
  if snitch.action == actions.STILL and ends.turned:
    snitch = snitch._replace(action=actions.ROTATE)
  apart = np.sqrt(np.square(snitch.position[-1] - cone.position[-1])[:2].sum())
  if cone.action == actions.PICK_PLACE and not visible[-1, SNITCH] and apart < _CLOSE:
    cone = cone._replace(action=actions.CONTAIN)
    snitch = snitch._replace(action=actions.STILL)
  return snitch, cone


def _first_seen(pixel: np.ndarray) -> np.ndarray:
  """Returns each blob's centre [2,2] in the first frame that has it; nan for none."""
  rows = [pixel[~np.isnan(pixel[:, k, 0]), k] for k in range(2)]
  return np.stack([r[0] if len(r) else np.full(2, np.nan) for r in rows])
