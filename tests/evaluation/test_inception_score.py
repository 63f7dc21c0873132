# SPDX-License-Identifier: Apache-2.0
"""Inception scores in closed form."""

import numpy as np
import pytest

from lamd_jax.errors import DataError
from lamd_jax.evaluation import inception_score


def test_closed_forms():
  # All sure and all different: as many as classes. All alike: 1.
  assert inception_score.score(np.eye(7), 1) == pytest.approx((7, 0))
  assert inception_score.score(np.full((6, 4), 0.25), 2) == pytest.approx((1, 0))
  # Two halves, one of 2 classes and one of 1: mean 1.5, deviation 0.5.
  p = np.eye(2)[[0, 1, 0, 0]]
  assert inception_score.score(p, 2) == pytest.approx((1.5, 0.5))
  assert inception_score.score(p, 2, 1e-20) == pytest.approx((1.5, 0.5))


def test_what_is_no_probability_is_refused():
  with pytest.raises(DataError, match="softmax"):
    inception_score.score(np.ones((4, 3)), 1)
  with pytest.raises(DataError, match="5 splits"):
    inception_score.score(np.eye(4), 5)


def test_uneven_splits_are_cut_as_the_script_does():
  # i * 5 // 2: two rows of two classes, then three of one.
  p = np.eye(2)[[0, 1, 0, 0, 0]]
  assert inception_score.score(p, 2) == pytest.approx((1.5, 0.5))
