# SPDX-License-Identifier: Apache-2.0
"""An edited video is its input with other frames: size, times, length, sound."""

import fractions

import av
import numpy as np
import pytest

from lamd_jax.data import edit_input
from lamd_jax.data import edit_output
from lamd_jax.errors import DataError

_NTSC = fractions.Fraction(30_000, 1001)


def _write(path, codec, pixels, sounds, rate=_NTSC, size=(24, 32), n=24, late=0):
  """A video of grey frames; sound k is a tone of 1 s, `late` ms after the pictures."""
  with av.open(str(path), "w") as container:
    video = container.add_stream(codec, rate=rate)
    video.height, video.width = size
    video.pix_fmt = pixels
    tracks = [container.add_stream(s, rate=16_000, layout="mono") for s in sounds]
    for t in range(n):
      grey = np.full((*size, 3), 20 + 8 * t, np.uint8)
      frame = av.VideoFrame.from_ndarray(grey, format="rgb24")
      container.mux(video.encode(frame.reformat(format=pixels)))
    container.mux(video.encode())
    for k, track in enumerate(tracks):
      wave = np.sin(np.arange(16_000) * 0.1 * (k + 1)) * 9000
      tone = av.AudioFrame.from_ndarray(
        wave.astype(np.int16)[None], format="s16", layout="mono"
      )
      tone.sample_rate, tone.pts = 16_000, 16 * late
      tone.time_base = fractions.Fraction(1, 16_000)
      container.mux(track.encode(tone))
      container.mux(track.encode())
  return edit_input.probe(path)


def _packets(path):
  """Per sound stream: the bytes of its packets and when they begin, seconds."""
  found = {}
  with av.open(str(path)) as container:
    for packet in container.demux(container.streams.audio):
      if packet.size:
        data, times = found.setdefault(packet.stream.index, ([], []))
        data.append(bytes(packet))
        times.append(float(packet.pts * packet.time_base))
  return list(found.values())


def _samples(path):
  """The first sound stream decoded: samples [S] float and when it begins, seconds."""
  parts, begin = [], None
  resampler = av.AudioResampler(format="flt", layout="mono", rate=16_000)
  with av.open(str(path)) as container:
    for frame in container.decode(container.streams.audio[0]):
      begin = frame.time if begin is None else begin
      parts += [f.to_ndarray()[0] for f in resampler.resample(frame)]
  return np.concatenate(parts), begin


def _in_segments(out, video, frames):
  """As `edit_output.write`, by segments of 2 frames or 9 that are joined."""
  frames = np.stack(list(frames))
  cuts = range(0, len(frames), 9 if len(frames) > 9 else 2)
  paths = [out.parent / "parts" / f"{begin}.mp4" for begin in cuts]
  for path, begin in zip(paths, cuts):
    edit_output.write_segment(path, video, frames[begin : begin + cuts.step])
  edit_output.join(out, video, paths)


@pytest.fixture(params=[edit_output.write, _in_segments], ids=["whole", "segments"])
def put(request):
  """Both ways to write an edited video."""
  return request.param


# What cameras, screens and downloads have; the last of each: whether it is copied.
@pytest.mark.parametrize(
  ("name", "codec", "pixels", "sound", "copied"),
  [("a.mp4", "libx264", "yuv420p", "aac", True),
   ("b.mov", "mjpeg", "yuvj420p", "pcm_s16le", False),
   ("c.avi", "mpeg4", "yuv420p", "pcm_s16le", False),
   ("f.mkv", "mpeg4", "yuv420p", "libmp3lame", True),
   ("d.webm", "libvpx", "yuv420p", "libopus", True),
   ("e.mkv", "ffv1", "bgr0", "flac", True)],
)  # fmt: skip
def test_size_rate_length_and_sound_stay(put, tmp_path, name, codec, pixels, sound, copied):
  video = _write(tmp_path / name, codec, pixels, [sound])
  out = tmp_path / "new" / "out.mp4"
  put(out, video, edit_input.frames(video))
  again = edit_input.probe(out)
  for field in ("n_frames", "height", "width", "rate", "time_base"):
    assert again._asdict()[field] == video._asdict()[field], field
  assert again.ticks.tolist() == video.ticks.tolist()
  with av.open(str(out)) as container:
    stream = container.streams.video[0]
    assert stream.codec_context.name == "h264" and stream.average_rate == _NTSC
    assert stream.duration * stream.time_base == 24 / _NTSC
  shown = [frame.mean() for frame in edit_input.frames(again)]
  given = [frame.mean() for frame in edit_input.frames(video)]
  # Frames are 8 levels apart, so none has taken another's place.
  assert np.abs(np.array(shown) - given).max() < 3
  if copied:
    assert edit_output.notes(video) == []
    (data, times), (old_data, old_times) = _packets(out)[0], _packets(tmp_path / name)[0]
    assert data == old_data and len(data) > 5
    assert np.abs(np.array(times) - old_times).max() < 2e-3
  else:
    (note,) = edit_output.notes(video)
    assert "pcm_s16le" in note and "becomes aac" in note
    assert again.sounds == ("aac",)
    new, begin = _samples(out)
    old, _ = _samples(tmp_path / name)
    assert abs(begin) < 1e-3 and abs(len(new) - len(old)) <= 1024
    inner = slice(2000, 14_000)  # the codec fades in and out
    assert np.corrcoef(new[inner], old[inner])[0, 1] > 0.99


