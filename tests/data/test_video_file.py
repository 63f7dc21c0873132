# SPDX-License-Identifier: Apache-2.0
"""Files decode to the frames asked for, and damage is noticed."""

import numpy as np
import pytest

from lamd_jax import media
from lamd_jax.data import transforms
from lamd_jax.data import video_file
from lamd_jax.errors import DataError


@pytest.mark.parametrize("suffix", [".mp4", ".avi", ".mov", ".mkv", ".webm", ".gif"])
def test_every_container_gives_count_rate_and_the_right_frames(tmp_path, make, suffix):
  path = make.video(tmp_path / f"a #1 ü{suffix}", 23, fps=10, height=26, width=34)
  facts = video_file.probe(path)
  assert facts[:4] == (23, 10.0, 26, 34)
  clip = video_file.read(path, [3, 3, 9, 22], facts.n_frames)
  assert clip.dtype == np.uint8 and clip.shape == (4, 26, 34, 3)
  assert make.numbers(clip).tolist() == [3, 3, 9, 22]


@pytest.mark.parametrize("suffix", [".mp4", ".avi", ".mkv", ".webm"])
def test_seeking_gives_what_decoding_from_the_start_gives(tmp_path, make, suffix):
  path = make.video(tmp_path / f"long{suffix}", 55, gop=10)
  # More keyframes than a real index keeps, so that seeking matters on a short file.
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(video_file, "_KEYFRAME_SPACING", 5)
    facts = video_file.probe(path)
  if suffix != ".mp4":  # x264 puts its keyframes 250 apart
    assert len(facts.keyframes) >= 3
  for first in (0, 7, 19, 20, 21, 44, 50):
    wanted = [first, first + 2, first + 4]
    sought = video_file.read(path, wanted, 55, facts.keyframes)
    assert np.array_equal(sought, video_file.read(path, wanted, 55))
    assert make.numbers(sought).tolist() == wanted


@pytest.mark.parametrize(
  "options", [{"g": "20"}, {"g": "300"}, {"g": "24", "x264-params": "open-gop=1:bframes=5"}]
)
def test_leaving_out_frames_changes_no_pixel(tmp_path, monkeypatch, options):
  """H.264 with B-frames that move: a frame that lacked its reference would show it."""
  rng = np.random.default_rng(0)
  noise = np.kron(rng.integers(0, 256, (10, 30, 3)), np.ones((8, 8, 1)))
  frames = np.stack([np.roll(noise, 3 * t, axis=1)[:64, :96] for t in range(90)])
  path = tmp_path / "a.mp4"
  media.encode_mp4(path, frames.astype(np.uint8), 8, options)
  facts = video_file.probe(path)
  start, step = facts.grid
  assert step > 0 and start >= 0 and all((pts - start) == i * step for i, pts in facts.keyframes)
  decoded = []
  convert = video_file._skipping

  def counted(*arguments):
    for number, frame in convert(*arguments):
      decoded.append(number)
      yield number, frame

  monkeypatch.setattr(video_file, "_skipping", counted)
  every = 0
  for _ in range(12):
    first, stride = int(rng.integers(0, 70)), int(rng.integers(1, 5))
    wanted = list(range(first, first + 5 * stride, stride))
    found = video_file.read(path, wanted, 90, facts.keyframes, grid=facts.grid)
    assert np.array_equal(found, video_file.read(path, wanted, 90))
    before = [i for i, _ in facts.keyframes if i <= first]
    every += wanted[-1] + 1 - (before[-1] if before else 0)
  assert len(decoded) < 0.9 * every  # some were left out


def test_uneven_times_are_no_grid():
  assert video_file._grid([3, 5, 7, 9]) == (3, 2)
  assert video_file._grid([3, 5, 7, 10]) == video_file._grid([0, None]) == ()
  assert video_file._grid([5]) == video_file._grid([4, 4]) == ()


def test_a_wrong_keyframe_is_not_believed(tmp_path, make):
  path = make.video(tmp_path / "a.mkv", 40, gop=10)
  with pytest.raises(DataError, match="not where the index says"):
    video_file.read(path, [35, 36], 40, ((30, 1234),))


