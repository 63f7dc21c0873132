# SPDX-License-Identifier: Apache-2.0
"""Clips keep their numbers, range and rate through every file; tiles lie where said."""

import base64
import io
import re
import sys

import numpy as np
from PIL import Image
import pytest

import lamd_jax
from lamd_jax import clip as clip_lib
from lamd_jax.clip import Clip
from lamd_jax.errors import DataError


def _clip(fps=8.0, frames=6, seed=0):
  """Smooth colours over the full range; a sixth frame equal to the fifth."""
  t, y, x = np.mgrid[:frames, :16, :24]
  t = np.minimum(t, 4)
  video = np.stack([x * 255 // 23, y * 255 // 15, (t * 40 + seed) % 256], -1)
  return Clip(video.astype(np.uint8), fps)


@pytest.mark.parametrize("fps", [8.0, 23.976, 30.0])
@pytest.mark.parametrize("name", ["a.npz", "a.webp", "a folder"])
def test_exact_formats_give_the_same_numbers_and_rate_back(tmp_path, name, fps):
  saved = _clip(fps)
  saved.save(tmp_path / name)
  found = Clip.open(tmp_path / name)
  np.testing.assert_array_equal(found.frames, saved.frames)
  assert found.fps == fps
  assert [p.name for p in tmp_path.iterdir()] == [name]  # no partial file


@pytest.mark.parametrize("name, near", [("a.mp4", 12), ("a.gif", 24)])
def test_other_formats_are_near_and_keep_length_and_rate(tmp_path, name, near):
  saved = _clip(8.0)
  saved.save(tmp_path / name)
  found = Clip.open(tmp_path / name)
  assert found.frames.shape == saved.frames.shape
  assert found.fps == 8.0
  error = np.abs(found.frames.astype(int) - saved.frames)
  assert np.mean(error) < near  # scaled twice or of another range: above 60


def test_a_still_clip_keeps_its_frames(tmp_path):
  still = Clip(np.full((5, 8, 8, 3), 200, np.uint8), 12.0)
  for name in ("a.webp", "a.gif"):
    still.save(tmp_path / name)
    found = Clip.open(tmp_path / name)
    assert found.frames.shape == (5, 8, 8, 3) and found.fps == 12.0


def test_gifs_of_others_are_timed_by_their_delays(tmp_path):
  pictures = [Image.fromarray(f) for f in _clip(frames=4).frames]
  pictures[0].save(
    tmp_path / "x.gif", save_all=True, append_images=pictures[1:],
    duration=[100, 100, 200, 100],
  )  # fmt: skip
  found = Clip.open(tmp_path / "x.gif")
  assert len(found.frames) == 5 and found.fps == 10.0
  np.testing.assert_array_equal(found.frames[2], found.frames[3])


def test_gif_delays_keep_to_the_rate():
  # 8 a second are 125 ms each, which a GIF's hundredths cannot say.
  from lamd_jax import media

  data = media.encode_gif(_clip(8.0, frames=5).frames, 8.0)
  delays = []
  with Image.open(io.BytesIO(data)) as file:
    for i in range(file.n_frames):
      file.seek(i)
      delays.append(file.info["duration"])
  assert delays == [120, 130, 130, 120, 120]  # ends at 125 250 375 500 625, rounded
  assert sum(media.delays(800, 8.0, 10)) == 100_000


@pytest.mark.parametrize("fps", [np.float32(8), np.float64(8.0), np.int64(8), 8])
@pytest.mark.parametrize("name", ["a.mp4", "a.gif", "a.webp", "a.npz", "a folder"])
def test_numbers_of_numpy_are_rates(tmp_path, name, fps):
  _clip(fps).save(tmp_path / name)
  found = Clip.open(tmp_path / name)
  assert found.fps == 8.0 and len(found.frames) == 6


def test_suffixes_may_be_capitals(tmp_path):
  _clip().save(tmp_path / "a.NPZ")
  assert [path.name for path in tmp_path.iterdir()] == ["a.NPZ"]
  np.testing.assert_array_equal(Clip.open(tmp_path / "a.NPZ").frames, _clip().frames)


def test_a_folder_that_breaks_leaves_the_old_one(tmp_path, monkeypatch):
  _clip(frames=3).save(tmp_path / "c")

  def full(self, path):
    raise OSError("the disk is full")

  monkeypatch.setattr(Image.Image, "save", full)
  with pytest.raises(OSError, match="disk is full"):
    _clip().save(tmp_path / "c")
  assert [path.name for path in tmp_path.iterdir()] == ["c"]
  assert len(Clip.open(tmp_path / "c").frames) == 3


def test_a_shorter_clip_leaves_no_old_picture_and_spares_other_folders(tmp_path):
  _clip(frames=6).save(tmp_path / "c")
  _clip(frames=3).save(tmp_path / "c")
  assert len(Clip.open(tmp_path / "c").frames) == 3
  (tmp_path / "mine").mkdir()
  (tmp_path / "mine" / "thesis.tex").write_text("x")
  with pytest.raises(ValueError, match="something else"):
    _clip().save(tmp_path / "mine")
  assert (tmp_path / "mine" / "thesis.tex").exists()


@pytest.mark.parametrize(
  "clip, name, words",
  [
    (_clip(), "a.mov", "unknown suffix"),
    (_clip(fps=0.0), "a.mp4", "fps=0"),
    (_clip(fps=np.float32("inf")), "a.gif", "fps=inf: must be a number above 0"),
    (_clip(fps=float("nan")), "a folder", "fps=nan"),
    (_clip(fps="fast"), "a.webp", "fps=fast"),
    (Clip(np.zeros((2, 8, 8, 3), np.float32), 8.0), "a.mp4", "expected uint8"),
  ],
)
def test_what_cannot_be_saved_says_so(tmp_path, clip, name, words):
  with pytest.raises(ValueError, match=words):
    clip.save(tmp_path / name)
  assert not list(tmp_path.iterdir())


def test_what_cannot_be_opened_is_one_line(tmp_path):
  (tmp_path / "broken.mp4").write_bytes(b"no video")
  (tmp_path / "broken.npz").write_bytes(b"PK no")
  (tmp_path / "broken.gif").write_bytes(b"GIF89a")
  (tmp_path / "empty").mkdir()
  np.savez(tmp_path / "pickled.npz", arr_0=np.array([{}], object))
  np.savez(tmp_path / "many.npz", arr_0=np.zeros((2, 3, 8, 8, 3), np.uint8))
  names = [p.name for p in tmp_path.iterdir()] + ["absent.mp4"]
  for name in names:
    with pytest.raises(DataError) as caught:
      Clip.open(tmp_path / name)
    assert "\n" not in str(caught.value) and name in str(caught.value)


@pytest.mark.parametrize("suffix", [".png", ".jpeg"])
def test_pictures_of_others_come_in_the_order_of_their_numbers(tmp_path, suffix):
  for i in range(12):
    picture = np.full((8, 8, 3), 20 * i, np.uint8)
    Image.fromarray(picture).save(tmp_path / f"{i}{suffix}")
  found = Clip.open(tmp_path, fps=8).frames
  np.testing.assert_array_equal(found[:, 4, 4, 0], 20 * np.arange(12))


def test_a_picture_that_unfolds_without_end_is_refused(tmp_path):
  # 200 bytes that say they are a million frames.
  picture = Image.fromarray(np.zeros((64, 64, 3), np.uint8))
  picture.save(tmp_path / "a.gif", comment=b"fps=8.0 frames=999999")
  with pytest.raises(DataError, match="999999 frames of 12288 bytes are too many"):
    Clip.open(tmp_path / "a.gif")


def test_a_rate_can_be_given_where_none_is_stored(tmp_path):
  np.savez(tmp_path / "x.npz", arr_0=_clip().frames[None])
  with pytest.raises(DataError, match="fps=8"):
    Clip.open(tmp_path / "x.npz")
  assert Clip.open(tmp_path / "x.npz", fps=5).fps == 5.0


def test_tiles_lie_row_by_row():
  clips = [_clip(seed=s) for s in (0, 50, 100)]
  sheet = lamd_jax.tile(clips, columns=2)
  assert sheet.fps == 8.0 and sheet.frames.shape == (6, 33, 49, 3)
  np.testing.assert_array_equal(sheet.frames[:, :16, 25:], clips[1].frames)
  np.testing.assert_array_equal(sheet.frames[:, 17:, :24], clips[2].frames)
  assert (sheet.frames[:, 17:, 25:] == 255).all()
  np.testing.assert_array_equal(lamd_jax.tile(clips[0]).frames, clips[0].frames)
  with pytest.raises(ValueError, match="at 5 frames"):
    clip_lib.tile([clips[0], _clip(fps=5.0)])
  with pytest.raises(ValueError, match="no clip"):
    clip_lib.tile([])


def test_notebooks_show_an_animation(capsys, monkeypatch):
  shown = _clip()._repr_html_()
  data = re.fullmatch(r'<img src="data:image/webp;base64,([^"]+)".*>', shown).group(1)
  with Image.open(io.BytesIO(base64.b64decode(data))) as file:
    assert file.format == "WEBP" and file.n_frames >= 5 and file.size == (24, 16)
  assert 'width="256"' in shown
  monkeypatch.setitem(sys.modules, "IPython", None)  # as where it is not installed
  _clip().show()  # says what to do instead
  assert "clip.save" in capsys.readouterr().out
