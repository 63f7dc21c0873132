# SPDX-License-Identifier: Apache-2.0
"""Resampling in height and width."""

import numpy as np

from lamd_jax.nn import resample


def test_nearest_up_repeats_pixels_not_frames():
  x = np.random.default_rng(0).standard_normal((2, 3, 4, 5, 6)).astype(np.float32)
  expected = x.repeat(2, axis=2).repeat(2, axis=3)
  np.testing.assert_array_equal(resample.nearest_up(x), expected)


def test_average_down_undoes_nearest_up():
  x = np.random.default_rng(0).standard_normal((2, 3, 4, 6, 2)).astype(np.float32)
  there_and_back = resample.average_down(resample.nearest_up(x))
  np.testing.assert_allclose(there_and_back, x, rtol=1e-6)
  y = resample.average_down(x)
  np.testing.assert_allclose(y[1, 2, 1, 2], x[1, 2, 2:4, 4:6].mean((0, 1)), rtol=1e-5)
