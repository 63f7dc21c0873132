# SPDX-License-Identifier: Apache-2.0
"""The block is the plain residual block frame by frame, and time comes on top."""

import jax
import numpy as np
import pytest

from lamd_jax.nn import initializers
from lamd_jax.nn.pseudo_3d_residual import Pseudo3DResBlock
from lamd_jax.nn.residual import ResBlock
from lamd_jax.nn.temporal_convolution import TemporalConvolution

RNG = np.random.default_rng(0)
X = RNG.standard_normal((2, 3, 4, 4, 32)).astype(np.float32)
# Frames of unlike spread, or norms over the clip would do nearly as well.
X *= np.array([1, 4, 16], np.float32).reshape(1, 3, 1, 1, 1)
EMB = RNG.standard_normal((2, 3, 8)).astype(np.float32)


def _filled(block):
  variables = initializers.initialize(block, 0, X, EMB, "video")
  rng = np.random.default_rng(1)
  fill = lambda a: (a + 0.1 * rng.standard_normal(a.shape)).astype(np.float32)
  return {"params": jax.tree.map(fill, variables["params"])}


@pytest.mark.parametrize(
  "features, resample, scale_shift", [(64, None, False), (32, "up", True)]
)
def test_image_mode_is_the_residual_block_on_frames_alone(
  features, resample, scale_shift
):
  block = Pseudo3DResBlock(features, resample, True, scale_shift)
  variables = _filled(block)
  found = block.apply(variables, X, EMB, "image")
  spatial = {k: v for k, v in variables["params"].items() if "temporal" not in k}
  assert set(variables["params"]) - set(spatial) == {"temporal_conv_0", "temporal_conv_1"}
  plain = ResBlock(features, resample, 1, scale_shift)
  alone = plain.apply(
    {"params": spatial}, X.reshape(6, 1, 4, 4, 32), EMB.reshape(6, 8), "image"
  )
  np.testing.assert_allclose(found, alone.reshape(found.shape), rtol=1e-5, atol=1e-5)
  assert np.abs(block.apply(variables, X, EMB, "video") - found).max() > 1e-2


def test_a_temporal_convolution_stands_behind_each_2_d_one():
  block = Pseudo3DResBlock(32, None, True, False)
  variables = _filled(block)
  # The last one applied by hand: the image path is x + h, the video path x + T(h).
  only_last = jax.tree.map(np.copy, variables)
  for leaf in only_last["params"]["temporal_conv_0"]["conv"].values():
    leaf[:] = 0
  image = block.apply(only_last, X, EMB, "image")
  last = {"params": only_last["params"]["temporal_conv_1"]}
  expected = X + TemporalConvolution().apply(last, image - X)
  found = block.apply(only_last, X, EMB, "video")
  np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)
  # And the first one has a say.
  both = block.apply(variables, X, EMB, "video")
  assert np.abs(both - found).max() > 1e-2


def test_without_temporal_layers_there_are_none():
  block = Pseudo3DResBlock(32, None, False, False)
  variables = _filled(block)
  assert not any("temporal" in name for name in variables["params"])
  video, image = (block.apply(variables, X, EMB, m) for m in ("video", "image"))
  np.testing.assert_array_equal(video, image)
