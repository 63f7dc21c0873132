# SPDX-License-Identifier: Apache-2.0
"""Scores of edited `cater` clips: is the structure kept, is the content that asked for?

An edit has the structure of one clip, the driving one, and the content of another. The
depth of an edit cannot be measured from its colours alone, so depth fidelity is that of
what depth shows, the objects' places and outlines, and it is measured against truth:

  mask_iou        intersection over union of the edit's object pixels and the driving
                  clip's true ones, all objects as one, mean over frames
  position_error  units of the world: centres of snitch and cone (v1 alone), projected
                  back to the ground, against those of the true masks; where found
  found           share of the objects to be seen in a frame whose colours are, anywhere
  colour          whether the cone has the content's colour
  material        whether its highlights are those of the content's material
  warp_error      grey levels, along the motion of the driving clip's true masks
  motion          grey levels between frames: a still clip is perfectly consistent

Frame and prompt consistency are cosines of embeddings that the caller brings. They are
the paper's two, but CLIP's only where the embeddings are.

Pixels are read as mixtures of palette and floor, since an autoencoder blurs objects of
few pixels into the floor. True clips, as they are and rebuilt, are every score's
ceiling.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from lamd_jax.data.procedural.cater import camera
from lamd_jax.data.procedural.cater import render
from lamd_jax.data.procedural.cater import scene as scenes
from lamd_jax.evaluation import bootstrap
from lamd_jax.evaluation import cater_blobs
from lamd_jax.evaluation import clip_scores
from lamd_jax.evaluation import motion

PROTOCOL = {
  "name": "gen1_edits",
  "version": 1,
  "structure": "true masks of the driving clip; no depth is estimated",
  "material": "linear discriminant of highlights, fitted on true training clips",
  "interval": "95 % percentile bootstrap over clips",
  "held by interval": "the interval of last minus first point has the right sign",
  "held by order": "the means of all points are in the paper's order",
}
_PALETTE = np.array(list(scenes.COLOURS.values())) / 255
_CONTRAST = 0.14  # RGB distance from the floor at which a pixel belongs to something
_SHARES = np.array([1, 0.75, 0.5])  # of an object in its pixel; the rest is floor
_SMALLEST = 3  # pixels at 64: of less an object is not seen
_HEIGHTS = (0.3, 0.4)  # units above the ground of the middles of snitch and cone
_RIDGE = 5.0  # of the discriminant, in clips


class Seen(NamedTuple):
  """What the colours of one clip show."""

  mask: np.ndarray  # [T,H,W] bool, objects
  centre: np.ndarray  # [T,2,2] float64 x, y of snitch and cone; nan where unseen
  colour: int  # of the cone, into scene.COLOUR_NAMES; -1: there is none
  highlights: np.ndarray  # [4] float64 of the cone, see `_highlights`


class Scores(NamedTuple):
  """Per clip, [N] float64; nan where it cannot be said. See the module."""

  frame_consistency: np.ndarray
  motion: np.ndarray
  warp_error: np.ndarray
  prompt_consistency: np.ndarray
  mask_iou: np.ndarray
  position_error: np.ndarray
  found: np.ndarray
  colour: np.ndarray
  material: np.ndarray


class Wanted(NamedTuple):
  """What edits are scored against, row i for clip i; None where nobody knows."""

  text: np.ndarray | None = None  # [N,D] embedding of the content's caption
  instance: np.ndarray | None = None  # [N,T,H,W] uint8 of the driving clips
  cone: np.ndarray | None = None  # [N,2] colour and material of the content's cone


class Discriminant(NamedTuple):
  """Tells metal from rubber; see `fit_material`."""

  centre: np.ndarray  # [C,4] of each colour's highlights
  weights: np.ndarray  # [4]
  bias: float


def _shades() -> np.ndarray:
  """The palette's colours [C,6,3] from the shadow side to a highlight."""
  facing = np.array([0, 0.25, 0.5, 0.75, 1, 1])[:, None]
  shine = np.array([0, 0, 0, 0, 0, 0.3])[:, None]
  light = render.AMBIENT + render.DIFFUSE * facing
  return np.minimum(_PALETTE[:, None] * light + shine, 1)


