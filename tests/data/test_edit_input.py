# SPDX-License-Identifier: Apache-2.0
"""A user's video read for editing: what it holds, its windows, its mask, its faults."""

import fractions
import weakref

import av
import numpy as np
from PIL import Image
import pytest

from lamd_jax import media
from lamd_jax.data import edit_input
from lamd_jax.errors import DataError

_NTSC = fractions.Fraction(30_000, 1001)


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".webm", ".avi", ".mov", ".gif"])
def test_facts_and_frames_of_every_container(tmp_path, make, suffix):
  rate = 10 if suffix == ".gif" else _NTSC
  path = make.video(tmp_path / f"a #1{suffix}", 9, fps=rate)
  video = edit_input.probe(path)
  assert (video.n_frames, video.height, video.width) == (9, 24, 32)
  # Matroska rounds times to milliseconds: the rate is exact all the same.
  assert video.rate == rate and video.time_base == 1 / fractions.Fraction(rate)
  assert video.ticks.tolist() == list(range(9)) and video.start == 0
  assert video.sounds == () and video.pixel_aspect == 1
  frames = np.stack(list(edit_input.frames(video)))
  assert frames.dtype == np.uint8 and frames.shape == (9, 24, 32, 3)
  assert make.numbers(frames).tolist() == list(range(9))


# An anticlockwise turn of 90 degrees takes the top left corner to the bottom left.
@pytest.mark.parametrize(
  ("turn", "white"), [(0, (0, 0)), (90, (-1, 0)), (180, (-1, -1)), (-90, (0, -1))]
)
def test_frames_stand_upright(make, tmp_path, turn, white):
  make.turned(tmp_path / "v.mp4", turn)
  video = edit_input.probe(tmp_path / "v.mp4")
  upright = turn % 180 == 0
  assert (video.height, video.width) == ((24, 32) if upright else (32, 24))
  aspect = fractions.Fraction(4, 3)
  assert video.pixel_aspect == (aspect if upright else 1 / aspect)
  frame = next(edit_input.frames(video))
  assert frame.shape == (video.height, video.width, 3) and frame.flags.c_contiguous
  corners = {(i, j): int(frame[i, j, 1]) for i in (0, -1) for j in (0, -1)}
  assert corners.pop(white) > 240 and max(corners.values()) < 15


def test_uneven_frames_keep_their_times(tmp_path):
  times = [0, 40, 50, 210, 250]
  with av.open(str(tmp_path / "v.mp4"), "w") as container:
    stream = container.add_stream("libx264", rate=25)
    stream.height, stream.width, stream.pix_fmt = 16, 16, "yuv420p"
    stream.codec_context.time_base = fractions.Fraction(1, 1000)
    for time in times:
      frame = av.VideoFrame.from_ndarray(np.zeros((16, 16, 3), np.uint8), format="rgb24")
      frame.pts, frame.time_base = time, fractions.Fraction(1, 1000)
      container.mux(stream.encode(frame))
    container.mux(stream.encode())
  video = edit_input.probe(tmp_path / "v.mp4")
  got = [fractions.Fraction(int(t)) * video.time_base * 1000 for t in video.ticks]
  assert got == times


@pytest.mark.parametrize(
  ("n", "size", "overlap", "starts"),
  [(10, 4, 1, [0, 3, 6]), (11, 4, 1, [0, 3, 6, 7]), (4, 4, 3, [0]), (3, 4, 2, [0]),
   (9, 4, 0, [0, 4, 5]), (5, 4, 3, [0, 1])],
)  # fmt: skip
def test_windows_cover_every_frame_once(n, size, overlap, starts):
  assert edit_input.window_starts(n, size, overlap) == starts
  pictures = np.arange(n, dtype=np.uint8)[:, None, None] * np.ones((2, 2), np.uint8)
  fresh = []
  for window, start in zip(
    edit_input.windows(iter(pictures), n, size, overlap), starts, strict=True
  ):
    numbers = window.frames[:, 0, 0].tolist()
    count = min(n, size)
    assert window.start == start and window.count == count and len(numbers) == size
    assert numbers[:count] == list(range(start, start + count))
    assert set(numbers[count:]) <= {n - 1}
    assert window.fresh >= overlap or not start
    fresh += numbers[window.fresh : count]
  assert fresh == list(range(n))
  with pytest.raises(ValueError, match="overlap=4"):
    edit_input.window_starts(9, 4, 4)


