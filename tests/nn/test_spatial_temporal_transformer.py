# SPDX-License-Identifier: Apache-2.0
"""The text-to-video transformer; its numbers are tested within the UNet."""

import jax
import numpy as np
import pytest

from lamd_jax.nn import initializers
from lamd_jax.nn.spatial_temporal_transformer import SpatialTemporalTransformer


@pytest.fixture(scope="module")
def block_and_params():
  block = SpatialTemporalTransformer(
    heads=2, temporal_length=2, relative_position=True, temporal_zero_init=True
  )
  x = np.random.default_rng(0).standard_normal((2, 3, 2, 2, 32)).astype(np.float32)
  context = np.random.default_rng(1).standard_normal((2, 5, 6)).astype(np.float32)
  params = initializers.initialize(block, 0, x, context, mode="video")["params"]
  return block, x, context, params


def test_starts_as_the_identity_with_all_temporal_projections_zero(block_and_params):
  block, x, context, params = block_and_params
  apply = jax.jit(lambda params: block.apply({"params": params}, x, context, "video"))
  out = apply(params)
  np.testing.assert_array_equal(out, x)
  for name in ("q", "k", "v", "out"):
    assert not params["temporal_attention_0"][name]["kernel"].any()
  assert params["spatial_attention"]["out"]["kernel"].any()


def test_image_mode_keeps_frames_apart_and_context_reaches_all(block_and_params):
  block, x, context, params = block_and_params
  rng = np.random.default_rng(2)
  draw = lambda p: p + 0.2 * rng.standard_normal(p.shape).astype(np.float32)
  params = jax.tree.map(draw, params)
  kept = {k: v for k, v in params.items() if not k.startswith("temporal_")}
  apply = jax.jit(
    lambda p, x, context, mode: block.apply({"params": p}, x, context, mode),
    static_argnums=3,
  )
  image = np.asarray(apply(kept, x, context, "image"))
  video = np.asarray(apply(params, x, context, "video"))
  assert np.abs(image - video).max() > 1e-3
  # Another text for clip 1 changes every frame of clip 1 and none of clip 0.
  other = context.copy()
  other[1] += 1
  change = np.abs(np.asarray(apply(kept, x, other, "image")) - image).max((2, 3, 4))
  assert (change[0] == 0).all() and (change[1] > 1e-4).all()


def test_a_missing_text_is_an_error(block_and_params):
  block, x, _, params = block_and_params
  with pytest.raises(ValueError, match="context"):
    block.apply({"params": params}, x, None, "video")


def test_without_zero_init_it_still_starts_as_the_identity(block_and_params):
  released, x, context, _ = block_and_params
  block = released.clone(temporal_zero_init=False)
  params = initializers.initialize(block, 0, x, context, mode="video")["params"]
  assert params["temporal_attention_0"]["v"]["kernel"].any()
  out = jax.jit(lambda p: block.apply({"params": p}, x, context, "video"))(params)
  np.testing.assert_array_equal(out, x)
