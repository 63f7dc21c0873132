# SPDX-License-Identifier: Apache-2.0
"""A long video as closed mp4 segments, joined at the end without encoding again.

Frames are encoded once, when they are finished. The segments follow each other in one
stream because all are encoded alike, begin with a keyframe and have no B-frames, so
that the frames of a file lie in the order in which they are shown.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
import fractions
import itertools
import os
import pathlib

import av
from av.video.reformatter import VideoReformatter
import numpy as np
from PIL import Image

from lamd_jax import media
from lamd_jax.errors import DataError

# Nothing rests on equal bytes: of some thousand short clips that were
# encoded again, libx264 wrote one or two with other quantizers.
_OPTIONS = {"bf": "0"}


def write_segment(
  path: str | os.PathLike[str], frames: np.ndarray, fps: float
) -> None:
  """Writes frames [n,H,W,3] uint8, n >= 1, as an mp4 that `join` can join."""
  media.encode_mp4(path, frames, fps, _OPTIONS)


def join(
  paths: Sequence[str | os.PathLike[str]], out: str | os.PathLike[str], fps: float
) -> int:
  """Writes the segments one after the other into one mp4; returns its frames.

  Packets are copied and get new times: frame i begins at i / fps exactly, whatever
  the files before it say of their duration. One segment is open at a time.

  Raises:
    DataError: a segment was encoded otherwise than the first.
  """
  if not paths:
    raise ValueError("no segment to join")
  rate = media.rate(fps)
  tick = 1 / rate
  # A clock in which a frame is a whole number of ticks, at least 10000 a second.
  clock = rate.numerator * -(-10_000 // rate.numerator)
  options = {"movflags": "+faststart", "video_track_timescale": str(clock)}
  total = 0

  def write(partial: pathlib.Path) -> None:
    nonlocal total
    with av.open(str(partial), "w", options=options) as container:
      stream, head = None, None
      for path in paths:
        with av.open(str(path)) as segment:
          source = segment.streams.video[0]
          if stream is None:
            head = source.codec_context.extradata
            stream = container.add_stream_from_template(source, opaque=True)
          # The parameter sets are stored once for the whole file.
          elif source.codec_context.extradata != head:
            raise DataError(f"{path}: not encoded as {paths[0]}; they cannot be joined")
          total = _copy(segment, container, stream, total, tick)

  media.atomically(out, write)
  return total


def _copy(
  segment: av.container.InputContainer,
  container: av.container.OutputContainer,
  stream: av.VideoStream,
  begin: int,
  tick: fractions.Fraction,
) -> int:
  """Copies a segment whose first frame is frame `begin`; returns where it ends."""
  for packet in segment.demux(segment.streams.video[0]):
    if packet.dts is None:  # the end, no packet
      continue
    packet.time_base = tick
    packet.pts = packet.dts = begin
    packet.duration = 1
    packet.stream = stream
    container.mux_one(packet)
    begin += 1
  return begin


def read_frame(path: str | os.PathLike[str], index: int) -> np.ndarray:
  """Decodes frame `index` of a segment, [H,W,3] uint8."""
  for i, frame in enumerate(decode(path)):
    if i == index:
      return frame
  raise DataError(f"{path}: has no frame {index}")


def decode(path: str | os.PathLike[str]) -> Iterator[np.ndarray]:
  """Yields the frames [H,W,3] uint8 of a file, one in memory at a time."""
  converter = VideoReformatter()
  with av.open(str(path)) as container:
    for frame in container.decode(container.streams.video[0]):
      yield media.convert(converter, frame, format="rgb24").to_ndarray()


def write_gif(
  video: str | os.PathLike[str],
  out: str | os.PathLike[str],
  pictures: Sequence[np.ndarray],
  fps: float,
) -> None:
  """Writes a looping GIF of a video file, frame by frame.

  Args:
    video: an mp4.
    out: the GIF.
    pictures: frames of the video, [h,w,3] uint8, of which the one palette is made.
    fps: frames a second; above 50 viewers play it slower.
  """
  strip = Image.fromarray(np.concatenate(list(pictures), axis=1))
  colours = strip.quantize(256, method=Image.Quantize.MEDIANCUT)
  rgb = np.array(colours.getpalette(), np.uint8).reshape(-1, 3)
  palette = np.full((256, 4), 255, np.uint8)  # alpha first
  palette[: len(rgb), 1:] = rgb

  def write(partial: pathlib.Path) -> None:
    with av.open(str(partial), "w") as container:
      stream = container.add_stream("gif", rate=media.rate(min(fps, 50)))
      frames = decode(video)
      first = next(frames)
      stream.height, stream.width = first.shape[:2]  # `pictures` may be smaller
      stream.pix_fmt = "pal8"
      for frame in itertools.chain([first], frames):
        indexed = Image.fromarray(frame).quantize(
          palette=colours, dither=Image.Dither.FLOYDSTEINBERG
        )
        picture = av.VideoFrame.from_ndarray(
          (np.asarray(indexed), palette), format="pal8"
        )
        container.mux(stream.encode(picture))
      container.mux(stream.encode())

  media.atomically(out, write)
