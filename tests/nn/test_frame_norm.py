# SPDX-License-Identifier: Apache-2.0
"""Statistics of each frame, under the parameters of the clip's norm."""

import numpy as np

from lamd_jax.nn import initializers
from lamd_jax.nn.frame_norm import FrameNorm
from lamd_jax.nn.layers import GroupNorm


def test_each_frame_is_a_clip_of_its_own():
  rng = np.random.default_rng(0)
  # Frames of unlike spread, or the clip's statistics would do as well.
  spread = np.array([1, 5, 25], np.float32).reshape(1, 3, 1, 1, 1)
  x = spread * rng.standard_normal((2, 3, 4, 4, 32)).astype(np.float32)
  params = initializers.initialize(FrameNorm(), 0, x)
  assert set(params["params"]) == {"scale", "bias"}
  for leaf in params["params"].values():
    leaf += rng.standard_normal(32).astype(np.float32)
  found = FrameNorm().apply(params, x)
  expected = GroupNorm().apply(params, x.reshape(6, 1, 4, 4, 32)).reshape(x.shape)
  np.testing.assert_array_equal(found, expected)
  assert np.abs(GroupNorm().apply(params, x) - expected).max() > 0.1