def test_windows_hold_one_window_of_frames():
  alive = weakref.WeakSet()

  class Frame(np.ndarray):
    """An array that can be watched."""

  def source():
    for _ in range(60):
      frame = np.zeros((4, 4), np.uint8).view(Frame)
      alive.add(frame)
      yield frame

  # A set of arrays by identity: == of arrays is no truth value.
  Frame.__hash__ = object.__hash__
  Frame.__eq__ = object.__eq__
  most = 0
  for _ in edit_input.windows(source(), 60, 8, 2):
    most = max(most, len(alive))
  assert 8 <= most <= 10


def test_fit_averages_and_leaves_alone():
  stripes = np.zeros((1, 64, 64), np.uint8)
  stripes[:, :, ::2] = 255
  small = edit_input.fit(stripes, 8, 4)
  assert small.shape == (1, 8, 4) and np.abs(small.astype(int) - 127).max() < 12
  assert edit_input.fit(stripes, 64, 64) is stripes


def _half(height, width):
  mask = np.zeros((height, width), np.uint8)
  mask[:, width // 2 :] = 255
  return mask


@pytest.mark.parametrize("size", [(24, 32), (48, 64), (12, 8)])
def test_a_picture_masks_every_frame(tmp_path, make, size):
  video = edit_input.probe(make.video(tmp_path / "v.mkv", 5))
  Image.fromarray(_half(*size)).save(tmp_path / "m.png")
  mask = edit_input.open_mask(tmp_path / "m.png", video)
  assert bool(mask.note) == (size != (24, 32))
  if mask.note:
    assert f"{size[1]}x{size[0]} stretched to the video's 32x24" in mask.note
  got = np.stack(list(edit_input.mask_frames(mask, video)))
  assert got.shape == (5, 24, 32, 1) and got.dtype == np.uint8
  assert (got[..., 0] == _half(24, 32) // 255).all()


def test_transparent_parts_of_a_mask_stay(tmp_path, make):
  video = edit_input.probe(make.video(tmp_path / "v.mkv", 2))
  painted = np.full((24, 32, 4), 255, np.uint8)
  painted[..., 3] = _half(24, 32)
  Image.fromarray(painted).save(tmp_path / "m.png")
  mask = edit_input.open_mask(tmp_path / "m.png", video)
  assert (next(edit_input.mask_frames(mask, video))[..., 0] == _half(24, 32) // 255).all()


def test_a_mask_of_16_bits_is_scaled(tmp_path, make):
  video = edit_input.probe(make.video(tmp_path / "v.mkv", 2))
  grey = np.zeros((24, 32), np.uint16)
  grey[:, 8:16], grey[:, 16:24], grey[:, 24:] = 10_000, 40_000, 65_535
  Image.fromarray(grey).save(tmp_path / "m.png")
  mask = edit_input.open_mask(tmp_path / "m.png", video)
  assert mask.still.dtype == np.uint8
  assert mask.still[0, ::8].tolist() == [0, 39, 156, 255]
  got = next(edit_input.mask_frames(mask, video))[..., 0]
  assert (got == _half(24, 32) // 255).all()


def test_a_mask_video_goes_frame_by_frame(tmp_path, make):
  video = edit_input.probe(make.video(tmp_path / "v.mkv", 7))
  frames = np.zeros((7, 48, 64, 3), np.uint8)
  for t in range(7):
    frames[t, :, : 8 * (t + 1)] = 255
  media.write_mp4(tmp_path / "m.mp4", frames, 8)
  mask = edit_input.open_mask(tmp_path / "m.mp4", video)
  assert "64x48 stretched" in mask.note
  windows = edit_input.windows(edit_input.mask_frames(mask, video), 7, 4, 1)
  for window in windows:
    for t, one in enumerate(window.frames, window.start):
      columns = one[..., 0].mean(0)
      assert set(np.unique(one)) <= {0, 1}
      # Half the size, and a column of doubt at the edge, which H.264 blurs.
      assert (columns[: 4 * t + 3] == 1).all() and (columns[4 * t + 5 :] == 0).all()


# Faults: one line each, with the file's name.


def _check(call, *words):
  with pytest.raises(DataError) as error:
    call()
  text = str(error.value)
  assert "\n" not in text and all(word in text for word in words), text


def test_no_video_is_named(tmp_path):
  with av.open(str(tmp_path / "sound.mp4"), "w") as container:
    stream = container.add_stream("aac", rate=16_000, layout="mono")
    tone = av.AudioFrame.from_ndarray(
      np.zeros((1, 4096), np.int16), format="s16", layout="mono"
    )
    tone.sample_rate = 16_000
    container.mux(stream.encode(tone))
    container.mux(stream.encode())
  (tmp_path / "text.mp4").write_text("no video")
  (tmp_path / "empty.mkv").write_bytes(b"")
  for name, reason in (
    ("sound.mp4", "holds no video stream"), ("text.mp4", "cannot be decoded"),
    ("empty.mkv", "cannot be decoded"), ("none.mp4", "no such file"),
  ):  # fmt: skip
    path = tmp_path / name
    _check(lambda path=path: edit_input.probe(path), f"video={path}: {reason}")
  _check(lambda: edit_input.probe(tmp_path), f"video={tmp_path}: is a folder")


def test_one_frame_is_no_video(tmp_path, make):
  path = make.video(tmp_path / "one.mkv", 1)
  _check(lambda: edit_input.probe(path), f"video={path}: has one frame")


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".avi", ".webm"])
def test_a_file_that_was_cut_off_is_named(tmp_path, make, suffix):
  path = make.video(tmp_path / f"v{suffix}", 48, gop=4)
  assert edit_input.probe(path).n_frames == 48
  data = path.read_bytes()
  path.write_bytes(data[: len(data) * 2 // 3])
  _check(lambda: edit_input.probe(path), f"video={path}: ")


def test_a_file_that_changes_between_the_passes(tmp_path, make):
  path = make.video(tmp_path / "v.mkv", 9)
  video = edit_input.probe(path)
  make.video(path, 7)
  _check(lambda: list(edit_input.frames(video)), "had 9 frames before and has 7 now")


def test_masks_that_do_not_fit(tmp_path, make):
  video = edit_input.probe(make.video(tmp_path / "v.mkv", 9))
  other = make.video(tmp_path / "m.mkv", 8)
  (tmp_path / "m.png").write_text("no image")
  for path, reason in (
    (other, "8 frames, the video has 9"), (tmp_path / "m.png", "cannot be read"),
    (tmp_path / "x.png", "no such file"), (tmp_path, "is a folder"),
    (tmp_path / "x.mp4", "no such file"),
  ):  # fmt: skip
    _check(
      lambda path=path: edit_input.open_mask(path, video), f"mask={path}: {reason}"
    )


def test_depth_reads_alike_each_time(tmp_path):
  """A width that is no multiple of 16: the 16-bit conversion of 8-bit frames is not."""
  clip = np.full((5, 20, 38, 3), 60, np.uint8)
  clip[:, 6:14, 4:12] = 200
  media.write_mp4(tmp_path / "depth.mp4", clip, 12.5)
  video = edit_input.probe(tmp_path / "depth.mp4", "depth")
  first, *others = (
    np.stack(list(edit_input.frames(video, "gray16le"))) for _ in range(4)
  )
  for other in others:
    np.testing.assert_array_equal(other, first)
  assert np.abs(first / 257 - clip[..., 0]).max() < 40  # as far as the codec goes
