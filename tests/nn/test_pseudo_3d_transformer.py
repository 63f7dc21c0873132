# SPDX-License-Identifier: Apache-2.0
"""The block is its two halves, one after the other; the second can be left out."""

import jax
import numpy as np

from lamd_jax.nn import initializers
from lamd_jax.nn.pseudo_3d_transformer import Pseudo3DTransformer
from lamd_jax.nn.spatial_transformer import SpatialTransformer
from lamd_jax.nn.temporal_transformer import TemporalTransformer

RNG = np.random.default_rng(0)
X = RNG.standard_normal((2, 3, 2, 2, 64)).astype(np.float32)
CONTEXT = RNG.standard_normal((2, 5, 24)).astype(np.float32)


def _build(head_channels=0, temporal=True):
  block = Pseudo3DTransformer(2, head_channels, temporal, 8, True)
  variables = initializers.initialize(block, 0, X, CONTEXT, "video")
  rng = np.random.default_rng(1)
  fill = lambda a: (a + 0.2 * rng.standard_normal(a.shape)).astype(np.float32)
  return block, jax.tree.map(fill, variables)


def test_spatial_then_temporal():
  for head_channels, heads in ((0, 2), (16, 4)):
    block, variables = _build(head_channels)
    params = variables["params"]
    assert set(params) == {"spatial", "temporal_transformer"}
    spatial = SpatialTransformer(2, head_channels).apply(
      {"params": params["spatial"]}, X, CONTEXT, "video"
    )
    image = block.apply(variables, X, CONTEXT, "image")
    np.testing.assert_array_equal(image, spatial)
    both = TemporalTransformer(heads, 8, True).apply(
      {"params": params["temporal_transformer"]}, spatial, CONTEXT
    )
    video = block.apply(variables, X, CONTEXT, "video")
    np.testing.assert_array_equal(video, both)
    assert np.abs(video - image).max() > 1e-2


def test_without_temporal_layers_there_are_none():
  block, variables = _build(temporal=False)
  assert set(variables["params"]) == {"spatial"}
  video, image = (block.apply(variables, X, CONTEXT, m) for m in ("video", "image"))
  np.testing.assert_array_equal(video, image)
