# SPDX-License-Identifier: Apache-2.0
"""A user's video that is to be edited, and its mask, at constant memory.

`probe` decodes the file once and says what it holds; `frames` decodes it again, frame by
frame; `windows` groups what it yields. Frames stand upright: where a camera stored a
turn beside the pixels it is carried out, and heights and widths are those after it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
import contextlib
from fractions import Fraction
import itertools
import os
from typing import NamedTuple

import av
from av.stream import Disposition
from av.video.reformatter import VideoReformatter
import numpy as np
from PIL import Image
from PIL import ImageOps

from lamd_jax import media
from lamd_jax.data import frame_folder
from lamd_jax.data import video_file
from lamd_jax.errors import DataError

_WHITE = 128  # of 255: a mask is 1 from here on
_MISSING = 0.02  # share of a file that may be missing, beside two frames


class UserVideo(NamedTuple):
  """A video that was decoded from end to end."""

  path: str
  what: str  # what messages call it: video | mask
  n_frames: int
  height: int  # pixels, upright
  width: int
  rate: Fraction  # frames a second, of an uneven video on average
  ticks: np.ndarray  # [N] int64: frame i is shown ticks[i] * time_base after the first
  time_base: Fraction  # seconds; 1 / rate where frames come evenly, ticks are 0, 1, ...
  start: Fraction  # seconds from the file's beginning to the first frame
  turns: int  # quarter turns, anticlockwise, that made it upright
  pixel_aspect: Fraction  # width over height of a pixel, upright
  sounds: tuple[str, ...]  # codecs of its sound streams, "" where it is unknown


class Window(NamedTuple):
  """Some consecutive frames."""

  start: int  # number of the first
  frames: np.ndarray  # [size,...]; a shorter video's last frame is repeated
  fresh: int  # the first of `frames` that no window before had
  count: int  # of `frames`, without repetitions


class Mask(NamedTuple):
  """What of a video is to be edited: one picture for all frames, or a video."""

  still: np.ndarray | None  # [H,W] uint8, as the video's frames
  video: UserVideo | None
  note: str  # a line that says what was done to make it fit, "" if nothing


@contextlib.contextmanager
def _named(what: str, path: str) -> Iterator[None]:
  """Makes one line of what a decoder says of a bad file."""
  try:
    yield
  except DataError as error:
    raise DataError(f"{what}={path}: {error}") from error
  except (OSError, ValueError, IndexError, av.FFmpegError) as error:
    found = os.path.exists(path)
    reason = "cannot be decoded" if found else "no such file"
    raise DataError(
      f"{what}={path}: {reason} ({type(error).__name__}); give an mp4, mov, mkv, webm,"
      " avi or gif that a player shows to its end"
    ) from error


def _stream(container: av.container.InputContainer) -> av.VideoStream:
  """Returns the first moving picture; a cover of music is a stream too, but still."""
  for stream in container.streams.video:
    if not stream.disposition & Disposition.attached_pic:
      return stream
  raise DataError("holds no video stream; give a video")


def sound_codec(stream: av.AudioStream) -> str:
  """Returns a codec's name, whichever decoder it is read by; "" if there is none."""
  # A decoder's own name can be another: mp3float.
  context = stream.codec_context
  return context.codec.canonical_name if context is not None else ""


def _seconds(ticks: int | None, unit: Fraction) -> Fraction:
  return Fraction(ticks or 0) * unit


def probe(path: str | os.PathLike[str], what: str = "video") -> UserVideo:
  """Decodes a file once from end to end, one frame in memory at a time.

  Args:
    path: the file.
    what: how messages call it.

  Raises:
    DataError: one line; a folder, no video, a single frame, a file that ends early or
      changes its size.
  """
  path = os.fspath(path)
  if os.path.isdir(path):
    raise DataError(f"{what}={path}: is a folder; give one video file")
  with _named(what, path), video_file.open_file(path) as container:
    return _walk(path, what, container)


def _walk(
  path: str, what: str, container: av.container.InputContainer
) -> UserVideo:
  """Decodes the stream and listens where the others end."""
  stream = _stream(container)
  stream.codec_context.thread_count = 1
  shape, turns, times, packets, end = None, 0, [], 0, Fraction(0)
  for packet in container.demux():
    if packet.size and packet.pts is not None:
      end = max(end, _seconds(packet.pts + (packet.duration or 0), packet.time_base))
    if packet.stream is not stream:
      continue
    packets += bool(packet.size) and not packet.is_discard
    for frame in packet.decode():
      turns = media.turns(frame)
      shape = shape or (frame.height, frame.width)
      if (frame.height, frame.width) != shape:
        raise DataError(f"changes its size at frame {len(times)}; encode it anew")
      times.append(frame.pts)
  rate = stream.average_rate or stream.guessed_rate
  _check_whole(len(times), packets, end, container, rate)
  ticks, unit, first = _clock(times, stream.time_base, rate)
  aspect = stream.sample_aspect_ratio or Fraction(1)
  if turns % 2:
    shape, aspect = shape[::-1], 1 / aspect
  start = first - max(Fraction(container.start_time or 0, av.time_base), Fraction(0))
  sounds = tuple(map(sound_codec, container.streams.audio))
  return UserVideo(
    path, what, len(times), *shape, rate, ticks, unit, max(start, Fraction(0)), turns,
    aspect, sounds,
  )  # fmt: skip


