# SPDX-License-Identifier: Apache-2.0
"""How the quality of long videos changes along them, against real clips.

A video is cut into segments of a short clip's length. The segments of one window (some
segments in turn, of all videos) are compared with real clips by the Frechet distance of
`features`, as a whole and by kind: colour, spatial spectrum, motion. A video of any
length is thereby held to what a short clip looks like; that its end fits its beginning
is not measured.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from lamd_jax.evaluation import features
from lamd_jax.evaluation import frechet

# Columns of features.NAMES.
GROUPS = {
  "all": slice(0, 13), "colour": slice(0, 6), "spectrum": slice(6, 10),
  "motion": slice(10, 13),
}  # fmt: skip


class Row(NamedTuple):
  """The score of one window."""

  series: str  # how the videos were made
  frame: int  # first of the window
  group: str
  distance: float
  low: float  # 95 % bootstrap interval, over videos
  high: float


def segment_features(videos: np.ndarray, frames: int) -> np.ndarray:
  """Returns [V,S,F] float64 of videos [V,T,H,W,3] uint8, cut into T // frames."""
  count = videos.shape[1] // frames
  cut = videos[:, : count * frames].reshape(-1, frames, *videos.shape[2:])
  return features.clip_features(cut).reshape(len(videos), count, -1)


def score(
  series: str,
  made: np.ndarray,
  real: np.ndarray,
  *,
  frames: int,
  segments: int,
  resamples: int,
  seed: int,
) -> list[Row]:
  """Scores windows of `segments` segments.

  Args:
    series: goes into the rows.
    made: [V,S,F], of `segment_features`.
    real: [N,F], `features.clip_features` of real clips.
    frames: of a segment.
    segments: in a window; V times that many clips are compared with the real ones.
    resamples: bootstrap draws of videos.
    seed: of the draws.
  """
  videos, count = made.shape[:2]
  draws = np.random.default_rng(seed).integers(videos, size=(resamples, videos))
  rows = []
  for first in range(0, count - segments + 1, segments):
    window = made[:, first : first + segments]
    for group, columns in GROUPS.items():
      base = real[:, columns]
      value = lambda pick: frechet.distance(
        *frechet.standardise(base, window[pick][..., columns].reshape(-1, base.shape[1]))
      ).total
      spread = [value(pick) for pick in draws]
      low, high = np.percentile(spread, [2.5, 97.5]) if spread else (np.nan, np.nan)
      found = value(np.arange(videos))
      rows.append(Row(series, first * frames, group, found, float(low), float(high)))
  return rows


def summary(
  series: Mapping[str, np.ndarray], real: np.ndarray, *, resamples: int, seed: int
) -> dict[str, dict[str, list[float]]]:
  """First and last quarter of the videos of each series, and their difference.

  Returns {series: {"first" | "last" | "change": [distance, low, high]}}; intervals are
  95 % bootstrap, over videos.
  """
  result = {}
  for name, made in series.items():
    videos, count = made.shape[:2]
    quarter = max(1, count // 4)

    def distance(pick: np.ndarray, part: np.ndarray) -> float:
      clips = part[pick].reshape(-1, real.shape[1])
      return frechet.distance(*frechet.standardise(real, clips)).total

    first, last = made[:, :quarter], made[:, -quarter:]
    draws = np.random.default_rng(seed).integers(videos, size=(resamples, videos))
    pairs = [(distance(p, first), distance(p, last)) for p in draws]
    spread = np.array([(a, b, b - a) for a, b in pairs])
    everyone = np.arange(videos)
    a, b = distance(everyone, first), distance(everyone, last)
    limits = np.percentile(spread, [2.5, 97.5], axis=0).T
    result[name] = {
      key: [float(value), *map(float, interval)]
      for key, value, interval in zip(
        ("first", "last", "change"), (a, b, b - a), limits, strict=True
      )
    }
  return result


def csv_lines(rows: Sequence[Row]) -> list[str]:
  """Returns the rows as lines of csv, header first."""
  head = ",".join(Row._fields)
  return [head, *(
    f"{r.series},{r.frame},{r.group},{r.distance:.4f},{r.low:.4f},{r.high:.4f}"
    for r in rows
  )]  # fmt: skip