# An anticlockwise turn of 90 degrees takes the top left corner to the bottom left.
@pytest.mark.parametrize(
  ("turn", "white"), [(0, (0, 0)), (90, (-1, 0)), (180, (-1, -1)), (-90, (0, -1))]
)
def test_frames_of_a_turned_camera_stand_upright(make, tmp_path, turn, white):
  path = make.turned(tmp_path / "v.mp4", turn)
  facts = video_file.probe(path)
  assert (facts.height, facts.width) == ((32, 24) if turn % 180 else (24, 32))
  ways = (
    video_file.read(path, [0, 2], 3, facts.keyframes, grid=facts.grid),
    media.read_video(path)[0],
  )
  for clip in ways:
    assert clip.shape[1:] == (facts.height, facts.width, 3)
    corners = {(i, j): int(clip[-1, i, j, 1]) for i in (0, -1) for j in (0, -1)}
    assert corners.pop(white) > 240 and max(corners.values()) < 15


@pytest.mark.parametrize("how", ["crop_antialias", "letterbox"])
@pytest.mark.parametrize(["height", "width"], [(48, 80), (80, 48), (20, 30)])
def test_decoding_to_size_is_resizing_what_was_decoded(tmp_path, how, height, width):
  """Smooth pictures: averages of colours do not depend on where they are taken."""
  y, x = np.mgrid[:height, :width] / max(height, width)
  picture = np.stack([x, y, (x + y) / 2], axis=-1) * 200 + 20
  frames = np.stack([picture + 4 * t for t in range(6)]).astype(np.uint8)
  media.encode_mp4(tmp_path / "a.mp4", frames, 8, {"crf": "1"})
  sides = transforms.sides(height, width, 32, how)
  small = video_file.read(tmp_path / "a.mp4", [0, 3, 5], 6, sides=sides)
  assert small.shape == (3, *sides, 3) and 32 in sides
  whole = video_file.read(tmp_path / "a.mp4", [0, 3, 5], 6)
  found = transforms.resize(small, 32, how).astype(int)
  expected = transforms.resize(whole, 32, how)
  assert np.abs(found - expected).max() <= 3
  assert abs((found - expected).mean()) < 0.1


@pytest.mark.parametrize("turn", [90, 180])
def test_turned_frames_are_scaled_as_they_stand(make, tmp_path, turn):
  path = make.turned(tmp_path / "a.mp4", turn)
  facts = video_file.probe(path)
  sides = (facts.height // 2, facts.width // 2)
  small = video_file.read(path, [1], 3, sides=sides)
  assert small.shape == (1, *sides, 3)
  whole = video_file.read(path, [1], 3).astype(float)
  halved = whole.reshape(1, sides[0], 2, sides[1], 2, 3).mean((2, 4))
  assert np.abs(small - halved).mean() < 8  # but for the edge, where weights reach over


def test_files_of_rgb_are_decoded_as_they_are(tmp_path, make):
  path = make.video(tmp_path / "a.mkv", 4, height=24, width=32)
  found = video_file.read(path, [2], 4, sides=(12, 16))
  np.testing.assert_array_equal(found, make.numbered(4)[2:3])


def test_missing_frames_are_an_error(tmp_path, make):
  path = make.video(tmp_path / "a.mp4", 10)
  with pytest.raises(DataError, match="frame 12 of 14 is not there"):
    video_file.read(path, [8, 12], 14)


def test_truncated_file_that_decodes_short_is_an_error(tmp_path):
  """An mp4 with its index in front loses its end without any exception."""
  path, rng = tmp_path / "a.mp4", np.random.default_rng(0)
  media.write_mp4(path, rng.integers(0, 256, (40, 64, 64, 3), dtype=np.uint8), 8)
  data = path.read_bytes()
  path.write_bytes(data[: len(data) // 2])
  with pytest.raises(Exception, match="of the 40 frames it declares|Invalid data"):
    video_file.probe(path)


@pytest.mark.parametrize("content", [b"", b"just some text\n" * 20, b"\x00" * 500])
def test_no_video_is_an_error(tmp_path, content):
  path = tmp_path / "a.mp4"
  path.write_bytes(content)
  with pytest.raises(Exception):
    video_file.probe(path)


def test_a_playlist_cannot_read_other_files(tmp_path, make):
  """A text file that FFmpeg would follow to another file is refused by its format."""
  make.video(tmp_path / "secret.mp4", 5)
  trap = tmp_path / "trap.mp4"
  trap.write_text(f"ffconcat version 1.0\nfile '{tmp_path / 'secret.mp4'}'\n")
  with pytest.raises(Exception, match="[Ii]nvalid"):
    video_file.probe(trap)
  with pytest.raises(Exception, match="[Ii]nvalid"):
    media.read_video(trap)
