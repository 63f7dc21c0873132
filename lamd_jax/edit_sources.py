# SPDX-License-Identifier: Apache-2.0
"""What an edit is made of: a video, its mask and its depth, read frame by frame.

Each may be a file or an array. Nothing here holds more than a frame of a file.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from fractions import Fraction
import os
import tempfile
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from lamd_jax import media
from lamd_jax.clip import Clip
from lamd_jax.data import edit_input
from lamd_jax.errors import DataError
from lamd_jax.ops.depth import HIGH
from lamd_jax.ops.depth import LOW

Frames = Callable[[], Iterator[np.ndarray]]  # from the first on, as often as called
_LONGEST = 2  # a frame's long side, as a multiple of the short one
_BINS = 65_536  # of the histogram that the depth's percentiles are read off
_FLAT = 1e-6  # a range, relative to its ends, that is rounding and no structure


class Footage(NamedTuple):
  """A video to be edited."""

  video: edit_input.UserVideo  # of an array, all but `path` is said of it too
  frames: Frames  # [H,W,3] uint8


def is_file(given: Any) -> bool:
  return isinstance(given, str | os.PathLike)


def footage(given: Any, fps: float) -> Footage:
  """Reads a video's facts.

  Args:
    given: a file's path, a `Clip`, or an array [T,H,W,3] uint8.
    fps: of an array, frames a second.

  Raises:
    DataError: no video, or one of a single frame.
  """
  if is_file(given):
    video = edit_input.probe(given)
    return Footage(video, lambda: edit_input.frames(video))
  if isinstance(given, Clip):
    given, fps = given
  try:
    frames = media.check_frames(given)
  except ValueError as error:
    raise DataError(f"video: {error}") from error
  count, height, width, _ = frames.shape
  if count == 1:
    raise DataError("video: has one frame; a video has at least 2")
  rate = media.rate(fps)
  video = edit_input.UserVideo(
    "(an array)", "video", count, height, width, rate, np.arange(count), 1 / rate,
    Fraction(0), 0, Fraction(1), (),
  )  # fmt: skip
  return Footage(video, lambda: iter(frames))


def masks(given: Any, video: edit_input.UserVideo) -> tuple[Frames | None, str]:
  """Reads a mask.

  Args:
    given: a video's or picture's path, an array [H,W] or [T,H,W] whose white or True
      is edited, or None for none.
    video: what is masked.

  Returns:
    (masks [H,W,1] uint8, 1 where the video is edited; a note on what was done to it)

  Raises:
    DataError: it does not belong to the video.
  """
  if given is None:
    return None, ""
  if is_file(given):
    mask = edit_input.open_mask(given, video)
  else:
    array = np.asarray(given)
    array = 255 * array.astype(np.uint8) if array.dtype == bool else array
    sizes = (video.n_frames, video.height, video.width)
    if array.dtype != np.uint8 or array.shape not in (sizes, sizes[1:]):
      raise DataError(
        f"mask: an array of {array.dtype} {array.shape}; give bool or uint8 {sizes[1:]}"
        f" or {sizes}, as the video"
      )
    if array.ndim == 3:
      return lambda: ((frame >= 128).astype(np.uint8)[..., None] for frame in array), ""
    mask = edit_input.Mask(array, None, "")
  return lambda: edit_input.mask_frames(mask, video), mask.note


def working_size(
  video: edit_input.UserVideo, size: int, multiple: int
) -> tuple[int, int, str]:
  """Returns the height and width at which a network edits a video, and a note.

  Networks of convolutions and attention take frames of any shape. The short side is
  the one that was trained, so that things have the size that the network knows them
  at; the other follows the picture's shape, in steps, and up to a bound.

  Args:
    video: its size and the shape of its pixels.
    size: of the frames that the network was trained on.
    multiple: what it can take; divides `size`.
  """
  ratio = float(video.width * video.pixel_aspect / video.height)
  long = size * max(ratio, 1 / ratio)
  long = min(round(long / multiple) * multiple, _LONGEST * size)
  height, width = (size, long) if ratio >= 1 else (long, size)
  note = ""
  if (height, width) != (video.height, video.width):
    note = (
      f"{video.what}={video.path}: {video.width}x{video.height} is edited at"
      f" {width}x{height} (sides are multiples of {multiple}, the short one as trained,"
      f" the long one at most {_LONGEST} times that) and resized back"
    )
  return height, width, note


def stretched(
  frames: Iterable[np.ndarray], height: int, width: int
) -> Iterator[np.ndarray]:
  """Yields frames of one size."""
  return (edit_input.fit(frame[None], height, width)[0] for frame in frames)


def touched(mask: np.ndarray, height: int, width: int) -> np.ndarray:
  """Resizes masks [T,H,W,1] uint8: 1 wherever a pixel covers a bit of what was 1."""
  box = Image.Resampling.BOX  # averages what a pixel covers, and nothing beside it
  pictures = mask[..., 0].astype(np.float32)
  share = [Image.fromarray(p).resize((width, height), box) for p in pictures]
  return (np.stack(share) > 0).astype(np.uint8)[..., None]


def given_depth(
  given: Any, video: edit_input.UserVideo, height: int, width: int
) -> Iterator[np.ndarray]:
  """Returns inverse depth [height,width] float32, a frame to each of the video.

  Args:
    given: a grey video's path, near is white, or an array [T,H,W] of inverse depth.
    video: whose depth it is.
    height: pixels wanted.
    width: likewise.

  Raises:
    DataError: another number of frames, or no numbers.
  """
  if is_file(given):
    grey = edit_input.probe(given, "depth")
    count, source = grey.n_frames, edit_input.frames(grey, "gray16le")
    name = f"depth={grey.path}"
  else:
    array = np.asarray(given, np.float32)
    if array.ndim != 3 or not np.isfinite(array).all():
      raise DataError(f"depth: an array of {array.shape}; give finite numbers [T,H,W]")
    count, source, name = len(array), iter(array), "depth"
  if count != video.n_frames:
    raise DataError(
      f"{name}: {count} frames, the video has {video.n_frames}; give a frame of depth"
      " to each"
    )
  return stretched((frame.astype(np.float32) for frame in source), height, width)


class Depth:
  """The depth of a whole video, in bytes, near is white.

  One range for all of it, from the 1st to the 99th percentile, as clips have it in
  training (`transforms.normalise_depth`): a range a window would jump between windows.
  So all depth is found before the first frame is edited. It waits in a file without a
  name in the system's folder for such ($TMPDIR), 4 bytes a pixel.
  """

  def __init__(self, source: Iterable[np.ndarray], height: int, width: int):
    """Reads `source`, inverse depth [height,width] float32, to its end."""
    self._shape = (height, width)
    self._file = tempfile.TemporaryFile()
    self._count, low, high = 0, np.inf, -np.inf
    for frame in source:
      self._file.write(np.ascontiguousarray(frame, np.float32).tobytes())
      self._count += 1
      low, high = min(low, frame.min()), max(high, frame.max())
    self._file.flush()
    self._low, self._high = self._percentiles(float(low), float(high))

  def _percentiles(self, low: float, high: float) -> tuple[float, float]:
    if high - low <= _FLAT * max(abs(low), abs(high)):
      return low, low
    counts = np.zeros(_BINS, np.int64)
    for frame in self._stored():
      counts += np.histogram(frame, _BINS, (low, high))[0]
    share = 100 * np.cumsum(counts) / counts.sum()
    edges = np.linspace(low, high, _BINS + 1)[1:]
    low, high = (edges[np.searchsorted(share, at)] for at in (LOW, HIGH))
    return float(low), float(high)

  def _stored(self) -> Iterator[np.ndarray]:
    size = 4 * self._shape[0] * self._shape[1]
    for number in range(self._count):
      raw = os.pread(self._file.fileno(), size, number * size)
      yield np.frombuffer(raw, np.float32).reshape(self._shape)

  def frames(self) -> Iterator[np.ndarray]:
    """Yields [height,width,1] uint8, from the first frame on."""
    low, span = self._low, self._high - self._low
    for frame in self._stored():
      level = (frame - low) * (255 / span) if span else 0 * frame
      yield (np.clip(level, 0, 255) + 0.5).astype(np.uint8)[..., None]
