# SPDX-License-Identifier: Apache-2.0
"""Closed forms of the Frechet distance, and the features' directions."""

import numpy as np
import pytest

from lamd_jax.evaluation import features
from lamd_jax.evaluation import frechet


def _with_moments(mean, std, count=400):
  """Rows whose sample mean and covariance are exactly mean and diag(std^2)."""
  rows = np.random.default_rng(0).standard_normal((count, len(mean)))
  rows -= rows.mean(0)
  rows = rows @ np.linalg.inv(np.linalg.cholesky(np.cov(rows, rowvar=False))).T
  return rows * std + mean


def test_commuting_covariances_have_a_closed_form():
  # |dm|^2 + sum (s1 - s2)^2 for commuting covariances (Dowson and Landau 1982).
  a = _with_moments(np.array([0.0, 1, 2]), np.array([1.0, 2, 3]))
  b = _with_moments(np.array([1.0, 1, 0]), np.array([2.0, 2, 0.5]))
  found = frechet.distance(a, b)
  assert found.mean == pytest.approx(5)
  assert found.covariance == pytest.approx(1 + 0 + 6.25)
  assert found.total == pytest.approx(12.25)


def test_biased_covariances_scale_the_closed_form():
  # Equal covariances leave |dm|^2; else both shrink by (N-1)/N with ddof 0.
  a = _with_moments(np.array([0.0, 0]), np.array([1.0, 2]), 50)
  b = _with_moments(np.array([3.0, 4]), np.array([2.0, 2]), 50)
  assert frechet.distance(a, a + [3, 4]).total == pytest.approx(25)
  assert frechet.distance(a, b, ddof=0).covariance == pytest.approx(0.98)
  assert frechet.distance(a, b, ddof=1).covariance == pytest.approx(1)


@pytest.mark.parametrize("ridge", [0.0, 1e-2])
def test_few_rows_of_many_features(ridge):
  # The same sets with rows repeated: with ddof 0 nothing changes but the way it goes.
  a, b = np.random.default_rng(4).standard_normal((2, 5, 40)) * [[[1]], [[2]]]
  short = frechet.distance(a, b, 0, ridge)
  long = frechet.distance(np.tile(a, (9, 1)), np.tile(b, (9, 1)), 0, ridge)
  assert short.total == pytest.approx(long.total, rel=1e-12)
  assert short.covariance == pytest.approx(long.covariance, rel=1e-12)


def test_singular_covariances_are_finite():
  few = np.random.default_rng(1).standard_normal((4, 13))
  assert frechet.distance(few, few).total == pytest.approx(0, abs=1e-12)


def test_interval_brackets_the_distance_of_shifted_sets():
  generator = np.random.default_rng(2)
  a, b = generator.standard_normal((2, 300, 2)) + np.array([[[0.0]], [[3.0]]])
  interval = frechet.bootstrap(a, b, 200, seed=0)["mean"]
  assert interval[0] < 18 < interval[1] and interval[1] - interval[0] < 8


def test_features_see_colour_detail_and_motion():
  generator = np.random.default_rng(3)
  noise = generator.integers(0, 256, (1, 8, 16, 16, 3), np.uint8)
  still = np.repeat(noise[:, :1], 8, 1)
  flat = np.full_like(noise, 128)
  index = {name: i for i, name in enumerate(features.NAMES)}
  moving_row, still_row, flat_row = features.clip_features(
    np.concatenate([noise, still, flat])
  )
  assert still_row[index["difference_lag1"]] == 0 < moving_row[index["difference_lag1"]]
  assert flat_row[index["log_power_band0"]] == pytest.approx(-4)
  assert moving_row[index["log_power_band0"]] > -2
  assert flat_row[index["mean_red"]] == pytest.approx(128 / 255)


def test_psnr_of_a_known_error():
  a = np.zeros((1, 2, 4, 4, 3), np.uint8)
  # 10 log10(255^2 / 5^2) = 34.15 dB
  assert features.psnr(a, a + 5)[0] == pytest.approx(34.1514, abs=1e-4)