def test_every_sound_stream_and_its_delay_stay(tmp_path):
  video = _write(tmp_path / "v.mkv", "ffv1", "bgr0", ["aac", "flac"], rate=8, late=250)
  assert video.sounds == ("aac", "flac")
  edit_output.write(tmp_path / "out.mp4", video, edit_input.frames(video))
  old, new = _packets(tmp_path / "v.mkv"), _packets(tmp_path / "out.mp4")
  assert [data for data, _ in new] == [data for data, _ in old] and len(new) == 2
  for (_, a), (_, b) in zip(old, new, strict=True):
    assert abs(a[0] - b[0]) < 2e-3 and a[0] > 0.15


def test_pictures_that_begin_late_stay_late(put, tmp_path):
  path = tmp_path / "v.mkv"
  with av.open(str(path), "w") as container:
    video = container.add_stream("ffv1", rate=8)
    video.height, video.width, video.pix_fmt = 16, 16, "bgr0"
    track = container.add_stream("flac", rate=16_000, layout="mono")
    tone = av.AudioFrame.from_ndarray(
      np.zeros((1, 16_000), np.int16), format="s16", layout="mono"
    )
    tone.sample_rate, tone.pts = 16_000, 0
    tone.time_base = fractions.Fraction(1, 16_000)
    container.mux(track.encode(tone))
    container.mux(track.encode())
    for t in range(3):
      black = np.zeros((16, 16, 3), np.uint8)
      frame = av.VideoFrame.from_ndarray(black, format="rgb24").reformat(format="bgr0")
      frame.pts, frame.time_base = t + 4, fractions.Fraction(1, 8)
      container.mux(video.encode(frame))
    container.mux(video.encode())
  video = edit_input.probe(path)
  assert video.start == fractions.Fraction(1, 2)
  put(tmp_path / "out.mp4", video, edit_input.frames(video))
  with av.open(str(tmp_path / "out.mp4")) as container:
    shown = [f.pts * f.time_base for f in container.decode(video=0)]
  assert shown == [fractions.Fraction(t, 8) for t in (4, 5, 6)]
  assert _packets(tmp_path / "out.mp4")[0][1][0] == 0


class _Packet:
  """Of a packet what its place depends on."""

  def __init__(self, kind, dts, time_base):
    self.kind, self.dts, self.time_base = kind, dts, time_base


def test_packets_are_written_in_the_order_of_their_times():
  """Else the muxer keeps up to ten seconds of them."""
  written = []

  class Container:
    mux_one = staticmethod(written.append)

  pictures = (_Packet("picture", t, fractions.Fraction(1, 4)) for t in range(8))
  sound = (_Packet("sound", t, fractions.Fraction(1, 10)) for t in range(30))
  edit_output._interleave(Container(), pictures, sound)
  times = [packet.dts * packet.time_base for packet in written]
  assert len(written) == 38 and times == sorted(times)
  silent = iter(())
  written.clear()
  pictures = (_Packet("picture", t, fractions.Fraction(1, 4)) for t in range(8))
  edit_output._interleave(Container(), pictures, silent)
  assert len(written) == 8