def _check_whole(
  count: int,
  packets: int,
  end: Fraction,
  container: av.container.InputContainer,
  rate: Fraction | None,
) -> None:
  if not count or not rate:
    raise DataError("decodes to no frame; give a video that a player shows")
  if count == 1:
    raise DataError("has one frame; a video has at least 2, an image is given as image")
  # A corrupt file often decodes short without an exception.
  if packets - count > max(2, _MISSING * packets):
    raise DataError(f"decodes to {count} of its {packets} frames; it is damaged")
  declared = Fraction(container.duration or 0, av.time_base)
  begin = Fraction(container.start_time or 0, av.time_base)
  if declared - (end - begin) > max(2 / rate, _MISSING * declared):
    raise DataError(
      f"ends after {float(end - begin):.2f} of the {float(declared):.2f} s that it"
      " declares; it was cut off, copy it again"
    )


def _clock(
  times: list[int | None], unit: Fraction, rate: Fraction
) -> tuple[np.ndarray, Fraction, Fraction]:
  """Returns ticks [N] from 0 on, seconds a tick, and the second of the first frame."""
  count = len(times)
  first = _seconds(times[0], unit)
  even = np.arange(count, dtype=np.int64), 1 / rate, first
  if None in times or (np.diff(times) <= 0).any():
    return even
  ticks = np.array(times, np.int64) - times[0]
  # Some containers round to milliseconds: within a tick or so, frames come evenly.
  off = np.abs(ticks * float(unit) - even[0] / float(rate))
  return even if off.max() <= 1.5 * float(unit) else (ticks, unit, first)


def frames(video: UserVideo, pixels: str = "rgb24") -> Iterator[np.ndarray]:
  """Yields the frames upright, [H,W,3] uint8 or as `video_file.to_array` says."""
  converter, number = VideoReformatter(), 0
  with _named(video.what, video.path), video_file.open_file(video.path) as container:
    stream = _stream(container)
    stream.codec_context.thread_count = 1
    for frame in container.decode(stream):
      picture = video_file.to_array(frame, pixels, converter)
      yield np.ascontiguousarray(np.rot90(picture, video.turns))
      number += 1
    if number != video.n_frames:
      raise DataError(f"had {video.n_frames} frames before and has {number} now")


def window_starts(n_frames: int, size: int, overlap: int) -> list[int]:
  """Returns where windows of `size` frames begin that cover all frames.

  Neighbours share `overlap` frames, the last two what it takes for the last to end with
  the video. A video shorter than a window has one.
  """
  if not 0 <= overlap < size:
    raise ValueError(f"overlap={overlap}: must lie in 0 to {size - 1}")
  starts = list(range(0, max(n_frames - size, 0), size - overlap))
  return [*starts, max(n_frames - size, 0)]


def windows(
  source: Iterable[np.ndarray], n_frames: int, size: int, overlap: int
) -> Iterator[Window]:
  """Groups `n_frames` arrays, frames or masks, into windows; holds one at a time.

  The same arguments give the same windows of a video and of its mask.
  """
  left = iter(source)
  held: list[np.ndarray] = []
  begin = 0
  for start in window_starts(n_frames, size, overlap):
    del held[: start - begin]
    fresh, begin = len(held), start
    held.extend(itertools.islice(left, min(size, n_frames - start) - fresh))
    repeated = [held[-1]] * (size - len(held))
    yield Window(start, np.stack(held + repeated), fresh, len(held))


def fit(pictures: np.ndarray, height: int, width: int) -> np.ndarray:
  """Stretches pictures [N,H,W,3] or [N,H,W] uint8 to a size, without aliasing."""
  if pictures.shape[1:3] == (height, width):
    return pictures
  return np.stack([
    np.asarray(Image.fromarray(p).resize((width, height), Image.Resampling.BICUBIC))
    for p in pictures
  ])  # fmt: skip


def _picture(path: str) -> np.ndarray:
  try:
    with Image.open(path) as picture:
      upright = ImageOps.exif_transpose(picture)
      if upright.mode.startswith("I;16"):  # "L" would clip it, see frame_folder.rgb
        return frame_folder.rgb(upright)[..., 0]
      if upright.has_transparency_data:  # what is not painted is not edited
        black = Image.new("RGBA", upright.size, "black")
        upright = Image.alpha_composite(black, upright.convert("RGBA"))
      return np.asarray(upright.convert("L"))
  except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
    reason = "cannot be read" if os.path.exists(path) else "no such file"
    raise DataError(f"mask={path}: {reason}; give a PNG, a JPEG or a video") from error


def open_mask(path: str | os.PathLike[str], video: UserVideo) -> Mask:
  """Reads the mask of a video: white is edited, black stays.

  A picture holds for all frames; a video must have as many frames as the one it masks.
  Another size is stretched, and `Mask.note` says so.

  Raises:
    DataError: one line; no picture or video, or another number of frames.
  """
  path = os.fspath(path)
  still = moving = None
  if path.lower().endswith(frame_folder.SUFFIXES) and not os.path.isdir(path):
    still = _picture(path)
    height, width = still.shape
    still = fit(still[None], video.height, video.width)[0]
  else:
    moving = probe(path, "mask")
    height, width = moving.height, moving.width
    if moving.n_frames != video.n_frames:
      raise DataError(
        f"mask={path}: {moving.n_frames} frames, the video has {video.n_frames}; give a"
        " mask a frame, or one picture for all"
      )
  note = ""
  if (height, width) != (video.height, video.width):
    note = (
      f"mask={path}: {width}x{height} stretched to the video's"
      f" {video.width}x{video.height}"
    )
  return Mask(still, moving, note)


def mask_frames(mask: Mask, video: UserVideo) -> Iterator[np.ndarray]:
  """Yields a mask [H,W,1] uint8 for each frame of the video, 1 where it is edited."""
  if mask.still is not None:
    source = itertools.repeat(mask.still, video.n_frames)
  else:
    source = frames(mask.video, "gray")
  for picture in source:
    fitted = fit(picture[None], video.height, video.width)[0]
    yield (fitted >= _WHITE).astype(np.uint8)[..., None]
