"""Scores along a video: segments in place, worse where the video is worse."""

import numpy as np

from lamd_jax.evaluation import features
from lamd_jax.evaluation import long_report


def clips(generator, count, frames, level=128.0):
  """Noise clips [N,T,8,8,3] around a grey level of their own each."""
  base = level + 10 * generator.standard_normal((count, 1, 1, 1, 3))
  noise = 20 * generator.standard_normal((count, frames, 8, 8, 3))
  return np.clip(base + noise, 0, 255).astype(np.uint8)


def test_segments_are_the_features_of_the_pieces():
  videos = clips(np.random.default_rng(0), 2, 13)
  found = long_report.segment_features(videos, 4)
  assert found.shape == (2, 3, len(features.NAMES))
  np.testing.assert_array_equal(found[1, 2], features.clip_features(videos[1:, 8:12])[0])


def test_groups_are_all_features_once():
  names = np.array(features.NAMES)
  parts = [set(names[s]) for k, s in long_report.GROUPS.items() if k != "all"]
  assert set.union(*parts) == set(names[long_report.GROUPS["all"]]) == set(names)
  assert sum(map(len, parts)) == len(names)


def test_drift_shows_where_it_happens_and_in_its_kind():
  generator = np.random.default_rng(1)
  real = features.clip_features(clips(generator, 64, 4))
  good = np.concatenate([clips(generator, 8, 4) for _ in range(8)], axis=1)
  dark = np.concatenate(
    [clips(generator, 8, 4, 128 if k < 4 else 60) for k in range(8)], axis=1
  )
  series = {
    name: long_report.segment_features(v, 4) for name, v in (("good", good), ("dark", dark))
  }
  rows = [
    row
    for name, made in series.items()
    for row in long_report.score(
      name, made, real, frames=4, segments=2, resamples=20, seed=0
    )
  ]
  at = {(r.series, r.frame, r.group): r for r in rows}
  assert {r.frame for r in rows} == {0, 8, 16, 24}
  for frame in (0, 8):
    assert at["dark", frame, "colour"].distance < 10
  for frame in (16, 24):
    # The whole interval lies above that of videos that stay as they were.
    assert at["dark", frame, "colour"].low > at["good", frame, "colour"].high
    assert at["dark", frame, "motion"].distance < at["dark", frame, "colour"].distance
  found = long_report.summary(series, real, resamples=50, seed=0)
  assert found["dark"]["change"][1] > 0 > found["good"]["change"][1]
  lines = long_report.csv_lines(rows)
  assert lines[0] == "series,frame,group,distance,low,high"
  assert len(lines) == 1 + 2 * 4 * 4
