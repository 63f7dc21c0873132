# SPDX-License-Identifier: Apache-2.0
"""A joined video has every frame of its segments, each at its exact time."""

import fractions

import av
import numpy as np
from PIL import Image
import pytest

from lamd_jax import media
from lamd_jax import segments
from lamd_jax.errors import DataError


def _clip(begin, count, height=32, width=48):
  """Frames that differ: a bar moves and the ground brightens with the frame number."""
  clip = np.zeros((count, height, width, 3), np.uint8)
  for i, t in enumerate(range(begin, begin + count)):
    clip[i] = (t * 7 % 256, 80, 255 - t * 3 % 256)
    clip[i, :, t % width] = 255
  return clip


def _segments(folder, lengths, fps, **size):
  begin, paths = 0, []
  for k, count in enumerate(lengths):
    paths.append(folder / f"{k:05d}.mp4")
    segments.write_segment(paths[-1], _clip(begin, count, **size), fps)
    begin += count
  return paths


def _packets(path):
  with av.open(str(path)) as container:
    stream = container.streams.video[0]
    packets = [p for p in container.demux(stream) if p.dts is not None]
    times = [(p.pts * p.time_base, p.dts * p.time_base) for p in packets]
    duration = fractions.Fraction(stream.duration) * stream.time_base
    return times, [p.is_keyframe for p in packets], duration, stream.average_rate


@pytest.mark.parametrize("fps", [7.5, 23.976, 8, 30])
@pytest.mark.parametrize("lengths", [(1,), (5, 1, 1, 9), (1, 4)])
def test_joined_frames_are_those_of_the_segments(tmp_path, fps, lengths):
  paths = _segments(tmp_path, lengths, fps)
  assert segments.join(paths, tmp_path / "a # b.mp4", fps) == sum(lengths)
  joined, rate = media.read_video(tmp_path / "a # b.mp4")
  expected = np.concatenate([media.read_video(path)[0] for path in paths])
  np.testing.assert_array_equal(joined, expected)
  # Lossy, but each is nearer to its own picture than to the next one.
  given = _clip(0, sum(lengths) + 1).astype(int)
  own = abs(joined - given[:-1]).mean((1, 2, 3))
  following = abs(joined - given[1:]).mean((1, 2, 3))
  assert (own < following).all()
  times, keys, duration, _ = _packets(tmp_path / "a # b.mp4")
  tick = 1 / media.rate(fps)
  assert times == [(i * tick, i * tick) for i in range(sum(lengths))]
  assert duration == sum(lengths) * tick
  assert rate == pytest.approx(fps, abs=1e-9)
  # Every segment begins with a keyframe; x264 puts more at cuts.
  assert all(keys[i] for i in np.cumsum((0, *lengths[:-1])))
  for path, count in zip(paths, lengths, strict=True):
    times, _, duration, _ = _packets(path)
    assert times == [(i * tick, i * tick) for i in range(count)]
    assert duration == count * tick


def test_three_hundred_segments_do_not_drift(tmp_path):
  # At 23.976 a segment's own duration is not a multiple of a millisecond.
  lengths = [1 + k % 3 for k in range(300)]
  paths = _segments(tmp_path, lengths, 23.976, height=16, width=16)
  assert segments.join(paths, tmp_path / "all.mp4", 23.976) == 600
  times, _, duration, rate = _packets(tmp_path / "all.mp4")
  assert times[-1][0] == fractions.Fraction(599 * 125, 2997)
  assert duration == fractions.Fraction(600 * 125, 2997)
  assert rate == fractions.Fraction(2997, 125)
  joined = list(segments.decode(tmp_path / "all.mp4"))
  expected = [frame for path in paths for frame in segments.decode(path)]
  assert len(joined) == 600
  np.testing.assert_array_equal(np.stack(joined), np.stack(expected))


def test_joined_file_starts_before_it_is_loaded(tmp_path):
  paths = _segments(tmp_path, (3, 3), 8)
  segments.join(paths, tmp_path / "v.mp4", 8)
  data = (tmp_path / "v.mp4").read_bytes()
  assert data.index(b"moov") < data.index(b"mdat")
  assert not [p for p in tmp_path.iterdir() if p.name.startswith(".")]


def test_other_size_is_refused_and_leaves_no_file(tmp_path):
  paths = _segments(tmp_path, (2,), 8)
  segments.write_segment(tmp_path / "big.mp4", _clip(0, 2, 64, 64), 8)
  with pytest.raises(DataError, match="big.mp4: not encoded as .*00000.mp4"):
    segments.join([*paths, tmp_path / "big.mp4"], tmp_path / "out.mp4", 8)
  assert sorted(p.name for p in tmp_path.iterdir()) == ["00000.mp4", "big.mp4"]


def test_read_frame_finds_its_frame(tmp_path):
  (path,) = _segments(tmp_path, (6,), 8)
  whole, _ = media.read_video(path)
  np.testing.assert_array_equal(segments.read_frame(path, 4), whole[4])
  with pytest.raises(DataError, match="no frame 6"):
    segments.read_frame(path, 6)


def test_gif_has_the_frames_in_their_colours(tmp_path):
  (path,) = _segments(tmp_path, (6,), 10)
  whole, _ = media.read_video(path)
  # Pictures for the palette may be smaller than the video.
  segments.write_gif(path, tmp_path / "v.gif", [whole[0, ::2, ::2], whole[5, ::2, ::2]], 10)
  image = Image.open(tmp_path / "v.gif")
  assert image.n_frames == 6 and image.info["duration"] == 100
  assert image.info["loop"] == 0  # without end
  for t in (0, 3, 5):
    image.seek(t)
    shown = np.asarray(image.convert("RGB")).astype(int)
    # Dithered, so the mean over the ground is compared.
    ground = np.s_[4:28, 12:44]
    assert abs((shown - whole[t])[ground].mean((0, 1))).max() < 6
