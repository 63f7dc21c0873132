# SPDX-License-Identifier: Apache-2.0
"""Video files through PyAV: decoded once from end to end, later by the frame.

A corrupt file often decodes short without an exception, so the number of frames, not
the absence of errors, is the check. Any exception may leave these functions; callers
catch them per file.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
import os
from typing import NamedTuple

import av
from av.video.reformatter import VideoReformatter
import numpy as np

from lamd_jax import media
from lamd_jax.errors import DataError

SUFFIXES = (".mp4", ".m4v", ".mov", ".avi", ".webm", ".mkv", ".gif")

# Frames. What lies between a keyframe and a clip is decoded for nothing; closer ones save
# little, and lengthen the index by some twelve bytes each.
_KEYFRAME_SPACING = 8
# Where FFmpeg can tell which frames no other frame leans on.
_SKIPPING = ("h264",)


class Facts(NamedTuple):
  """What a full decode tells."""

  n_frames: int
  fps: float  # frames a second, 0: none stored
  height: int  # upright, as width
  width: int
  keyframes: tuple[tuple[int, int], ...]  # (frame, pts), first frame left out
  # (pts of frame 0, from one frame to the next) where all are as far apart, else ().
  grid: tuple[int, ...]


def open_file(path: str | os.PathLike[str]) -> av.container.InputContainer:
  """Opens a local video file that the caller closes; see `media.open_video`."""
  return media.open_video(path)


def _decode(container, stream) -> Iterator[av.VideoFrame]:
  # The loader's threads each hold a file; threads inside a decoder would only fight.
  stream.codec_context.thread_count = 1
  yield from container.decode(stream)


def probe(path: str | os.PathLike[str]) -> Facts:
  """Decodes the whole file. Raises DataError if frames are missing or change size."""
  with open_file(path) as container:
    if not container.streams.video:
      raise DataError("holds no video stream")
    stream = container.streams.video[0]
    declared, fps = stream.frames, float(stream.average_rate or 0)
    count, shape, turned, keyframes, last_key, times = 0, None, 0, [], 0, []
    for frame in _decode(container, stream):
      shape, turned = shape or (frame.height, frame.width), media.turns(frame)
      if (frame.height, frame.width) != shape:
        raise DataError(f"changes its size at frame {count}")
      if frame.key_frame and frame.pts is not None:
        if count - last_key >= _KEYFRAME_SPACING:
          keyframes.append((count, int(frame.pts)))
          last_key = count
      times.append(frame.pts)
      count += 1
  if not count:
    raise DataError("decodes to no frame")
  # Edit lists and packed B-frames cost a frame or two; damage costs more.
  if declared - count > max(2, 0.02 * declared):
    raise DataError(f"decodes to {count} of the {declared} frames it declares")
  shape = shape[::-1] if turned % 2 else shape
  return Facts(count, fps, *shape, tuple(keyframes), _grid(times))


def _grid(times: Sequence[int | None]) -> tuple[int, ...]:
  if len(times) < 2 or None in times:
    return ()
  start, step = int(times[0]), int(times[1] - times[0])
  even = all(time == start + i * step for i, time in enumerate(times))
  return (start, step) if even and step > 0 else ()


def read(
  path: str | os.PathLike[str],
  frames: Sequence[int],
  n_frames: int,
  keyframes: Sequence[tuple[int, int]] = (),
  pixels: str = "rgb24",
  grid: Sequence[int] = (),
  sides: tuple[int, int] | None = None,
) -> np.ndarray:
  """Returns the frames [T,H,W,3] uint8, upright, at non-decreasing indices `frames` [T].

  `pixels` = gray16le takes their brightness, [T,H,W] uint16, black 0, white 65535.
  `keyframes` and `grid` are as in Facts; both save work and change no pixel. With `sides`
  frames are scaled to [H,W] while colours are still at theirs, by area-aware bilinear
  weights; files that hold RGB are not, theirs is another way.
  Raises DataError if the file ends before the last of them.
  """
  first, last = int(frames[0]), int(frames[-1])
  before = [key for key in keyframes if key[0] <= first]
  wanted = set(int(i) for i in frames)
  with open_file(path) as container:
    stream = container.streams.video[0]
    found, converter = {}, VideoReformatter()
    key = before[-1] if before else None
    if grid and stream.codec_context.name in _SKIPPING:
      numbered = _skipping(container, stream, key, wanted, grid)
    else:
      numbered = _numbered(container, stream, key)
    for number, frame in numbered:
      if number in wanted:
        turns = media.turns(frame)
        scaled = sides[::-1] if sides and turns % 2 else sides
        picture = to_array(frame, pixels, converter, scaled)
        found[number] = np.rot90(picture, turns)
      if number >= last:
        break
  if len(found) < len(wanted):
    end = max(found, default=-1)
    raise DataError(f"frame {last} of {n_frames} is not there, the last found is {end}")
  return np.stack([found[int(i)] for i in frames])


def to_array(
  frame: av.VideoFrame,
  pixels: str,
  converter: VideoReformatter,
  sides: tuple[int, int] | None = None,
) -> np.ndarray:
  """Returns a frame's pixels: rgb24 [H,W,3] or gray [H,W] uint8, gray16le [H,W] uint16.

  `sides`: see `read`; as the frame is stored.

  FFmpeg fills the last columns of 16-bit grey made of 8-bit frames with other numbers at
  each call; these are converted in 8 bits.
  """
  if pixels == "gray16le" and frame.format.components[0].bits <= 8:
    grey = media.convert(converter, frame, format="gray").to_ndarray()
    return grey.astype(np.uint16) * 257
  if sides is None or frame.format.is_rgb or frame.format.has_palette:
    sides = (frame.height, frame.width)
  height, width = sides
  converted = media.convert(converter, frame, format=pixels, height=height, width=width)
  return converted.to_ndarray()


def _numbered(container, stream, key: tuple[int, int] | None):
  """Yields (index, frame), from keyframe `key` (index, pts) or from the beginning."""
  if key is None:
    yield from enumerate(_decode(container, stream))
    return
  index, pts = key
  container.seek(pts, stream=stream)
  for frame in _decode(container, stream):
    # Frames before the keyframe lean on a group that was not decoded.
    if index == key[0] and (frame.pts is None or frame.pts < pts):
      continue
    if index == key[0] and frame.pts != pts:
      raise DataError(f"keyframe {pts} is not where the index says")
    yield index, frame
    index += 1


def _skipping(container, stream, key: tuple[int, int] | None, wanted: set[int], grid):
  """Yields (index, frame) as `_numbered`, some of those that are not `wanted` left out.

  Those are frames that no other leans on, about half of x264's: they are not decoded.
  """
  start, step = grid
  if key is not None:
    container.seek(key[1], stream=stream)
  context = stream.codec_context
  context.thread_count = 1  # more would decode packets ahead of their setting
  times = {start + i * step for i in wanted}
  for packet in container.demux(stream):
    # Off the grid lies what is no whole frame, such as the second field of one.
    whole = packet.pts is not None and (packet.pts - start) % step == 0
    context.skip_frame = "NONREF" if whole and packet.pts not in times else "DEFAULT"
    for frame in packet.decode():
      # Not counted: some are missing. Frames of a group that was not decoded lie before
      # the keyframe, and so before all that is wanted.
      if frame.pts is None or (frame.pts - start) % step:
        raise DataError(f"a frame at pts {frame.pts} is not where the index says")
      yield (frame.pts - start) // step, frame
