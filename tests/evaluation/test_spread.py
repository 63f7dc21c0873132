# SPDX-License-Identifier: Apache-2.0
"""Rows come back in order and as computed one by one, whatever runs side by side."""

import jax
import numpy as np

from lamd_jax.evaluation import clip_frames
from lamd_jax.evaluation import spread
from lamd_jax.networks import clip_image
from lamd_jax.nn import initializers

TINY = clip_image.ClipImage(8, 1, 2, 8, 6, size=24)


def test_rows_lie_on_all_devices_and_padding_is_cut_off():
  seen = []

  def scaled(factor, x, y):
    # Compiled once: every batch has the same shape.
    seen.append(x.shape)
    return factor * x.sum(1) - y

  over = spread.OverDevices(scaled, np.float32(3), 11)
  assert len(jax.local_devices()) == 8 and over.batch == 16
  x = np.arange(36, dtype=np.float32).reshape(18, 2)
  parts = list(over(zip(x, x[:, 0])))
  assert [len(part) for part in parts] == [16, 2] and seen == [(16, 2)]
  np.testing.assert_array_equal(np.concatenate(parts), 3 * x.sum(1) - x[:, 0])


def test_values_are_those_of_one_device(monkeypatch):
  picture = np.zeros((1, 24, 24, 3), np.float32)
  params = initializers.initialize(TINY, 0, picture)["params"]
  clips = np.random.default_rng(0).integers(0, 256, (3, 3, 30, 30, 3), np.uint8)
  eight = clip_frames.Extractor(TINY, params, 4)(iter(clips))
  monkeypatch.setattr(jax, "local_devices", lambda: jax.devices()[:1])
  one = clip_frames.Extractor(TINY, params, 4)(iter(clips))
  assert eight.shape == (3, 3, 6)
  np.testing.assert_allclose(eight, one, rtol=1e-5, atol=1e-6)


def test_processors_keep_the_order():
  found = spread.over_processors(lambda a, b: a - b, ((i, 2 * i) for i in range(50)))
  assert list(found) == [-i for i in range(50)]
