# SPDX-License-Identifier: Apache-2.0
"""Do motion and content come apart? Four measures, each beside its control.

  motion       how objects move with another clip's motion map: as in that clip, and
               not as they would have by themselves
  appearance   what colour they then have: the image's, and not the motion's donor's
  reconstruction  how much worse another clip's motion map rebuilds a clip
  probes       what a linear map reads from a motion map of clips it was not fitted to

Intervals are 95 % percentile bootstraps over clips.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from lamd_jax.evaluation import cater_blobs
from lamd_jax.evaluation.cater_tracker import Track

MOVED = 0.25  # units: objects that move by less stand still
_PENALTIES = 10.0 ** np.arange(-2, 6)  # of ridge regression, on standardised features
_APART = 0.3  # RGB distance from which two looks differ at a pixel
_LEAN = 0.1  # of that distance squared: by less a pixel is between the two
_KEPT_BACK = 5  # every fifth clip of the fitting set chooses the penalty


class Estimate(NamedTuple):
  """A mean over clips, or another figure of them, and its interval."""

  value: float
  interval: tuple[float, float]


def bootstrap(
  figure: Callable[[np.ndarray], float], count: int, resamples: int, seed: int
) -> Estimate:
  """Returns figure(rows) of all `count` clips, and its interval over draws of rows."""
  generator = np.random.default_rng(seed)
  draws = generator.integers(0, count, (resamples, count))
  low, high = np.nanpercentile([figure(rows) for rows in draws], [2.5, 97.5])
  return Estimate(float(figure(np.arange(count))), (float(low), float(high)))


def mean(values: np.ndarray, resamples: int, seed: int) -> Estimate:
  """Mean of what is not nan of values [N] or [N,K], and its interval over rows."""
  return bootstrap(lambda rows: np.nanmean(values[rows]), len(values), resamples, seed)


def displacement(tracks: Sequence[tuple[Track, Track]]) -> np.ndarray:
  """Where both objects went, [N,2,2] float64 x, y in units.

  nan where an object was not seen in both the first and the last frame; a snitch under
  its cone is not.
  """
  rows = [
    [
      np.where(t.visible[[0, -1]].all(), (t.position[-1] - t.position[0])[:2], np.nan)
      for t in pair
    ]
    for pair in tracks
  ]
  return np.array(rows, np.float64)


def agreement(
  found: np.ndarray, said: np.ndarray, asked: np.ndarray, resamples: int, seed: int
) -> dict[str, Estimate]:
  """Compares displacements.

  Args:
    found: [N,2,2] as tracked, nan where unseen.
    said: [N,2,2] what they are held against.
    asked: [N,2] bool: the objects that count.
    resamples: of the bootstrap.
    seed: likewise.

  Returns:
    correlation, of x and y pooled; cosine, means over objects, 0 where one of both
    does not move; error, mean distance in units.
  """
  known = asked & ~np.isnan(found).any(-1)
  lengths = np.linalg.norm(found, axis=-1), np.linalg.norm(said, axis=-1)
  both = known & (lengths[0] >= MOVED) & (lengths[1] >= MOVED)
  product = lengths[0] * lengths[1]
  cosine = np.where(both, (found * said).sum(-1) / np.where(both, product, 1), 0.0)
  cosine = np.where(known, cosine, np.nan)
  error = np.where(known, np.linalg.norm(found - said, axis=-1), np.nan)

  def correlation(rows: np.ndarray) -> float:
    keep = known[rows]
    x, y = found[rows][keep].ravel(), said[rows][keep].ravel()
    if not x.size or np.ptp(x) == 0 or np.ptp(y) == 0:
      return 0.0  # what never changes goes along with nothing
    return float(np.corrcoef(x, y)[0, 1])

  return {
    "correlation": bootstrap(correlation, len(found), resamples, seed),
    "cosine": mean(cosine, resamples, seed),
    "error": mean(error, resamples, seed),
  }


def motion(
  found: np.ndarray,
  donor: np.ndarray,
  own: np.ndarray,
  order: np.ndarray,
  resamples: int,
  seed: int,
) -> dict[str, Any]:
  """How much displacements `found` [N,2,2] with the donors' motion are the donors'.

  Objects count that move in the donor. Beside it stand the clips' own displacements and
  those of other donors, taken in `order` [N].
  """
  asked = np.linalg.norm(donor, axis=-1) >= MOVED
  compare = lambda said: agreement(found, said, asked, resamples, seed)
  seen = asked & ~np.isnan(found).any(-1)
  return {
    "donor": compare(donor),
    "own": compare(own),
    "shuffled": compare(donor[order]),
    "objects": int(asked.sum()),
    "tracked": float(seen.sum() / asked.sum()),
  }


def cone_colours(clips: np.ndarray) -> np.ndarray:
  """The cone's colour in the second half of clips [N,T,S,S,3], [N] int64; -1: none.

  By then it has moved, and shows what it took along.
  """
  found = []
  for clip in clips:
    solid = cater_blobs.classify(clip[len(clip) // 2 :].astype(np.float64) / 255)
    found.append(cater_blobs.cone_colours(solid)[0] if len(solid.at) else -1)
  return np.array(found, np.int64)


def appearance(
  found: np.ndarray, content: np.ndarray, donor: np.ndarray, resamples: int, seed: int
) -> dict[str, Estimate]:
  """Share of cones [N] that have the content's colour, and the motion's donor's."""
  share = lambda said: mean((found == said).astype(np.float64), resamples, seed)
  return {"content": share(content), "donor": share(donor)}


