# SPDX-License-Identifier: Apache-2.0
"""Images and clips from users: fitted, said so, or refused in one line."""

import numpy as np
from PIL import Image
import pytest
import tiny

from lamd_jax import inputs
from lamd_jax import media
from lamd_jax.data import frame_folder
from lamd_jax.data import pipeline
from lamd_jax.errors import ConfigError
from lamd_jax.errors import DataError

RESIZE = "crop_antialias"


def fit(given, size=16):
  return inputs.image(given, size, RESIZE)


def test_an_image_of_the_right_size_is_left_alone(tmp_path):
  pixels = np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8)
  Image.fromarray(pixels).save(tmp_path / "a.png")
  for given in (pixels, tmp_path / "a.png", str(tmp_path / "a.png")):
    found, note = fit(given)
    np.testing.assert_array_equal(found, pixels[None])
    assert note == ""


def test_another_size_is_fitted_and_said(tmp_path):
  wide = np.zeros((32, 64, 3), np.uint8)
  wide[:, 16:48] = 200  # the centre, which the crop keeps
  Image.fromarray(wide).save(tmp_path / "wide.png")
  found, note = fit(tmp_path / "wide.png")
  # The filter reaches a pixel beyond the crop.
  np.testing.assert_array_equal(found[:, :, 1:-1], np.full((1, 16, 14, 3), 200))
  assert note.endswith("wide.png: 64x32 fitted to 16x16 (crop_antialias)")


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_alpha_is_laid_over_white(tmp_path, mode):
  picture = Image.new("RGBA", (16, 16), (0, 0, 0, 255))
  picture.paste((255, 0, 0, 0), (0, 0, 8, 16))  # the left half is not there
  path = tmp_path / "a.png"
  picture.convert(mode).save(path, **({"transparency": 1} if mode == "P" else {}))
  found, note = fit(path)
  assert "alpha laid over white" in note
  if mode != "P":
    np.testing.assert_array_equal(found[0, :, :8], 255)
    np.testing.assert_array_equal(found[0, :, 8:], 0)


def test_a_camera_s_turn_is_undone(tmp_path):
  pixels = np.zeros((16, 16, 3), np.uint8)
  pixels[:4] = 255  # bright on top as stored
  exif = Image.Exif()
  exif[0x0112] = 3  # turned by 180 degrees
  Image.fromarray(pixels).save(tmp_path / "a.png", exif=exif)
  found, _ = fit(tmp_path / "a.png")
  assert found[0, -4:].min() == 255 and found[0, :4].max() == 0


def test_sixteen_bits_are_scaled_and_not_clipped(tmp_path):
  grey = np.linspace(0, 65535, 64).round().astype(np.uint16).reshape(8, 8)
  Image.fromarray(grey).save(tmp_path / "a.png")
  pixels, _ = inputs.image(tmp_path / "a.png", 8, "crop")
  np.testing.assert_array_equal(pixels[0, ..., 1], np.round(grey / 257).astype(np.uint8))
  # As frames of a video they are the same.
  np.testing.assert_array_equal(frame_folder.read(tmp_path, [0], 1), pixels)


def test_what_is_no_image_is_refused_in_one_line(tmp_path):
  (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nnothing")
  (tmp_path / "text.jpg").write_text("no image")
  for name in ("broken.png", "text.jpg", "absent.png", "."):
    with pytest.raises(DataError) as raised:
      fit(tmp_path / name)
    assert "\n" not in str(raised.value) and "PNG or JPEG" in str(raised.value)
  with pytest.raises(DataError, match="uint8"):
    fit(np.zeros((4, 4, 3), np.float32))
  with pytest.raises(DataError, match="holds no pixel"):
    fit(np.zeros((0, 60, 3), np.uint8))


def test_lists_say_how_many_clips():
  image = np.zeros((4, 4, 3), np.uint8)
  one = dict(text="a", image=image, label=3)
  assert inputs.count(None, 0, **one) is None and inputs.count(2, 0, **one) == 2
  assert inputs.count(None, [1, 2, 3], **one) == 3
  several = dict(text=["a", "b"], image=[image], label=np.arange(3))
  assert inputs.count(None, np.array(5), **several) == 3
  assert inputs.count(5, range(9), **several) == 5  # taken in turn
  with pytest.raises(ConfigError, match="n=2: label holds 3; say n=3, or leave n out"):
    inputs.count(2, 0, **several)


def test_without_content_a_clip_gets_that_of_the_next_whatever_n():
  data = tiny.gen1_config(data__num_videos=40).data
  clips = pipeline.clips(data, data.eval_split, 3, 0)[:, :1]
  made = {n: inputs.content(data, 0, n, [], [""])[0] for n in (1, 2, 1000)}
  np.testing.assert_array_equal(made[1], clips[1:2])
  np.testing.assert_array_equal(made[2], clips[1:3])
  np.testing.assert_array_equal(made[1000][:2], clips[1:3])
  np.testing.assert_array_equal(made[1000][-1], clips[0])  # the split has no more


def test_a_motion_clip_is_cut_and_fitted(tmp_path):
  video = np.random.default_rng(0).integers(0, 256, (8, 32, 32, 3), np.uint8)
  found, note = inputs.motion(video, 6, 16, RESIZE)
  assert found.shape == (6, 16, 16, 3)
  assert note == (
    "motion of array: its first 6 frames, 32x32 fitted to 16x16 (crop_antialias)"
  )
  media.write_mp4(tmp_path / "a.mp4", video, 8.0)
  assert inputs.motion(tmp_path / "a.mp4", 8, 32, RESIZE)[0].shape == video.shape
  with pytest.raises(DataError, match="8 frames, this model takes the motion of 9"):
    inputs.motion(tmp_path / "a.mp4", 9, 32, RESIZE)
  (tmp_path / "b.mp4").write_text("no video")
  for name in ("b.mp4", "absent.mp4"):
    with pytest.raises(DataError, match="no video that can be read"):
      inputs.motion(tmp_path / name, 4, 16, RESIZE)
