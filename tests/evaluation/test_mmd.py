# SPDX-License-Identifier: Apache-2.0
"""Polynomial MMDs against LVDM's recorded number and against sums written out."""

import numpy as np
import pytest

from lamd_jax.errors import DataError
from lamd_jax.evaluation import frechet
from lamd_jax.evaluation import mmd


def test_recorded_features_give_lvdms_scores(fixtures):
  z = np.load(fixtures / "lvdm" / "lvdm_fvd.npz")
  # LVDM computes both from float32.
  found = frechet.distance(z["feat_a"], z["feat_b"]).total
  assert found == pytest.approx(float(z["fvd"]), rel=1e-5)
  found = mmd.unbiased_cubic(z["feat_a"], z["feat_b"])
  assert found == pytest.approx(float(z["kvd"]), rel=1e-5)
  # Another normalisation of the covariance is seen.
  other = frechet.distance(z["feat_a"], z["feat_b"], ddof=0).total
  assert abs(other / float(z["fvd"]) - 1) > 1e-3


def _pairs(kernel, x, y, skip_equal):
  values = [
    kernel(p, q) for i, p in enumerate(x) for j, q in enumerate(y)
    if not (skip_equal and i == j)
  ]  # fmt: skip
  return np.mean(values)


def test_both_against_their_sums():
  rng = np.random.default_rng(0)
  a, b = rng.standard_normal((5, 3)), rng.standard_normal((4, 3)) + 1
  cubic = lambda p, q: (p @ q / 3 + 1) ** 3
  expected = _pairs(cubic, a, a, True) + _pairs(cubic, b, b, True)
  expected -= 2 * _pairs(cubic, a, b, False)
  assert mmd.unbiased_cubic(a, b) == pytest.approx(expected)
  square = lambda p, q: (p @ q / 3) ** 2
  expected = _pairs(square, a, a, False) + _pairs(square, b, b, False)
  expected -= 2 * _pairs(square, a, b, False)
  assert mmd.biased_square_x100(a, b) == pytest.approx(100 * expected)
  assert mmd.biased_square_x100(a, a) == pytest.approx(0, abs=1e-9)


def test_unbiased_is_around_zero_for_equal_sources():
  rng = np.random.default_rng(1)
  values = [mmd.unbiased_cubic(*rng.standard_normal((2, 40, 8))) for _ in range(60)]
  error = np.std(values) / np.sqrt(60)
  assert abs(np.mean(values)) < 4 * error and min(values) < 0


def test_other_shapes_are_refused():
  with pytest.raises(DataError, match="an MMD needs"):
    mmd.unbiased_cubic(np.zeros((3, 4)), np.zeros((3, 5)))