def nearer(clips: np.ndarray, content: np.ndarray, donor: np.ndarray) -> np.ndarray:
  """Share of pixels nearer to one look than to the other, [N] float64.

  `content` and `donor` [N,T,S,S,3] uint8 are true clips of one motion in two looks, that
  of the image and that of the motion's donor. Pixels count where these differ clearly,
  which is where the cone is, in the second half. 1 is the image's look, 0 the donor's;
  a colour that is neither has no vote. nan where the two do not differ.
  """
  half = clips.shape[1] // 2
  x, a, b = (v[:, half:].astype(np.float64) / 255 for v in (clips, content, donor))
  apart = np.square(a - b).sum(-1)
  lean = (np.square(x - b) - np.square(x - a)).sum(-1)
  votes = (apart > _APART**2) & (np.abs(lean) > _LEAN * apart)
  toward = (votes & (lean > 0)).sum((1, 2, 3))
  count = votes.sum((1, 2, 3))
  return np.where(count > 0, toward / np.maximum(count, 1), np.nan)


def reconstruction(
  own: np.ndarray, shuffled: np.ndarray, resamples: int, seed: int
) -> dict[str, Estimate]:
  """PSNR [N], dB, with each clip's own motion map and with another clip's."""
  return {
    "own": mean(own, resamples, seed),
    "shuffled": mean(shuffled, resamples, seed),
    "loss": mean(own - shuffled, resamples, seed),
  }


def ridge(
  features: np.ndarray, targets: np.ndarray, held_out: np.ndarray
) -> np.ndarray:
  """Predicts targets [N,K] of features [N,D] for `held_out` [M,D]; returns [M,K].

  Features are standardised; the penalty is the one that predicts every fifth clip best
  from the others.
  """
  back = np.arange(len(features)) % _KEPT_BACK == 0
  tried = _fit(features[~back], targets[~back], features[back])
  misses = [np.square(p - targets[back]).sum() for p in tried]
  return _fit(features, targets, held_out)[int(np.argmin(misses))]


def _fit(
  features: np.ndarray, targets: np.ndarray, others: np.ndarray
) -> list[np.ndarray]:
  """One prediction for each penalty, from a single decomposition."""
  centre, scale = features.mean(0), features.std(0) + 1e-6
  x, new = (features - centre) / scale, (others - centre) / scale
  offset = targets.mean(0)
  left, values, right = np.linalg.svd(x, full_matrices=False)
  aim, basis = left.T @ (targets - offset), new @ right.T
  return [
    basis @ (values[:, None] / (values[:, None] ** 2 + p) * aim) + offset
    for p in _PENALTIES
  ]


def probe_classes(
  features: np.ndarray, labels: np.ndarray, fitted: int, resamples: int, seed: int
) -> dict[str, Estimate]:
  """Accuracy of a linear classifier on clips it was not fitted to.

  Args:
    features: [N,D] float.
    labels: [N] int, 0, 1, ...
    fitted: how many clips, the first ones, it is fitted to.
    resamples: of the bootstrap.
    seed: likewise.

  Returns:
    accuracy, and chance: that of always naming the class most frequent among the
    fitted.
  """
  targets = np.eye(labels.max() + 1)[labels]
  said = ridge(features[:fitted], targets[:fitted], features[fitted:]).argmax(1)
  common = np.bincount(labels[:fitted]).argmax()
  right = lambda guess: (guess == labels[fitted:]).astype(np.float64)
  return {
    "accuracy": mean(right(said), resamples, seed),
    "chance": mean(right(common), resamples, seed),
  }


def probe_values(
  features: np.ndarray, values: np.ndarray, fitted: int, resamples: int, seed: int
) -> Estimate:
  """R^2 of a linear map to values [N,K] on clips it was not fitted to, K pooled."""
  truth = values[fitted:]
  said = ridge(features[:fitted], values[:fitted], features[fitted:])

  def score(rows: np.ndarray) -> float:
    spread = np.square(truth[rows] - truth[rows].mean(0)).sum()
    return 1 - np.square(said[rows] - truth[rows]).sum() / spread

  return bootstrap(score, len(truth), resamples, seed)


def summary(maps: np.ndarray) -> np.ndarray:
  """Maps [N,1,h,w,C] as a probe reads them: each position, and mean and mean square.

  Colour is at no fixed place; with the last two a linear map can find it anywhere.
  """
  maps = np.asarray(maps, np.float64)
  pooled = [maps.mean((1, 2, 3)), np.square(maps).mean((1, 2, 3))]
  return np.concatenate([maps.reshape(len(maps), -1), *pooled], 1)
