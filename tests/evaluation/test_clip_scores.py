# SPDX-License-Identifier: Apache-2.0
"""Scores of CLIP features, on vectors whose cosines are known."""

import numpy as np
import pytest

from lamd_jax.errors import DataError
from lamd_jax.evaluation import clip_scores

# Unit vectors at 0, 60, 120 and 180 degrees, of other lengths.
_AT = np.array([0, 60, 120, 180]) * np.pi / 180
FRAMES = (np.stack([np.cos(_AT), np.sin(_AT)], -1) * [[1], [2], [3], [4]])[None]


def test_cosines_by_hand():
  text = np.array([[5.0, 0]])
  # cos 0, 60, 120, 180 degrees: 1, .5, -.5, -1
  assert clip_scores.clipsim(text, FRAMES) == pytest.approx(0)
  assert clip_scores.clipsim(text, FRAMES[:, :2]) == pytest.approx(0.75)
  assert clip_scores.frame_consistency(FRAMES) == pytest.approx(0.5)
  # With the frame before .5 each; with the first .5, 0, 0.
  expected = np.mean([(0.5 + 0.5) / 2, 0.25, 0.25])
  assert clip_scores.background_consistency(FRAMES) == pytest.approx(expected)


def test_a_still_clip_is_perfectly_consistent():
  still = np.repeat(FRAMES[:, :1], 4, 1)
  assert clip_scores.frame_consistency(still) == pytest.approx(1)
  assert clip_scores.background_consistency(still) == pytest.approx(1)


def test_bad_features_are_refused():
  with pytest.raises(DataError, match="are due"):
    clip_scores.clipsim(np.ones((2, 2)), FRAMES)
  for value in (0, np.nan):
    with pytest.raises(DataError, match="not finite, or all zero"):
      clip_scores.frame_consistency(FRAMES * value)
