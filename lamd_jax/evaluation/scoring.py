# SPDX-License-Identifier: Apache-2.0
"""Scores of two sets of features under a protocol, with intervals; baselines' clips."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from lamd_jax.errors import DataError
from lamd_jax.evaluation import frechet
from lamd_jax.evaluation import fvmd
from lamd_jax.evaluation import inception_score
from lamd_jax.evaluation import mmd
from lamd_jax.evaluation.protocol import Protocol, Score

_IS_EPSILON = {"is_tgan2": 1e-20}
_SHUFFLE_SEED = 42  # of is_styleganv_2048
METRICS = ("frechet", "mmd")
_RIDGE = {"fvmd_release": fvmd.RIDGE, "fvmd_true": fvmd.RIDGE}


def _value(protocol: Protocol, metric: str, a: np.ndarray, b: np.ndarray) -> float:
  if metric == "frechet":
    ridge = _RIDGE.get(protocol.extractor, 0.0)
    return frechet.distance(a, b, protocol.ddof, ridge).total
  return mmd.FUNCTIONS[protocol.mmd](a, b)


def compare(
  protocol: Protocol,
  metric: str,
  a: np.ndarray,
  b: np.ndarray,
  *,
  resamples: int,
  seed: int,
) -> Score:
  """Scores fake features b [M,D] against real ones a [N,D].

  The interval is a 95 % percentile bootstrap over clips of both sets, moved so that the
  mean of its draws is the score: a draw holds fewer different clips, which by itself
  makes a Frechet distance larger.

  Args:
    protocol: says how.
    metric: one of METRICS.
    a: features of real clips.
    b: features of others.
    resamples: draws; 0 gives no interval.
    seed: of the draws.
  """
  if min(len(a), len(b)) < 2:
    raise DataError(f"{len(a)} real and {len(b)} other clips; 2 of each are needed")
  value = _value(protocol, metric, a, b)
  interval = None
  if resamples:
    draw = np.random.default_rng(seed)
    pick = lambda x: x[draw.integers(0, len(x), len(x))]
    found = [_value(protocol, metric, pick(a), pick(b)) for _ in range(resamples)]
    low, high = np.percentile(found, [2.5, 97.5]) - np.mean(found) + value
    # No Frechet distance is negative; an unbiased MMD may be.
    low = max(low, 0.0) if metric == "frechet" else low
    interval = (float(low), float(high))
  return Score(protocol.title(metric), value, protocol, len(a), len(b), interval)


def mean(
  protocol: Protocol, title: str, values: np.ndarray, *, reals: int, resamples: int,
  seed: int,
) -> Score:  # fmt: skip
  """Mean over clips [N] of a score that each clip has, with a 95 % bootstrap interval."""
  values = np.asarray(values, np.float64)
  interval = None
  if resamples:
    draw = np.random.default_rng(seed).integers(0, len(values), (resamples, len(values)))
    low, high = np.percentile(values[draw].mean(1), [2.5, 97.5])
    interval = (float(low), float(high))
  return Score(title, float(values.mean()), protocol, reals, len(values), interval)


def inception(protocol: Protocol, probabilities: np.ndarray) -> Score:
  """Inception score of class probabilities [N,K]; the interval is +-2 deviations."""
  epsilon = _IS_EPSILON.get(protocol.name.partition("+")[0], 0.0)
  if protocol.name.startswith("is_styleganv"):
    order = np.random.RandomState(_SHUFFLE_SEED).permutation(len(probabilities))
    probabilities = probabilities[order]
  mean, deviation = inception_score.score(probabilities, protocol.splits, epsilon)
  interval = (mean - 2 * deviation, mean + 2 * deviation)
  title = "Inception score (C3D, UCF-101)"
  return Score(title, mean, protocol, 0, len(probabilities), interval)


def growth(
  protocol: Protocol, metric: str, a: np.ndarray, b: np.ndarray
) -> list[tuple[float, float]]:
  """Returns (clips, score) of the first 1/8, 1/4, 1/2 and all clips: the score's bias."""
  count = min(len(a), len(b))
  sizes = sorted({count // part for part in (8, 4, 2, 1) if count // part >= 2})
  return [(float(n), _value(protocol, metric, a[:n], b[:n])) for n in sizes]


def repeat_first_frame(clip: np.ndarray) -> np.ndarray:
  """A clip [T,H,W,3] that stands still."""
  return np.repeat(clip[:1], len(clip), 0)


def shuffle_frames(clip: np.ndarray) -> np.ndarray:
  """The clip's frames in one random order, the same for all clips."""
  return clip[np.random.RandomState(len(clip)).permutation(len(clip))]


def shuffle_pixels(clip: np.ndarray) -> np.ndarray:
  """Every frame's pixels in one random order: colours alone are left."""
  order = np.random.RandomState(0).permutation(clip.shape[1] * clip.shape[2])
  flat = clip.reshape(len(clip), -1, clip.shape[-1])
  return flat[:, order].reshape(clip.shape)


def mean_row(features: np.ndarray) -> np.ndarray:
  """As many rows as [N,D] has, all their mean: no variety."""
  return np.repeat(features.mean(0, keepdims=True), len(features), 0)


def shuffle_columns(features: np.ndarray) -> np.ndarray:
  """Each of [N,D]'s columns in an order of its own: nothing belongs together."""
  order = np.random.RandomState(0).random(features.shape).argsort(0)
  return np.take_along_axis(features, order, 0)


def still_tracks(tracks: np.ndarray) -> np.ndarray:
  """Tracks [N,T,...] of points that stay where they began."""
  return np.repeat(tracks[:, :1], tracks.shape[1], 1)


def shuffle_tracks(tracks: np.ndarray) -> np.ndarray:
  """Tracks [N,T,...] whose times are in one random order."""
  return tracks[:, np.random.RandomState(tracks.shape[1]).permutation(tracks.shape[1])]


Change = Callable[[np.ndarray], np.ndarray]
# Trivial baselines, made of real clips: a model must beat them.
BASELINES: dict[str, Change] = {
  "first frame repeated": repeat_first_frame,
  "frames shuffled": shuffle_frames,
}
# For an inception score, of the clips that are there.
OF_CLASSES: dict[str, Change] = {
  "first frame repeated": repeat_first_frame,
  "pixels shuffled": shuffle_pixels,
}
# Of features or tracks [N,...] that come from a file.
OF_FEATURES: dict[str, Change] = {
  "the reals' mean, for each clip": mean_row,
  "reals' features shuffled among clips, each by itself": shuffle_columns,
}
OF_TRACKS: dict[str, Change] = {
  "tracks that stand still": still_tracks,
  "tracks with their times shuffled": shuffle_tracks,
}

_NEED_THEIR_NETWORK = (
  "no clips were seen, so none stand still here: extract features of real clips whose"
  " first frame is repeated with the same network and give them as --fake"
)
_NO_REALS = "without --real there is no row of real clips to compare with"
# Extractor -> what a reader must know that no row can say.
NOTES: dict[str, str] = {
  "c3d_ucf101": "an Inception score compares with no reals and has no floor: it lies"
  " between 1 and 101 classes, grows with the clips of a split, and sees little motion",
  "videomae_v2_ssv2": _NEED_THEIR_NETWORK,
  "vjepa_ssv2": _NEED_THEIR_NETWORK,
  "pairs": "a clip that is right but for rounding to whole grey levels has 58.9 dB",
  "pairs_lpips": "a clip that is right but for rounding to whole grey levels has 58.9 dB",
  "captions_mage": "a clip that stands still has no caption and scores 0",
  "captions_strict": "a clip that stands still has no caption and scores 0",
  "block_matching": "lower is not better: what stands still scores 0, so the error is to"
  " be near that of real clips",
  "thumbnails": "as far as the floor is good; as near as the copies is learnt by heart;"
  " the mean of all is near to each without being any",
}
# Extractors whose reals are asked for but not needed.
REALS_HELP: dict[str, str] = {
  name: _NO_REALS
  for name in ("c3d_ucf101", "clip_b32", "clip_l14", "clip_h14", "block_matching")
} | {
  name: "without --real, clips that the tracker describes, there is no ceiling"
  for name in ("captions_mage", "captions_strict")
}


def notes(protocol: Protocol, has_reals: bool) -> list[str]:
  """Returns what belongs beside a report's rows, in words."""
  found = [NOTES[protocol.extractor]] if protocol.extractor in NOTES else []
  if not has_reals and protocol.extractor in REALS_HELP:
    found.append(REALS_HELP[protocol.extractor])
  return found