def test_sound_lies_between_the_pictures_in_the_file(tmp_path):
  """So that a player need not seek."""
  video = _write(tmp_path / "v.mkv", "ffv1", "bgr0", ["aac"], rate=24)
  taken = []

  def frames():
    for frame in edit_input.frames(video):
      taken.append(frame)
      yield frame

  edit_output.write(tmp_path / "out.mp4", video, frames())
  with av.open(str(tmp_path / "out.mp4")) as container:
    places = {"video": [], "audio": []}
    for packet in container.demux():
      if packet.size:
        places[packet.stream.type].append(packet.pos)
  assert len(taken) == 24
  # A second of both: half of the sound lies before the last quarter of the pictures.
  middle = places["audio"][len(places["audio"]) // 2]
  assert places["video"][2] < middle < places["video"][20]


def test_odd_sides_are_padded_and_said(put, tmp_path):
  video = _write(tmp_path / "v.mkv", "ffv1", "bgr0", [], size=(17, 33), n=3)
  (note,) = edit_output.notes(video)
  assert note.startswith("33x17 is stored as 34x18")
  frames = np.zeros((3, 17, 33, 3), np.uint8)
  frames[:, -1], frames[:, :, -1] = 200, 200
  put(tmp_path / "out.mp4", video, iter(frames))
  again = edit_input.probe(tmp_path / "out.mp4")
  assert (again.height, again.width) == (18, 34)
  shown = next(edit_input.frames(again)).astype(int)
  assert np.abs(shown[-2:, :] - 200).max() < 25 and np.abs(shown[:, -2:] - 200).max() < 25
  assert shown[:14, :28].max() < 25


def test_turned_input_comes_out_upright(put, tmp_path):
  path = tmp_path / "v.mp4"
  with av.open(str(path), "w") as container:
    stream = container.add_stream("libx264", rate=8)
    stream.height, stream.width, stream.pix_fmt = 24, 32, "yuv420p"
    stream.codec_context.sample_aspect_ratio = fractions.Fraction(4, 3)
    stream.set_display_rotation(90)
    for _ in range(3):
      frame = av.VideoFrame.from_ndarray(np.zeros((24, 32, 3), np.uint8), format="rgb24")
      container.mux(stream.encode(frame))
    container.mux(stream.encode())
  video = edit_input.probe(path)
  put(tmp_path / "out.mp4", video, edit_input.frames(video))
  again = edit_input.probe(tmp_path / "out.mp4")
  assert (again.height, again.width, again.turns) == (32, 24, 0)
  assert again.pixel_aspect == video.pixel_aspect == fractions.Fraction(3, 4)


def test_uneven_times_stay(put, tmp_path):
  times, unit = [0, 40, 50, 210, 250], fractions.Fraction(1, 1000)
  with av.open(str(tmp_path / "v.mkv"), "w") as container:
    stream = container.add_stream("ffv1", rate=25)
    stream.height, stream.width, stream.pix_fmt = 16, 16, "bgr0"
    stream.codec_context.time_base = unit
    for time in times:
      black = np.zeros((16, 16, 3), np.uint8)
      frame = av.VideoFrame.from_ndarray(black, format="rgb24").reformat(format="bgr0")
      frame.pts, frame.time_base = time, unit
      container.mux(stream.encode(frame))
    container.mux(stream.encode())
  video = edit_input.probe(tmp_path / "v.mkv")
  put(tmp_path / "out.mp4", video, edit_input.frames(video))
  with av.open(str(tmp_path / "out.mp4")) as container:
    shown = [f.pts * f.time_base for f in container.decode(video=0)]
  assert [1000 * t for t in shown] == times


def test_nothing_stays_after_an_error(tmp_path):
  video = _write(tmp_path / "v.mp4", "libx264", "yuv420p", ["aac"])
  (tmp_path / "new").mkdir()
  out = tmp_path / "new" / "out.mp4"

  def broken(at):
    for number, frame in enumerate(edit_input.frames(video)):
      if number == at:
        raise RuntimeError("the model failed")
      yield frame

  for at in (0, 23):
    with pytest.raises(RuntimeError, match="the model failed"):
      edit_output.write(out, video, broken(at))
    assert list(out.parent.iterdir()) == []
  frames = list(edit_input.frames(video))
  for wrong, message in (
    (frames[:5], "5 frames were given, the video has 24"),
    ([*frames, frames[0]], "expected 24 frames"),
    ([frame[:20] for frame in frames], r"frame 0 is \(20, 32\)"),
  ):
    with pytest.raises(ValueError, match=message):
      edit_output.write(out, video, iter(wrong))
    assert list(out.parent.iterdir()) == []


def test_damaged_sound_is_named(tmp_path, monkeypatch):
  video = _write(tmp_path / "v.mkv", "ffv1", "bgr0", ["pcm_s16le"])

  def fail(*unused):
    raise av.error.InvalidDataError(1, "damaged")

  # A stream of samples cannot be damaged so that a decoder says it.
  monkeypatch.setattr(edit_output, "_encoded", fail)
  with pytest.raises(DataError, match="its sound cannot be decoded") as error:
    edit_output.write(tmp_path / "out.mp4", video, edit_input.frames(video))
  assert "\n" not in str(error.value) and not (tmp_path / "out.mp4").exists()


def test_segments_of_another_number_of_frames_are_refused(tmp_path):
  video = _write(tmp_path / "v.mkv", "ffv1", "bgr0", [], n=4)
  frames = np.stack(list(edit_input.frames(video)))
  edit_output.write_segment(tmp_path / "a.mp4", video, frames[:3])
  for paths, message in ((["a.mp4"], "hold 3 frames, the video has 4"),
                         (["a.mp4"] * 2, "more than the video's 4 frames")):  # fmt: skip
    with pytest.raises(ValueError, match=message):
      edit_output.join(tmp_path / "out.mp4", video, [tmp_path / p for p in paths])
  assert not (tmp_path / "out.mp4").exists()
