# SPDX-License-Identifier: Apache-2.0
"""Motion statistics, neighbours and warp errors of clips whose motion is known."""

import numpy as np
import pytest

from lamd_jax.errors import DataError
from lamd_jax.evaluation import motion


def _moving(shift, frames=4, size=32, seed=0):
  """A random picture that moves right by `shift` pixels a frame, and around."""
  picture = np.random.default_rng(seed).integers(0, 256, (size, size, 3), np.uint8)
  return np.stack([np.roll(picture, shift * t, 1) for t in range(frames)])


def test_still_and_moving_clips_are_told_apart():
  still, moving = motion.statistics(_moving(0)), motion.statistics(_moving(3))
  assert (still.difference, still.static, still.first_frame_copies) == (0, 1, 1)
  assert still.flickering == 1
  assert moving.static == moving.first_frame_copies == 0
  # The mean |difference| of two uniform levels of 0..255 is 85.
  assert moving.difference == pytest.approx(85, rel=0.05)
  assert moving.flickering == pytest.approx(1 - moving.difference / 255)
  both = motion.mean([still, moving])
  assert both.static == 0.5 and both.difference == pytest.approx(moving.difference / 2)


def test_steps_by_hand():
  clip = np.zeros((4, 8, 8, 3), np.uint8)
  clip[1], clip[2], clip[3] = 10, 10, 0  # steps 10, 0, 10; the last is a copy
  found = motion.statistics(clip)
  assert found.difference == pytest.approx(20 / 3)
  assert found.difference_std == pytest.approx(np.std([10, 0, 10]))
  assert found.first_frame_copies == pytest.approx(1 / 3)


def test_colour_histograms():
  dark, light = np.zeros((2, 8, 8, 3), np.uint8), np.full((2, 8, 8, 3), 255, np.uint8)
  dark, light = motion.statistics(dark), motion.statistics(light)
  a, b = dark.histogram, light.histogram
  assert motion.histogram_distance(a, a) == 0
  assert motion.histogram_distance(a, b) == 1
  half = motion.mean([dark, light]).histogram
  assert motion.histogram_distance(a, half) == pytest.approx(0.5)


def test_the_nearest_training_clip_is_found():
  training = np.stack([_moving(1, seed=seed) for seed in range(5)])
  ours = np.stack([training[3], training[1]])
  ours[1] = ours[1].clip(0, 245) + 10
  batches = [motion.thumbnails(part) for part in (training[:2], training[2:])]
  found = motion.nearest(motion.thumbnails(ours), batches)
  np.testing.assert_array_equal(found.index, [3, 1])
  assert found.distance[0] == 0 and 5 < found.distance[1] < 10
  with pytest.raises(DataError, match="no training clip"):
    motion.nearest(motion.thumbnails(ours), [])
  with pytest.raises(DataError, match="another number of frames"):
    motion.nearest(motion.thumbnails(ours[:, 1:]), batches)


def test_thumbnails_of_other_sizes_compare():
  # A flat clip of 40x24 pixels has the thumbnail of a flat clip of 16x16.
  flat = lambda h, w, v: motion.thumbnails(np.full((1, 2, h, w, 3), v, np.uint8))
  assert motion.nearest(flat(24, 40, 100), [flat(16, 16, 103)]).distance == 3
  with pytest.raises(DataError, match="16 pixels or more"):
    flat(15, 40, 0)


def test_the_true_flow_has_no_warp_error():
  clip = _moving(2)
  flow = np.zeros((3, 32, 32, 2))
  assert motion.warp_error(clip, flow) > 50
  flow[..., 0] = 2
  assert motion.warp_error(clip, flow) == 0
  flow[..., 0] = 1.5  # halfway between the right pixel and its neighbour
  assert 10 < motion.warp_error(clip, flow) < 60
  flow[..., 0] = 100
  assert np.isnan(motion.warp_error(clip, flow))
  with pytest.raises(DataError, match="T-1,H,W,2"):
    motion.warp_error(clip, flow[:2])


def test_block_matching_finds_whole_shifts():
  clip = _moving(2)
  flow = motion.block_matching(clip)
  # The last block would have to look beyond the border.
  np.testing.assert_array_equal(flow[:, :, :24, 0], 2)
  np.testing.assert_array_equal(flow[:, :, :24, 1], 0)
  assert not motion.block_matching(_moving(0)).any()