def look(clip: np.ndarray) -> Seen:
  """Finds the objects of a clip [T,S,S,3] uint8 on a plain floor."""
  video = clip.astype(np.float64) / 255
  frames, size = video.shape[:2]
  floor = np.median(video.reshape(-1, 3), 0)
  shadow = floor * render.AMBIENT
  shadow /= render.AMBIENT + render.DIFFUSE * cater_blobs.LIGHT[2]
  contrast = np.square(video - floor).sum(-1)
  at = np.argwhere(contrast > _CONTRAST**2)
  pixels, weight = video[tuple(at.T)], contrast[tuple(at.T)]
  mix = np.linspace(0, 1, 11)[:, None]
  dim = _gap(pixels, mix * floor + (1 - mix) * shadow)
  share = _SHARES[:, None, None]
  gap = np.stack(
    [_gap(pixels, (share * c + (1 - share) * floor).reshape(-1, 3)) for c in _shades()], 1
  )
  objects = gap.min(1) < dim
  mask = np.zeros((frames, size, size), bool)
  mask[tuple(at[objects].T)] = True
  label = gap.argmin(1)
  # What differs most from the floor says most.
  votes = np.bincount(label[objects], weight[objects], len(_PALETTE))[: cater_blobs.GOLD]
  if not votes.any():
    return Seen(mask, np.full((frames, 2, 2), np.nan), -1, np.zeros(4))
  colour = int(votes.argmax())
  dark = pixels.mean(1) < 0.6 * floor.mean()
  solid = cater_blobs.Solid(at, dim, gap, dark)
  blobs = cater_blobs.find(solid, colour, frames, size)
  own = pixels[objects & (label == colour)]
  return Seen(mask, blobs.pixel, colour, _highlights(own, _PALETTE[colour]))


def _gap(pixels: np.ndarray, colours: np.ndarray) -> np.ndarray:
  """Squared distance of pixels [N,3] to the nearest of colours [M,3], [N]."""
  return np.square(pixels[:, None] - colours).sum(-1).min(1, initial=np.inf)


def _highlights(pixels: np.ndarray, albedo: np.ndarray) -> np.ndarray:
  """Statistics of how pixels [N,3] of one colour shine, [4].

  Two percentiles of the white that explains a pixel best beside its colour in any light,
  one of what exceeds the colour in full light, and the range of brightness.
  """
  lit = albedo * (render.AMBIENT + render.DIFFUSE * np.linspace(0, 1, 9)[:, None])
  white = np.linspace(0, 0.6, 13)
  model = np.minimum(lit[:, None] + white[:, None], 1).reshape(-1, 3)
  best = np.square(pixels[:, None] - model).sum(-1).argmin(1)
  shine = white[best % len(white)]
  excess = (pixels - lit[-1]).min(1)
  bright = pixels.sum(1)
  return np.array([
    np.percentile(shine, 50), np.percentile(shine, 70), np.percentile(excess, 90),
    np.percentile(bright, 95) - np.percentile(bright, 50),
  ])  # fmt: skip


def fit_material(clips: np.ndarray, cones: np.ndarray) -> Discriminant:
  """Fits what tells the materials apart, on true clips.

  Highlights are compared with the mean of their colour, since white shows more on dark
  colours; then ridge regression of the material.

  Args:
    clips: [N,T,S,S,3] uint8 of v1.
    cones: [N,2] true colour and material.
  """
  found = np.stack([look(clip).highlights for clip in clips])
  centre = np.tile(found.mean(0), (len(_PALETTE), 1))
  for colour in np.unique(cones[:, 0]):
    centre[colour] = found[cones[:, 0] == colour].mean(0)
  x = found - centre[cones[:, 0]]
  scale = x.std(0) + 1e-6
  x = np.concatenate([x / scale, np.ones((len(x), 1))], 1)
  y = 2.0 * cones[:, 1] - 1
  ridge = _RIDGE * np.diag([*np.ones(len(scale)), 0])
  solved = np.linalg.solve(x.T @ x + ridge + 1e-9 * np.eye(len(ridge)), x.T @ y)
  return Discriminant(centre, solved[:-1] / scale, float(solved[-1]))


def material(seen: Seen, by: Discriminant) -> int:
  """Returns the cone's material, into scene.MATERIALS; -1 where there is no cone."""
  if seen.colour < 0:
    return -1
  score = (seen.highlights - by.centre[seen.colour]) @ by.weights + by.bias
  return int(score > 0)


def mask_iou(mask: np.ndarray, true: np.ndarray) -> float:
  """Mean over frames of the IoU of masks [T,H,W] bool; nan where both are empty."""
  union = (mask | true).sum((1, 2))
  both = (mask & true).sum((1, 2))
  known = union > 0
  return float((both[known] / union[known]).mean()) if known.any() else np.nan


def _centres(instance: np.ndarray) -> np.ndarray:
  """Centres [T,K,2] x, y of objects 1, 2 in [T,H,W]; nan where hardly to be seen."""
  frames, size = instance.shape[:2]
  centre = np.full((frames, 2, 2), np.nan)
  for t in range(frames):
    for k in range(2):
      points = np.argwhere(instance[t] == k + 1)
      if len(points) >= _SMALLEST * (size / 64) ** 2:
        centre[t, k] = points.mean(0)[::-1] + 0.5
  return centre


