# SPDX-License-Identifier: Apache-2.0
"""Video, mask and depth of an edit: sizes, ranges, what is refused; nothing compiled."""

from fractions import Fraction

import numpy as np
import pytest

from lamd_jax import edit_sources
from lamd_jax import editing
from lamd_jax.clip import Clip
from lamd_jax.data import transforms
from lamd_jax.errors import DataError


def _footage(count=5, height=12, width=20):
  frames = np.zeros((count, height, width, 3), np.uint8)
  return edit_sources.footage(Clip(frames, 12.5), 8.0)


def test_an_array_is_a_video_and_can_be_read_again():
  video, frames = _footage()
  assert (video.n_frames, video.height, video.width) == (5, 12, 20)
  assert video.rate == Fraction(25, 2) and video.time_base == Fraction(2, 25)
  assert len(list(frames())) == len(list(frames())) == 5
  with pytest.raises(DataError, match="one frame"):
    edit_sources.footage(np.zeros((1, 4, 4, 3), np.uint8), 8.0)
  with pytest.raises(DataError, match="expected uint8"):
    edit_sources.footage(np.zeros((3, 4, 4, 3)), 8.0)


@pytest.mark.parametrize(
  "height, width, aspect, expected",
  [
    (720, 1280, 1, (64, 112)),  # 113.8, to steps of 8
    (1280, 720, 1, (112, 64)),
    (64, 64, 1, (64, 64)),
    (100, 1000, 1, (64, 128)),  # the bound
    (576, 720, Fraction(16, 11), (64, 120)),  # pixels wider than high: 16:8.8
  ],
)
def test_the_short_side_is_as_trained(height, width, aspect, expected):
  video = _footage()[0]._replace(height=height, width=width)
  video = video._replace(pixel_aspect=Fraction(aspect))
  *size, note = edit_sources.working_size(video, 64, 8)
  assert tuple(size) == expected
  assert bool(note) == ((height, width) != expected)


def test_masks_of_arrays():
  video = _footage()[0]
  moving = np.zeros((5, 12, 20), bool)
  moving[3, 4] = True
  frames = list(edit_sources.masks(moving, video)[0]())
  np.testing.assert_array_equal(np.stack(frames)[..., 0], moving)
  still = np.full((12, 20), 128, np.uint8)
  assert all((mask == 1).all() for mask in edit_sources.masks(still, video)[0]())
  assert edit_sources.masks(None, video) == (None, "")
  with pytest.raises(DataError, match=r"\(4, 12, 20\)"):
    edit_sources.masks(moving[:4], video)


def test_a_bit_of_white_makes_a_coarse_pixel_white():
  mask = np.zeros((1, 30, 30, 1), np.uint8)
  mask[0, 14, 29] = 1
  coarse = edit_sources.touched(mask, 4, 4)[0, ..., 0]  # pixels of 7.5
  expected = np.zeros((4, 4))
  expected[1, 3] = 1
  np.testing.assert_array_equal(coarse, expected)


def test_depth_has_one_range_as_clips_have_it():
  generator = np.random.default_rng(0)
  depth = generator.gamma(2.0, 30.0, (6, 24, 32)).astype(np.float32)
  found = edit_sources.Depth(iter(depth), 24, 32)
  frames = np.stack(list(found.frames()))
  expected = transforms.normalise_depth(depth)
  assert frames.shape == expected.shape and frames.dtype == np.uint8
  assert abs(frames.astype(int) - expected).max() <= 1  # percentiles off a histogram
  np.testing.assert_array_equal(np.stack(list(found.frames())), frames)
  flat = edit_sources.Depth(iter(np.full((3, 4, 4), 7.0)), 4, 4)
  assert not np.stack(list(flat.frames())).any()


def test_given_depth_has_a_frame_to_each_of_the_video():
  video = _footage()[0]
  made = list(edit_sources.given_depth(np.ones((5, 6, 10)), video, 8, 16))
  assert len(made) == 5 and made[0].shape == (8, 16) and made[0].dtype == np.float32
  with pytest.raises(DataError, match="4 frames, the video has 5"):
    edit_sources.given_depth(np.ones((4, 6, 10)), video, 8, 16)
  with pytest.raises(DataError, match="finite"):
    edit_sources.given_depth(np.full((5, 6, 10), np.nan), video, 8, 16)


def test_a_fade_leaves_both_ends_out():
  old = np.zeros((3, 2, 2, 3), np.uint8)
  faded = editing.cross_fade(old, old + 200)
  np.testing.assert_array_equal(faded[:, 0, 0, 0], [50, 100, 150])
