# SPDX-License-Identifier: Apache-2.0
"""The residual block alone; its numbers are tested within the UNet."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lamd_jax.nn import initializers
from lamd_jax.nn.residual import ResBlock


def _block(features=32, resample=None, scale_shift_norm=True):
  return ResBlock(features, resample, 1, scale_shift_norm)


def _apply(block, params, x, emb):
  return np.asarray(jax.jit(lambda p: block.apply(p, x, emb, "video"))(params))


def _random(params, seed=0):
  """Replaces the zeros of a fresh block, so that its branch contributes."""
  rng = np.random.default_rng(seed)
  draw = lambda p: 0.1 * rng.standard_normal(p.shape).astype(np.float32)
  return jax.tree.map(draw, params)


def test_starts_as_its_skip_path():
  x = np.random.default_rng(0).standard_normal((2, 3, 4, 4, 32)).astype(np.float32)
  emb = np.ones((2, 8), np.float32)
  params = initializers.initialize(_block(), 0, x, emb, "video")
  np.testing.assert_array_equal(_apply(_block(), params, x, emb), x)


@pytest.mark.parametrize("scale_shift_norm", [True, False])
def test_embedding_per_frame_equals_embedding_per_clip_when_constant(scale_shift_norm):
  block = _block(64, scale_shift_norm=scale_shift_norm)
  x = np.random.default_rng(0).standard_normal((2, 3, 4, 4, 32)).astype(np.float32)
  emb = np.random.default_rng(1).standard_normal((2, 8)).astype(np.float32)
  params = _random(initializers.initialize(block, 0, x, emb, "video"))
  per_clip = _apply(block, params, x, emb)
  frames = np.repeat(emb[:, None], 3, 1)
  per_frame = _apply(block, params, x, frames)
  assert per_clip.shape == (2, 3, 4, 4, 64)
  np.testing.assert_allclose(per_frame, per_clip, atol=1e-6)
  frames[:, 1] += 1
  changed = np.abs(_apply(block, params, x, frames) - per_clip).max((0, 2, 3, 4))
  assert changed[1] > 1e-2


@pytest.mark.parametrize("resample, size", [("up", 8), ("down", 2)])
def test_resampling_block_changes_size(resample, size):
  x = jnp.ones((1, 2, 4, 4, 32))
  emb = jnp.ones((1, 8))
  block = _block(32, resample)
  out = jax.eval_shape(
    lambda: block.init_with_output(jax.random.key(0), x, emb, "video")[0]
  )
  assert out.shape == (1, 2, size, size, 32)
