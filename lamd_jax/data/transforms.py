# SPDX-License-Identifier: Apache-2.0
"""Clips [T,H,W,3] uint8 to squares: one function a flavour, since scores depend on it.

Pixel centres lie at half-integers throughout. Inverse depth goes the same ways, as
[T,H,W] float32: what was one pixel stays one pixel.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from PIL import Image

from lamd_jax.errors import DataError


def _short_side(height: int, width: int, size: int) -> tuple[int, int]:
  """Sides after the short one became `size`, the long one rounded down."""
  if height <= width:
    return size, int(size * width / height)
  return int(size * height / width), size


def _long_side(height: int, width: int, size: int) -> tuple[int, int]:
  """Sides after the long one became `size`."""
  scale = size / max(height, width)
  return max(1, round(height * scale)), max(1, round(width * scale))


def _centre(length: int, size: int) -> int:
  # round() halves to even, as torchvision's crop does.
  return int(round((length - size) / 2.0))


def crop_antialias(video: np.ndarray, size: int) -> np.ndarray:
  """Short side to `size` by area-aware bilinear weights, then the centre."""
  height, width = video.shape[1:3]
  new_height, new_width = _short_side(height, width, size)
  top, left = _centre(new_height, size), _centre(new_width, size)
  if (new_height, new_width) == (height, width):  # nothing is left to resample
    return video[:, top : top + size, left : left + size]
  y, x = height / new_height, width / new_width
  # The box resamples only what is kept; weights still reach across its border.
  box = (left * x, top * y, (left + size) * x, (top + size) * y)
  bilinear = Image.Resampling.BILINEAR
  return np.stack([
    np.asarray(Image.fromarray(frame).resize((size, size), bilinear, box=box))
    for frame in video
  ])  # fmt: skip


def crop(video: np.ndarray, size: int) -> np.ndarray:
  """Short side to `size` by plain bilinear look-up (aliases), then the centre.

  What LVDM does with folders of frames.
  """
  height, width = video.shape[1:3]
  new_height, new_width = _short_side(height, width, size)
  rows = np.arange(size) + _centre(new_height, size)
  columns = np.arange(size) + _centre(new_width, size)
  return _bilinear(
    video, (rows + 0.5) * height / new_height, (columns + 0.5) * width / new_width
  )


def squash(video: np.ndarray, size: int) -> np.ndarray:
  """The whole frame to a square, aspect ignored, by plain bilinear look-up.

  What LVDM does with video files.
  """
  height, width = video.shape[1:3]
  grid = (np.arange(size) + 0.5) / size
  return _bilinear(video, grid * height, grid * width)


def letterbox(video: np.ndarray, size: int) -> np.ndarray:
  """The long side to `size` with antialias, black bars around."""
  height, width = video.shape[1:3]
  inner = _long_side(height, width, size)
  top, left = (size - inner[0]) // 2, (size - inner[1]) // 2
  # Bars are black, and of no depth at all.
  empty = 0 if video.dtype == np.uint8 else np.nan
  square = np.full((len(video), size, size, *video.shape[3:]), empty, video.dtype)
  for t, frame in enumerate(video):
    small = Image.fromarray(frame).resize(inner[::-1], Image.Resampling.BILINEAR)
    square[t, top : top + inner[0], left : left + inner[1]] = np.asarray(small)
  return square


# Rows and columns that LFDM (Ni et al. 2023) keeps of NATOPS's 240x320 pictures.
_NATOPS = (slice(10, 239), slice(30, 290))


def natops(video: np.ndarray, size: int) -> np.ndarray:
  """The signaller of a NATOPS picture, letterboxed. Raises DataError for other sizes."""
  if video.shape[1:3] != (240, 320):
    raise DataError(
      f"data.resize=natops cuts a box out of 320x240 pixels, not out of"
      f" {video.shape[2]}x{video.shape[1]}; use letterbox"
    )
  return letterbox(video[:, *_NATOPS], size)


def _taps(at: np.ndarray, length: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """Neighbours and weight of coordinates `at`, the border pixel repeated."""
  at = np.clip(at - 0.5, 0, length - 1)
  low = np.floor(at).astype(np.int64)
  return low, np.minimum(low + 1, length - 1), (at - low).astype(np.float32)


def _bilinear(video: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
  """Samples at rows [H'] and columns [W'], source pixels. Rounds bytes to nearest.

  Written out because Pillow's transform truncates, half a level darker on average.
  """
  y0, y1, fy = _taps(rows, video.shape[1])
  x0, x1, fx = _taps(columns, video.shape[2])
  channels = (1,) * (video.ndim - 3)
  fy, fx = fy.reshape(-1, 1, *channels), fx.reshape(-1, *channels)
  half = 0.5 if video.dtype == np.uint8 else 0.0
  out = np.empty((len(video), len(rows), len(columns), *video.shape[3:]), video.dtype)
  for t, frame in enumerate(video):
    tall = frame[:, x0].astype(np.float32)
    tall += fx * (frame[:, x1] - tall)
    top = tall[y0]
    out[t] = (top + fy * (tall[y1] - top) + half).astype(video.dtype)
  return out


RESIZE: dict[str, Callable[[np.ndarray, int], np.ndarray]] = {
  "crop_antialias": crop_antialias,
  "crop": crop,
  "squash": squash,
  "letterbox": letterbox,
  "natops": natops,
}


def resize(video: np.ndarray, size: int, how: str) -> np.ndarray:
  """Returns video [T,H,W,3] uint8 as [T,size,size,3], by one of RESIZE.

  Or inverse depth [T,H,W] float32 as [T,size,size]; nan where `how` adds bars.
  """
  if video.shape[1:3] == (size, size):
    return video
  return RESIZE[how](video, size)


def sides(height: int, width: int, size: int, how: str) -> tuple[int, int] | None:
  """Height and width that a decoder may scale a frame to before `resize` by `how`.

  What is left to do is a cut, or bars. None: `how` has to see the frame as it is.
  """
  ways = {"crop_antialias": _short_side, "letterbox": _long_side}
  return ways[how](height, width, size) if how in ways else None


def picture(height: int, width: int, size: int, how: str) -> np.ndarray:
  """Returns [size,size] bool: what of a square by `how` is picture, not a bar."""
  return np.isfinite(resize(np.ones((1, height, width), np.float32), size, how)[0])


def normalise_depth(inverse: np.ndarray) -> np.ndarray:
  """Maps inverse depth of a clip to bytes: what is near is 255.

  Args:
    inverse: [T,H,W] float32, larger is nearer, in any unit; nan: nothing is known.

  Returns [T,H,W,1] uint8. One range for the whole clip, from its 1st to its 99th
  percentile, so that a still camera's depth does not flicker. Where nothing is known,
  and everywhere if all is equally near, it is 0.
  """
  known = inverse[np.isfinite(inverse)]
  low, high = np.percentile(known, (1, 99)) if known.size else (0.0, 0.0)
  # Interpolation leaves rounding errors in a constant depth: they are no structure.
  if high - low <= 1e-6 * max(abs(low), abs(high)):
    return np.zeros((*inverse.shape, 1), np.uint8)
  level = (np.nan_to_num(inverse, nan=low) - low) * (255 / (high - low))
  return (np.clip(level, 0, 255) + 0.5).astype(np.uint8)[..., None]