def positions(seen: np.ndarray, true: np.ndarray, size: int) -> tuple[float, float]:
  """Returns (mean distance in units of the objects found, share of them found).

  Both centres [T,2,2] go through the same back-projection, so that what it gets wrong
  of a lifted or half-hidden object mostly cancels.
  """
  visible, known = ~np.isnan(true[..., 0]), ~np.isnan(seen[..., 0])
  if not visible.any():
    return np.nan, np.nan
  both = visible & known
  errors = []
  for k, height in enumerate(_HEIGHTS):
    a, b = (camera.unproject(x[both[:, k], k], height, size) for x in (seen, true))
    errors.extend(np.sqrt(np.square(a - b).sum(-1)))
  error = float(np.mean(errors)) if errors else np.nan
  return error, float(both.sum() / visible.sum())


def true_flow(instance: np.ndarray) -> np.ndarray:
  """Flow [T-1,H,W,2] of true masks [T,H,W]: each object moves as its centre does.

  The floor and what cannot be followed stand still.
  """
  frames, height, width = instance.shape
  flow = np.zeros((frames - 1, height, width, 2))
  for k in np.unique(instance[instance > 0]):
    own = instance == k
    lost = np.full(2, np.nan)
    middle = [np.argwhere(m).mean(0)[::-1] if m.any() else lost for m in own]
    for t, step in enumerate(np.nan_to_num(np.diff(middle, axis=0))):
      flow[t][own[t]] = step
  return flow


def score(
  clips: np.ndarray,
  embeddings: np.ndarray,
  wanted: Wanted,
  by: Discriminant | None,
) -> Scores:
  """Scores clips against what was wanted of them.

  Args:
    clips: [N,T,S,S,3] uint8.
    embeddings: [N,T,D] of their frames.
    wanted: what they are compared with.
    by: tells materials apart; None: the world is not v1, and no object is tracked.
  """
  count = len(clips)
  unknown = np.full(count, np.nan)
  moved = np.array([motion.statistics(clip).difference for clip in clips])
  found = Scores(clip_scores.frame_consistency(embeddings), moved, *([unknown] * 7))
  if wanted.text is not None:
    found = found._replace(
      prompt_consistency=clip_scores.clipsim(wanted.text, embeddings)
    )
  if wanted.instance is None:
    return found
  rows = []
  for i, clip in enumerate(clips):
    true = wanted.instance[i]
    seen = look(clip)
    row = [motion.warp_error(clip, true_flow(true)), mask_iou(seen.mask, true > 0)]
    if by is None or wanted.cone is None:
      rows.append(row + [np.nan] * 4)
      continue
    row += positions(seen.centre, _centres(true), clip.shape[1])
    colour, stuff = wanted.cone[i]
    rows.append([*row, seen.colour == colour, material(seen, by) == stuff])
  names = ("warp_error", "mask_iou", "position_error", "found", "colour", "material")
  columns = np.array(rows, np.float64).T
  return found._replace(**dict(zip(names, columns, strict=True)))


def unrelated(embeddings: np.ndarray, order: np.ndarray) -> np.ndarray:
  """Embeddings [N,T,D] whose neighbours in time are of two clips: consistency's floor."""
  mixed = embeddings.copy()
  mixed[:, 1::2] = embeddings[order][:, 1::2]
  return mixed


def summary(scores: Scores, draws: np.ndarray) -> dict[str, dict[str, Any]]:
  """`mean` of every score."""
  return {name: bootstrap.mean(values, draws) for name, values in scores._asdict().items()}


def direction(
  points: Sequence[np.ndarray], rises: bool, draws: np.ndarray
) -> dict[str, Any]:
  """Does a score of the same clips rise, or fall, along the points of a curve?

  Args:
    points: the score of each clip [N] at each point, in order.
    rises: what is claimed; False: it falls.
    draws: [R,N] of the bootstrap, the same clips at all points.

  Returns:
    {"change": last minus first, with interval; "by_interval", "by_order": whether held,
    None where there is no score}; see PROTOCOL.
  """
  change = bootstrap.mean(np.asarray(points[-1]) - np.asarray(points[0]), draws)
  if change["mean"] is None:
    return {"change": change, "by_interval": None, "by_order": None}
  sign = 1 if rises else -1
  low, high = (sign * v for v in change["interval"])
  steps = sign * np.diff([np.nanmean(p) for p in points])
  return {
    "change": change,
    "by_interval": bool(min(low, high) > 0),
    "by_order": bool((steps > 0).all()),
  }
