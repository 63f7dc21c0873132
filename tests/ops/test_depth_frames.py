# SPDX-License-Identifier: Apache-2.0
"""Frames to DPT's input and back, and the normalisation per clip."""

import dpt_files
import jax.numpy as jnp
import numpy as np
import pytest

from lamd_jax.ops import depth


@pytest.mark.parametrize(
  "height, width, wanted",
  [
    (384, 384, (384, 384)),
    (64, 64, (384, 384)),
    (256, 448, (224, 384)),  # the width changes less: 448 to 384, 219 rows
    (448, 256, (384, 224)),
    (480, 640, (384, 512)),  # the height changes less
    (1080, 1920, (384, 672)),  # 682.7 columns: 21 steps of 32, not 22
    (30, 2000, (32, 384)),  # 5.8 rows, which would round to none
  ],
)
def test_network_size_is_that_of_midas(height, width, wanted):
  assert depth.network_size(height, width, 384, 32) == wanted


def test_frames_are_prepared_as_in_torch(fixtures):
  # interpolate(frames / 255, bicubic), then mean and standard deviation 0.5.
  recorded = np.load(fixtures / "dpt" / "tiny.npz")["prepared"]
  found = np.asarray(depth.prepare(dpt_files.frames(), 64, 32))
  assert found.shape == (1, 64, 96, 3) and found.dtype == np.float32
  np.testing.assert_allclose(found[:, ::3], recorded, atol=3e-6)
  white = depth.prepare(np.full((1, 8, 8, 3), 255, np.uint8), 32, 32)
  np.testing.assert_allclose(white, 1, atol=1e-6)


def test_depth_comes_back_as_in_torch(fixtures):
  recorded = np.load(fixtures / "dpt" / "tiny.npz")["restored"]
  small = dpt_files.depth()
  found = np.asarray(depth.restore(small, 20, 30))
  assert found.shape == (2, 20, 30) and recorded.min() == 0
  np.testing.assert_allclose(found, recorded, atol=1e-6)
  # The same size changes nothing, and a constant stays one.
  np.testing.assert_allclose(depth.restore(small, 8, 12), small, atol=1e-6)
  np.testing.assert_allclose(depth.restore(small * 0 + 3, 5, 7), 3, rtol=1e-6)


def _wanted(clip):
  low, high = np.percentile(clip.astype(np.float64), (1, 99))
  return np.floor(np.clip((clip - low) / (high - low), 0, 1) * 255 + 0.5)


def test_each_clip_has_its_own_range():
  rng = np.random.default_rng(0)
  x = rng.gamma(2.0, size=(3, 4, 9, 11)).astype(np.float32)
  x = x * np.array([1, 1e4, 1e-4], np.float32)[:, None, None, None]
  found = np.asarray(depth.normalise(x))
  assert found.shape == (3, 4, 9, 11, 1) and found.dtype == np.uint8
  for clip, got in zip(x, found[..., 0]):
    # A level apart where the two percentiles round differently.
    assert np.abs(_wanted(clip) - got).max() <= 1
    assert (_wanted(clip) == got).mean() > 0.99
    # A hundredth lies beyond each end, and order is kept.
    assert 0.005 < (got == 0).mean() < 0.02 and 0.005 < (got == 255).mean() < 0.02
    assert (np.diff(got.ravel()[np.argsort(clip.ravel())].astype(int)) >= 0).all()
  # Scale and shift, which a network leaves free, do not matter.
  again = np.asarray(depth.normalise(3 * x + x.max((1, 2, 3), keepdims=True)))
  assert np.abs(again.astype(int) - found).max() <= 1


def test_one_range_per_clip_and_not_per_frame():
  # The second frame is twice as near everywhere: it stays brighter.
  frame = np.linspace(1, 2, 64, dtype=np.float32).reshape(8, 8)
  found = np.asarray(depth.normalise(np.stack([frame, 2 * frame])[None]))[0, ..., 0]
  assert (found[1].astype(int) > found[0]).all() and found[0].max() < 100


@pytest.mark.parametrize("value", [0.0, 0.37, -2.5, 1e6])
def test_constant_depth_is_black(value):
  flat = np.full((1, 2, 4, 4), value, np.float32)
  assert not np.asarray(depth.normalise(flat)).any()
  # Rounding errors of a resize are no structure.
  noise = np.random.default_rng(0).uniform(-1, 1, flat.shape)
  noisy = jnp.asarray(flat + 1e-7 * abs(value) * noise, jnp.float32)
  assert not np.asarray(depth.normalise(noisy)).any()


def test_flat_and_full_clips_share_a_batch():
  clips = np.stack([np.full((2, 8, 8), 5.0), np.arange(128.0).reshape(2, 8, 8)])
  found = np.asarray(depth.normalise(clips))
  assert not found[0].any() and found[1].min() == 0 and found[1].max() == 255
