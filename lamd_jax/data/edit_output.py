# SPDX-License-Identifier: Apache-2.0
"""An edited video: the frames anew; size, times and sound as in the file it was made of.

Frames are encoded as they come, and packets of sound are written between them, so that
memory does not grow with the length.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from fractions import Fraction
import os
import pathlib

import av
from av.container import InputContainer
from av.container import OutputContainer
from av.video.reformatter import VideoReformatter
import numpy as np

from lamd_jax import media
from lamd_jax.data import video_file
from lamd_jax.data.edit_input import sound_codec, UserVideo
from lamd_jax.errors import DataError

# Sound that players expect in an mp4: copied as it is. Other sound becomes AAC.
_COPIED = ("aac", "mp3", "ac3", "eac3", "alac", "opus", "flac")
_AAC_RATES = (8000, 11_025, 12_000, 16_000, 22_050, 24_000, 32_000, 44_100, 48_000)
_FINEST = 10_000  # ticks a second that the file's clock has at least


def notes(video: UserVideo) -> list[str]:
  """Returns a line for each thing that `write` cannot keep as it was."""
  found = []
  height, width = video.height + video.height % 2, video.width + video.width % 2
  if (height, width) != (video.height, video.width):
    found.append(
      f"{video.width}x{video.height} is stored as {width}x{height}: H.264 takes even"
      " sides, the last row or column is repeated"
    )
  for number, codec in enumerate(video.sounds):
    if not codec:
      found.append(f"sound {number} is of an unknown codec and is left out")
    elif codec not in _COPIED:
      found.append(f"sound {number} is {codec}, which mp4 does not take: it becomes aac")
  return found


def write(
  path: str | os.PathLike[str], video: UserVideo, frames: Iterable[np.ndarray]
) -> None:
  """Writes an mp4 with the given frames at the times of `video`, and with its sound.

  Args:
    path: the mp4; it gets its name when it is whole, nothing stays after an error.
    video: what `edit_input.probe` returned.
    frames: video.n_frames arrays [H,W,3] uint8 of its height and width, taken one by
      one.

  Raises:
    DataError: the sound cannot be read.
    ValueError: frames of another size or number.
  """
  clock = _clock(video)

  def write_to(container: OutputContainer, source: InputContainer) -> None:
    stream = _add_stream(container, video, {})
    sound = _sound(source, container, video)
    _interleave(container, _pictures(stream, video, frames, clock), sound)

  _beside(path, video, clock, write_to)


def write_segment(
  path: str | os.PathLike[str], video: UserVideo, frames: np.ndarray
) -> None:
  """Writes some of the frames, [n,H,W,3] uint8, as an mp4 that `join` can join.

  It begins with a keyframe and has no B-frames, so that its pictures lie in the order
  in which they are shown; times and sound come when it is joined.
  """
  frames = media.even(media.check_frames(frames))
  converter = VideoReformatter()

  def write_to(partial: pathlib.Path) -> None:
    with av.open(str(partial), "w") as container:
      stream = _add_stream(container, video, {"bf": "0"})
      for number, frame in enumerate(frames):
        picture = media.to_yuv(converter, frame)
        picture.pts, picture.time_base = number, video.time_base
        container.mux(stream.encode(picture))
      container.mux(stream.encode())

  media.atomically(path, write_to)


def join(
  path: str | os.PathLike[str], video: UserVideo,
  segments: Sequence[str | os.PathLike[str]],
) -> None:  # fmt: skip
  """Writes an mp4 of all segments, as `write` does of frames; nothing is encoded again.

  Raises:
    DataError: the sound cannot be read.
    ValueError: the segments do not have the video's number of frames.
  """
  clock = _clock(video)

  def write_to(container: OutputContainer, source: InputContainer) -> None:
    with av.open(str(segments[0])) as first:
      stream = container.add_stream_from_template(first.streams.video[0], opaque=True)
    sound = _sound(source, container, video)
    _interleave(container, _copied(stream, video, segments, clock), sound)

  _beside(path, video, clock, write_to)


def _clock(video: UserVideo) -> int:
  """Ticks a second of the file; a tick of the video is a whole number of them."""
  clock = video.time_base.denominator
  return clock * -(-_FINEST // clock)


def _beside(
  path: str | os.PathLike[str], video: UserVideo, clock: int,
  write_to: Callable[[OutputContainer, InputContainer], None],
) -> None:  # fmt: skip
  """Opens the mp4 that is to be, and the file that its sound comes from."""
  options = {"movflags": "+faststart", "video_track_timescale": str(clock)}

  def write_file(partial: pathlib.Path) -> None:
    with (
      av.open(str(partial), "w", options=options) as container,
      video_file.open_file(video.path) as source,
    ):
      write_to(container, source)

  media.atomically(path, write_file)


def _add_stream(
  container: OutputContainer, video: UserVideo, options: dict[str, str]
) -> av.VideoStream:
  height, width = video.height + video.height % 2, video.width + video.width % 2
  stream = media.add_h264(container, video.rate, height, width, options)
  stream.codec_context.time_base = video.time_base
  stream.codec_context.sample_aspect_ratio = video.pixel_aspect
  return stream


def _copied(
  stream: av.VideoStream, video: UserVideo,
  segments: Sequence[str | os.PathLike[str]], clock: int,
) -> Iterator[av.Packet]:  # fmt: skip
  """Yields the segments' packets one after the other, at the video's times."""
  scale, start = int(video.time_base * clock), round(video.start * clock)
  ticks = [*video.ticks.tolist(), int(2 * video.ticks[-1] - video.ticks[-2])]
  number = 0
  for path in segments:
    with av.open(str(path)) as segment:
      for packet in segment.demux(segment.streams.video[0]):
        if packet.dts is None:  # the end, no packet
          continue
        if number == video.n_frames:
          raise ValueError(f"{path}: holds more than the video's {number} frames")
        packet.time_base = Fraction(1, clock)
        packet.pts = packet.dts = ticks[number] * scale + start
        packet.duration = (ticks[number + 1] - ticks[number]) * scale
        packet.stream = stream
        number += 1
        yield packet
  if number != video.n_frames:
    raise ValueError(f"segments hold {number} frames, the video has {video.n_frames}")


def _pictures(
  stream: av.VideoStream, video: UserVideo, frames: Iterable[np.ndarray], clock: int
) -> Iterator[av.Packet]:
  """Yields encoded frames, their times in ticks of `clock`."""
  scale, start = int(video.time_base * clock), round(video.start * clock)
  converter, number = VideoReformatter(), 0

  def timed(packets: Iterable[av.Packet]) -> Iterator[av.Packet]:
    for packet in packets:
      packet.pts = packet.pts * scale + start
      packet.dts = packet.dts * scale + start
      packet.duration = (packet.duration or 0) * scale
      packet.time_base = Fraction(1, clock)
      yield packet

  for frame in frames:
    frame = media.check_frames(frame[None])
    if frame.shape[1:3] != (video.height, video.width) or number == video.n_frames:
      raise ValueError(
        f"frame {number} is {frame.shape[1:3]}; expected {video.n_frames} frames of"
        f" {(video.height, video.width)}"
      )
    picture = media.to_yuv(converter, media.even(frame)[0])
    picture.pts, picture.time_base = int(video.ticks[number]), video.time_base
    yield from timed(stream.encode(picture))
    number += 1
  if number != video.n_frames:
    raise ValueError(f"{number} frames were given, the video has {video.n_frames}")
  yield from timed(stream.encode())


def _sound(
  source: InputContainer,
  container: OutputContainer,
  video: UserVideo,
) -> Iterator[av.Packet]:
  """Adds the sound streams at once; returns the packets that they are to get."""
  made = {}
  for stream in source.streams.audio:
    codec = sound_codec(stream)
    if codec in _COPIED:
      made[stream.index] = (container.add_stream_from_template(stream), True)
    elif codec:
      made[stream.index] = (_aac(container, stream), False)
  return _packets(source, made, video) if made else iter(())


def _aac(
  container: OutputContainer, source: av.AudioStream
) -> av.AudioStream:
  rate = source.codec_context.sample_rate
  # The lowest that loses nothing, else the highest there is.
  rate = next((r for r in _AAC_RATES if r >= rate), _AAC_RATES[-1])
  layout = "mono" if source.codec_context.channels == 1 else "stereo"
  return container.add_stream("aac", rate=rate, layout=layout)


def _packets(
  source: InputContainer,
  made: dict[int, tuple[av.AudioStream, bool]],
  video: UserVideo,
) -> Iterator[av.Packet]:
  """Yields packets, the file's beginning at 0; `made` says which are copied."""
  begin = max(Fraction(source.start_time or 0, av.time_base), Fraction(0))
  try:
    for packet in source.demux([source.streams[index] for index in made]):
      stream, copied = made[packet.stream.index]
      if packet.dts is not None:
        late = round(begin / packet.time_base)
        packet.pts, packet.dts = packet.pts - late, packet.dts - late
      if not copied:
        yield from _encoded(packet, stream)
      elif packet.dts is not None:  # else it is the end, no packet
        packet.stream = stream
        yield packet
  except av.FFmpegError as error:
    raise DataError(
      f"video={video.path}: its sound cannot be decoded ({type(error).__name__}); give"
      " a file without it"
    ) from error
  for stream, copied in made.values():
    if not copied:
      yield from stream.encode()


def _encoded(packet: av.Packet, stream: av.AudioStream) -> Iterator[av.Packet]:
  for frame in packet.decode():
    yield from stream.encode(frame)


def _interleave(
  container: OutputContainer,
  pictures: Iterator[av.Packet],
  sound: Iterator[av.Packet],
) -> None:
  """Writes both in the order of their times: players read a file once, forwards."""
  waiting = next(sound, None)
  for picture in pictures:
    while waiting is not None and _begins(waiting) <= _begins(picture):
      container.mux_one(waiting)
      waiting = next(sound, None)
    container.mux_one(picture)
  while waiting is not None:
    container.mux_one(waiting)
    waiting = next(sound, None)


def _begins(packet: av.Packet) -> Fraction:
  return packet.dts * packet.time_base
