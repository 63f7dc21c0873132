# SPDX-License-Identifier: Apache-2.0
"""Frames reach CLIP as transformers' processor prepares them, and features come back."""

import numpy as np

from lamd_jax.evaluation import clip_frames
from lamd_jax.networks import clip_image
from lamd_jax.nn import initializers

TINY = clip_image.ClipImage(8, 1, 2, 8, 6, size=24)


def test_preparation_is_that_of_the_processor(fixtures):
  recorded = np.load(fixtures / "clip" / "image_tiny.npz")
  wide = np.random.RandomState(1).randint(0, 256, (2, 40, 60, 3)).astype(np.uint8)
  for name, frames in (("wide", wide), ("tall", wide.swapaxes(1, 2))):
    found = clip_frames.prepare(frames, 24)
    assert found.shape == (2, 24, 24, 3) and found.dtype == np.float32
    # A level of 255 is 0.015 here.
    np.testing.assert_allclose(found, recorded[f"prepared_{name}"], atol=1e-5)


def test_features_do_not_depend_on_the_batch():
  picture = np.zeros((1, 24, 24, 3), np.float32)
  params = initializers.initialize(TINY, 0, picture)["params"]
  clips = np.random.default_rng(0).integers(0, 256, (2, 3, 30, 30, 3), np.uint8)
  found = clip_frames.Extractor(TINY, params, 4)(clips)
  assert found.shape == (2, 3, 6)
  again = clip_frames.Extractor(TINY, params, 1)(clips[1:])
  np.testing.assert_allclose(found[1:], again, rtol=1e-4, atol=1e-6)
  assert np.abs(found[0] - found[1]).max() > 1e-3
