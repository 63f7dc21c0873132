# SPDX-License-Identifier: Apache-2.0
"""Files hold the pixels, the colours and the rate they were given."""

import io

from etils import epath
import av
import numpy as np
from PIL import Image
import pytest

from lamd_jax import media


def _clip(height=48, width=64):
  """Saturated patches drifting over a ramp: wrong matrices and ranges show."""
  ramp = np.linspace(0, 255, width, dtype=np.uint8)
  clip = np.repeat(np.broadcast_to(ramp, (6, height, width))[..., None], 3, -1).copy()
  for t in range(6):
    clip[t, 8:24, 8 + t : 24 + t] = (200, 30, 40)
    clip[t, 8:24, 32 + t : 48 + t] = (30, 60, 210)
  return clip


def test_mp4_keeps_colours_count_and_rate(tmp_path):
  clip = _clip()
  media.write_mp4(tmp_path / "a # b.mp4", clip, 7.5)
  back, fps = media.read_video(tmp_path / "a # b.mp4")
  assert back.shape == clip.shape and fps == 7.5
  # Chroma is halved, so compare inside the patches and on the grey ramp.
  for region in (np.s_[:, 12:20, 16:20], np.s_[:, 12:20, 40:44], np.s_[:, 30:46]):
    difference = back[region].astype(int) - clip[region]
    assert abs(difference.mean((0, 1, 2))).max() < 2.5
  assert [p.name for p in tmp_path.iterdir()] == ["a # b.mp4"]


def test_colours_are_those_of_the_standard(tmp_path):
  """BT.709 of limited range, by its formula; untagged H.264 has colours at even columns."""
  generator = np.random.default_rng(0)
  smooth = lambda low, high, *shape: np.clip(
    np.kron(generator.uniform(low, high, shape), np.ones((8, 8))), low, high
  ).astype(np.uint8)  # fmt: skip
  y, u, v = smooth(60, 190, 8, 12), smooth(108, 148, 4, 6), smooth(108, 148, 4, 6)
  frame = av.VideoFrame.from_ndarray(
    np.concatenate([y.ravel(), u.ravel(), v.ravel()]).reshape(96, 96), format="yuv420p"
  )
  with av.open(str(tmp_path / "a.mp4"), "w") as container:
    untagged = {"qp": "0", "x264-params": "chromaloc=0"}  # and lossless
    stream = media.add_h264(container, media.rate(8), 64, 96, untagged)
    container.mux([*stream.encode(frame), *stream.encode()])
  found = media.read_video(tmp_path / "a.mp4")[0][0]

  def whole(plane):
    """Chroma at all pixels: columns 0, 1/2, 1, ...; rows -1/4, 1/4, 3/4, ..."""
    plane = plane.astype(float)
    columns, rows = np.arange(96) / 2, (np.arange(64) + 0.5) / 2 - 0.5
    wide = np.stack([np.interp(columns, np.arange(48), row) for row in plane])
    return np.stack([np.interp(rows, np.arange(32), c) for c in wide.T], axis=1)

  luma = (y - 16.0) * 255 / 219
  cb, cr = ((whole(plane) - 128) * 255 / 224 for plane in (u, v))
  red, blue = luma + 1.5748 * cr, luma + 1.8556 * cb
  green = (luma - 0.2126 * red - 0.0722 * blue) / 0.7152
  off = found - np.stack([red, green, blue], axis=-1)
  assert np.abs(off).max() < 2.5  # 43 at edges by FFmpeg's quick conversion
  assert np.abs(off.mean((0, 1))).max() < 0.1  # and 0.9 to 1.5 darker


def test_colours_come_back_where_they_were(tmp_path):
  """Averages of two columns, read where they lie, are the slope again."""
  slope = np.clip(4 * np.arange(64), 4, 248)  # of 4 levels a pixel
  clip = np.full((2, 32, 64, 3), 128, np.uint8)
  clip[..., 0], clip[..., 2] = slope, slope[::-1]
  media.encode_mp4(tmp_path / "a.mp4", clip, 8, {"qp": "0"})
  off = media.read_video(tmp_path / "a.mp4")[0][:, :, 4:-4].astype(int) - clip[:, :, 4:-4]
  assert np.abs(off.mean((0, 1, 2))).max() < 0.5  # half a pixel is two levels


def test_mp4_pads_odd_sides(tmp_path):
  media.write_mp4(tmp_path / "odd.mp4", _clip(47, 63), 8)
  assert media.read_video(tmp_path / "odd.mp4")[0].shape == (6, 48, 64, 3)


def test_gif_frames_and_delay():
  image = Image.open(io.BytesIO(media.encode_gif(_clip(), 10)))
  assert image.n_frames == 6 and image.info["duration"] == 100


def test_numbers_of_numpy_are_rates(tmp_path):
  (tmp_path / "a.gif").write_bytes(media.encode_gif(_clip(), np.float64(8.0)))
  assert media.read_pictures(tmp_path / "a.gif")[1] == 8.0
  assert media.rate(np.float32(23.976)) == media.rate(23.976)


def test_npz_keeps_its_name(tmp_path):
  media.write_npz(tmp_path / "a.NPZ", _clip()[None])
  assert [path.name for path in tmp_path.iterdir()] == ["a.NPZ"]
  np.testing.assert_array_equal(np.load(tmp_path / "a.NPZ")["arr_0"], _clip()[None])


def test_to_uint8_truncates_as_the_release_does():
  values = np.array([-2.0, -1.0, 0.0, 0.999, 1.0, 3.0])
  assert media.to_uint8(values).tolist() == [0, 0, 127, 254, 255, 255]


def test_grid_places_clips_row_by_row():
  clips = np.arange(3, dtype=np.uint8)[:, None, None, None, None] * np.ones(
    (3, 2, 4, 5, 3), np.uint8
  )
  sheet = media.grid(clips, columns=2)
  assert sheet.shape == (2, 9, 11, 3)
  assert sheet[0, 0, 6, 0] == 1 and sheet[0, 5, 0, 0] == 2 and sheet[0, 4, 0, 0] == 255


@pytest.mark.parametrize("bad", [np.zeros((2, 4, 4, 3)), np.zeros((4, 4, 3), np.uint8)])
def test_rejects_floats_and_wrong_ranks(tmp_path, bad):
  with pytest.raises(ValueError, match="expected uint8"):
    media.write_mp4(tmp_path / "x.mp4", bad, 8)
  assert not list(tmp_path.iterdir())


def test_a_bucket_gets_a_file_as_a_whole(tmp_path, monkeypatch):
  sent = {}
  bucket = type(epath.Path("gs://bucket/x"))
  monkeypatch.setattr(
    bucket, "write_bytes", lambda self, data: sent.update({str(self): data})
  )
  monkeypatch.chdir(tmp_path)
  media.write_mp4(epath.Path("gs://bucket/run/a.mp4"), np.zeros((2, 16, 16, 3), np.uint8), 8)
  assert list(sent) == ["gs://bucket/run/a.mp4"] and b"ftyp" in sent.popitem()[1][:32]
  assert not list(tmp_path.iterdir())
