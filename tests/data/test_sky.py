# SPDX-License-Identifier: Apache-2.0
"""The procedural sky: same bytes always, motion and depth as its state says."""

import hashlib

import numpy as np
import pytest

from lamd_jax.data import procedural
from lamd_jax.data.procedural import noise, sky

# SHA-256 of four 32x32 frames of (train, 5). Another hash is another data set: raise
# sky.VERSION and say so in the changelog.
GOLDEN = {
  "drift": "28fd70fafbd597ff10ac54dacf6b1bd5136e514d72733b7c3502ec47a83f5ff2",
  "two_layer": "43a2de38ec6d3b611677aeafb4df58b9c068dc415ea1b2487566536a2f4b72c4",
  "dusk": "a7ce8a5c18033565ad328bb8ef9f4160cd2c916fa231bef2dd7ba1679d31d0de",
}


@pytest.mark.parametrize("mode", sky.MODES)
def test_golden_bytes(mode):
  video = procedural.world("sky", mode).sample("train", 5, 4, 32).video
  assert hashlib.sha256(video.tobytes()).hexdigest() == GOLDEN[mode]


@pytest.mark.parametrize("options", [{}, {"shear": True}, {"boil": True}])
def test_frames_do_not_depend_on_length_order_or_start(options):
  world = sky.Sky("two_layer", **options)
  whole = world.sample("train", 3, 40, 24)
  world.sample("train", 4, 2, 24)
  piece = world.sample("train", 3, 7, 24, start=30)
  assert np.array_equal(piece.video, whole.video[30:37])
  assert np.array_equal(piece.instance, whole.instance[30:37])
  assert np.array_equal(piece.state["sun"], whole.state["sun"][30:37])
  assert piece.caption == whole.caption


def test_splits_indices_and_seeds_differ():
  videos = [
    procedural.world("sky", "drift", seed).sample(split, index, 1, 24).video
    for seed, split, index in
    [(0, "train", 0), (0, "train", 1), (0, "test", 0), (1, "train", 0)]
  ]  # fmt: skip
  for i in range(4):
    for j in range(i):
      assert np.abs(videos[i].astype(int) - videos[j]).mean() > 2


@pytest.mark.parametrize("mode", sky.MODES)
def test_redrawn_motion_keeps_the_first_frame(mode):
  world = sky.Sky(mode)
  a = world.sample("train", 0, 8, 32)
  b = world.sample("train", 0, 8, 32, motion_index=9)
  assert np.array_equal(a.video[0], b.video[0])
  assert not np.allclose(a.state["wind"], b.state["wind"])
  assert np.abs(a.video[7].astype(int) - b.video[7]).mean() > 2


def test_ridge_stands_still_and_clouds_move():
  moved = 0
  for index in range(4):
    sample = sky.Sky("dusk").sample("train", index, 8, 48)
    video = sample.video.astype(int)
    rows = (np.arange(48) + 0.5) / 48
    solid = (sample.instance[0, ..., 0] == 1) & (rows[:, None] > rows.max() - 0.1)
    # The light may change, so the ground changes, but as a whole and little.
    drift = np.abs(video[7] - video[0])[solid]
    assert solid.any() and drift.max() <= 30
    assert np.array_equal(sample.instance[0] == 1, sample.instance[7] == 1)
    moved += np.abs(video[7] - video[0])[~solid].mean()
  assert moved / 4 > 6


def test_video_follows_the_wind_of_its_state():
  """Warping by the true flow explains what changes: the plane moves by wind x t."""
  world = sky.Sky("drift")
  improved = []
  for index in range(6):
    sample = world.sample("test", index, 2, 64)
    horizon, wind = float(sample.state["horizon"]), sample.state["wind"][0]
    y, x = np.meshgrid(*[(np.arange(64) + 0.5) / 64] * 2, indexing="ij")
    far = horizon - y > 0.25  # away from haze, where brightness is not the cloud's
    q = 0.35 / np.maximum(horizon - y, 0.03)
    u, v = 1.2 * (x - 0.5) * q - wind[0], q - wind[1]
    source_y = horizon - 0.35 / v
    source_x = u / (1.2 * v) + 0.5
    inside = far & (source_y > 0.02) & (abs(source_x - 0.5) < 0.48)
    rows = np.clip((source_y * 64).astype(int), 0, 63)
    columns = np.clip((source_x * 64).astype(int), 0, 63)
    first, second = sample.video.astype(float).mean(-1)
    # Brightness also depends on the row; compare clouds above the row's mean.
    still = np.abs(second - first)[inside].mean()
    warped = np.abs(second - first[rows, columns])[inside].mean()
    improved.append(warped / still)
  assert np.median(improved) < 0.8


def test_depth_and_caption_agree_with_state():
  for index in range(12):
    sample = sky.Sky("drift").sample("val", index, 2, 32)
    horizon, wind = float(sample.state["horizon"]), sample.state["wind"][0]
    assert set(np.unique(sample.instance)) <= {0, 1, 2}
    assert (sample.depth[sample.instance != 1] == 100).all()
    bottom = 0.35 / (31.5 / 32 - horizon)
    np.testing.assert_allclose(sample.depth[:, -1], bottom, rtol=1e-5)
    word = sample.caption.split()[2]
    expected = {"right": wind[0], "left": -wind[0], "away": wind[1], "towards": -wind[1]}
    assert expected[word] == pytest.approx(np.abs(wind).max())
    if "overcast" in sample.caption:
      assert sample.state["coverage"] < -0.05
    assert 0.02 <= np.hypot(*wind) <= 0.1


def test_tiles_are_periodic_with_unit_variance():
  tiles = noise.band_tiles(np.random.default_rng(0), 64, ((2, 6), (6, 16)))
  np.testing.assert_allclose(tiles.std((1, 2)), 1, rtol=1e-6)
  stack = np.ascontiguousarray(tiles.transpose(1, 2, 0), np.float32)
  u, v = np.array([3.25, 3.25 - 64], np.float32), np.array([-0.5, 63.5], np.float32)
  found = noise.lookup(stack, u, v)
  # By hand: between rows 63 and 0, a quarter of the way from column 3 to 4.
  edge = 0.5 * (stack[63] + stack[0])
  np.testing.assert_allclose(found[0], 0.75 * edge[3] + 0.25 * edge[4], atol=1e-6)
  np.testing.assert_allclose(found[0], found[1], atol=1e-6)


def test_unknown_mode_is_named():
  with pytest.raises(ValueError, match="'rain'.*drift"):
    sky.Sky("rain")
