# SPDX-License-Identifier: Apache-2.0
"""Resize flavours against formulas written out here, pixel by pixel."""

import numpy as np
from PIL import Image
import pytest

from lamd_jax.data import transforms


def _noise(height, width, frames=2):
  rng = np.random.default_rng(height * 1000 + width)
  return rng.integers(0, 256, (frames, height, width, 3), dtype=np.uint8)


def _half_pixel(image, new_height, new_width):
  """torch's interpolate(mode="bilinear", align_corners=False): the definition."""
  height, width = image.shape[:2]
  out = np.zeros((new_height, new_width, 3))
  for i in range(new_height):
    y = max((i + 0.5) * height / new_height - 0.5, 0)
    y0, y1 = int(y), min(int(y) + 1, height - 1)
    for j in range(new_width):
      x = max((j + 0.5) * width / new_width - 0.5, 0)
      x0, x1 = int(x), min(int(x) + 1, width - 1)
      fy, fx = y - y0, x - x0
      out[i, j] = (
        (1 - fy) * ((1 - fx) * image[y0, x0] + fx * image[y0, x1].astype(float))
        + fy * ((1 - fx) * image[y1, x0] + fx * image[y1, x1].astype(float))
      )  # fmt: skip
  return out


@pytest.mark.parametrize("shape", [(36, 64), (64, 36), (20, 33), (10, 11), (48, 48)])
def test_crop_is_half_pixel_bilinear_then_centre(shape):
  video, size = _noise(*shape), 24
  height, width = shape
  if height <= width:
    new = (size, int(size * width / height))
  else:
    new = (int(size * height / width), size)
  top = int(round((new[0] - size) / 2))
  left = int(round((new[1] - size) / 2))
  out = transforms.resize(video, size, "crop")
  assert out.shape == (2, size, size, 3) and out.dtype == np.uint8
  for t in range(2):
    expected = _half_pixel(video[t], *new)[top : top + size, left : left + size]
    assert np.abs(out[t] - expected).max() <= 0.5 + 1e-3  # rounding to nearest


def test_squash_is_half_pixel_bilinear_of_the_whole_frame():
  video = _noise(30, 52)
  out = transforms.resize(video, 20, "squash")
  assert np.abs(out[0] - _half_pixel(video[0], 20, 20)).max() <= 0.5 + 1e-3


@pytest.mark.parametrize("shape", [(36, 64), (65, 36)])
def test_crop_antialias_is_resize_then_crop(shape):
  """The box form must give what resizing everything and cropping gives."""
  video, size = _noise(*shape), 16
  height, width = shape
  if height <= width:
    new = (size, int(size * width / height))
  else:
    new = (int(size * height / width), size)
  top, left = int(round((new[0] - size) / 2)), int(round((new[1] - size) / 2))
  whole = np.asarray(
    Image.fromarray(video[0]).resize(new[::-1], Image.Resampling.BILINEAR)
  )
  expected = whole[top : top + size, left : left + size].astype(int)
  out = transforms.resize(video, size, "crop_antialias")
  assert np.abs(out[0] - expected).max() <= 1


def test_what_has_its_short_side_is_cut_alone():
  video = np.random.default_rng(0).integers(0, 256, (2, 16, 27, 3), dtype=np.uint8)
  np.testing.assert_array_equal(
    transforms.crop_antialias(video, 16), video[:, :, 6:22]
  )  # (27 - 16) / 2 = 5.5 to even


@pytest.mark.parametrize("how", sorted(transforms.RESIZE))
def test_sides_leave_a_cut_or_bars(how):
  sides = transforms.sides(37, 91, 16, how)
  assert sides == {"crop_antialias": (16, 39), "letterbox": (7, 16)}.get(how)
  if sides:
    video = np.full((1, *sides, 3), 9, np.uint8)
    made = transforms.resize(video, 16, how)
    assert made.shape == (1, 16, 16, 3)
    assert (made == 9).sum() == min(sides[0], 16) * 16 * 3


def test_antialias_averages_where_plain_look_up_aliases():
  # One-pixel stripes: an eighth of the size must be grey, not stripes.
  stripes = np.zeros((1, 64, 64, 3), np.uint8)
  stripes[:, :, ::2] = 255
  smooth = transforms.resize(stripes, 9, "crop_antialias")
  rough = transforms.resize(stripes, 9, "crop")
  assert np.abs(smooth.astype(int) - 127).max() < 25
  assert np.ptp(rough[0, 0, :, 0].astype(int)) > 100


@pytest.mark.parametrize("shape", [(20, 40), (40, 20)])
def test_letterbox_keeps_everything_between_black_bars(shape):
  video = np.full((1, *shape, 3), 200, np.uint8)
  out = transforms.resize(video, 16, "letterbox")[0, ..., 0]
  out = out if shape[0] < shape[1] else out.T
  assert (out[4:12] == 200).all() and (out[:4] == 0).all() and (out[12:] == 0).all()


def test_the_right_size_is_left_alone():
  video = _noise(16, 16)
  for how in transforms.RESIZE:
    assert np.array_equal(transforms.resize(video, 16, how), video)
