# SPDX-License-Identifier: Apache-2.0
"""Scores of features whose distance is known, their intervals, and baselines' clips."""

import numpy as np
import pytest

import clip_files
from lamd_jax.errors import DataError
from lamd_jax.evaluation import protocol as protocol_lib
from lamd_jax.evaluation import scoring

PROTOCOL = protocol_lib.find("random_small_16f")


def _sets(count, shift):
  a, b = np.random.default_rng(0).standard_normal((2, count, 3))
  return a, b + shift


def _compare(metric, a, b, protocol=PROTOCOL, resamples=100):
  return scoring.compare(protocol, metric, a, b, resamples=resamples, seed=0)


def test_interval_surrounds_the_score_and_the_truth():
  # |dm|^2 = 3 for equal covariances; 400 rows have a bias of about 0.03.
  score = _compare("frechet", *_sets(400, 1.0))
  low, high = score.interval
  assert low < score.value < high and low < 3 < high and high - low < 2
  assert score.title.endswith("(not FVD)") and (score.reals, score.fakes) == (400, 400)


def test_intervals_at_zero():
  a, b = _sets(40, 0.0)
  assert _compare("frechet", a, a).interval[0] == 0  # never below
  low, high = _compare("mmd", a, b).interval
  assert low < 0 < high  # unbiased: either side
  assert _compare("mmd", a, b, resamples=0).interval is None


def test_protocol_decides_the_statistics():
  a, b = _sets(20, 0.5)
  biased = PROTOCOL.changed({"ddof": 0})
  first, second = (_compare("frechet", a, b, p, 0) for p in (PROTOCOL, biased))
  assert first.value != second.value and first.protocol.hash() != second.protocol.hash()
  square = PROTOCOL.changed({"mmd": "biased_square_x100"})
  assert _compare("mmd", a, b, square, 0).value != _compare("mmd", a, b, PROTOCOL, 0).value
  with pytest.raises(DataError, match="2 of each are needed"):
    _compare("frechet", a[:1], b)


def test_growth_shows_the_bias():
  # Equal sources: the distance is all bias, and falls as clips are added.
  sizes, values = zip(*scoring.growth(PROTOCOL, "frechet", *_sets(400, 0.0)))
  assert sizes == (50, 100, 200, 400)
  assert values[0] > 2 * values[-1]
  # Two clips at least.
  assert [n for n, _ in scoring.growth(PROTOCOL, "frechet", *_sets(5, 0.0))] == [2, 5]


def test_inception_presets():
  p = np.random.default_rng(0).dirichlet(np.ones(4), 40)
  tgan, stylegan = (
    scoring.inception(protocol_lib.find(name), p)
    for name in ("is_tgan2", "is_styleganv_2048")
  )
  # The number that StyleGAN-V's preset asks for is no multiple of its splits.
  preset = protocol_lib.find("is_styleganv_2048")
  many = np.random.default_rng(0).dirichlet(np.ones(4), preset.fakes)
  assert 1 < scoring.inception(preset, many).value < 4
  # Ten splits both; one of them shuffles before it cuts.
  assert tgan.value != stylegan.value and tgan.fakes == 40
  assert 1 < tgan.value < 4 and tgan.interval[0] < tgan.value < tgan.interval[1]


def test_baselines_stand_still_or_jump():
  clip = clip_files.waves(1)[0]
  still = scoring.repeat_first_frame(clip)
  assert (still == clip[0]).all() and still.shape == clip.shape
  mixed = scoring.shuffle_frames(clip)
  assert sorted(map(bytes, mixed)) == sorted(map(bytes, clip))
  assert (mixed != clip).any()
  np.testing.assert_array_equal(mixed, scoring.shuffle_frames(clip))


def test_trivial_features_lose_what_they_are_to_lose():
  draw = np.random.default_rng(0).standard_normal((200, 2))
  a = draw @ np.array([[1.0, 0.9], [0, 0.4]]) + 3
  alone = scoring.shuffle_columns(a)
  np.testing.assert_allclose(np.sort(alone, 0), np.sort(a, 0))
  correlation = lambda x: abs(np.corrcoef(x.T)[0, 1])
  assert correlation(alone) < 0.2 < 0.8 < correlation(a)
  # Of a set against its own mean the covariance alone is left: tr C.
  found = _compare("frechet", a, scoring.mean_row(a), resamples=0).value
  assert found == pytest.approx(a.var(0, ddof=1).sum())


def test_trivial_clips_and_tracks():
  clip = clip_files.waves(1)[0]
  shuffled = scoring.shuffle_pixels(clip)
  assert np.abs(shuffled.astype(int) - clip).mean() > 5
  for frame, other in zip(clip, shuffled):
    rows = lambda x: np.sort(x.reshape(-1, 3), 0)
    np.testing.assert_array_equal(rows(frame), rows(other))
  tracks = np.random.default_rng(0).standard_normal((2, 16, 20, 20, 2))
  assert not np.diff(scoring.still_tracks(tracks), axis=1).any()
  times = scoring.shuffle_tracks(tracks)
  np.testing.assert_array_equal(np.sort(times, 1), np.sort(tracks, 1))
  assert np.abs(times - tracks).max() > 0


def test_every_protocol_has_baselines_or_says_why_not():
  of_sets = {"i3d_kinetics400", "random_i3d", "random_small"}  # scoring.BASELINES
  of_files = {"fvmd_release", "fvmd_true"}  # scoring.OF_TRACKS
  of_clip = {"clip_b32", "clip_l14", "clip_h14"}  # first frame repeated
  noted = set(scoring.NOTES)
  assert of_sets | of_files | of_clip | noted == set(protocol_lib.TITLES)
  for preset in protocol_lib.PRESETS.values():
    alone, beside = scoring.notes(preset, False), scoring.notes(preset, True)
    assert len(alone) - len(beside) == (preset.extractor in scoring.REALS_HELP)
