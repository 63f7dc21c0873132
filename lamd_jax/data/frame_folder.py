# SPDX-License-Identifier: Apache-2.0
"""Videos that are folders of images, one image a frame."""

from __future__ import annotations

from collections.abc import Callable, Sequence
import os
import re

import numpy as np
from PIL import Image

from lamd_jax.errors import DataError

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp")

_NUMBERS = re.compile(r"(\d+)")


def natural_key(name: str) -> list:
  """Sorts frame2 before frame10."""
  parts = _NUMBERS.split(name)
  return [int(part) if i % 2 else part for i, part in enumerate(parts)]


def is_image(name: str) -> bool:
  return name.lower().endswith(SUFFIXES) and not name.startswith(".")


def names(folder: str | os.PathLike[str]) -> list[str]:
  """Returns the images of a folder in the order of their numbers."""
  return sorted(filter(is_image, os.listdir(folder)), key=natural_key)


def size(folder: str | os.PathLike[str]) -> int:
  """Returns the bytes of all images of a folder."""
  with os.scandir(folder) as found:
    return sum(file.stat().st_size for file in found if is_image(file.name))


def gaps(images: Sequence[str]) -> int:
  """Counts the places where frame numbers skip. Playback runs across them."""
  numbers = [_NUMBERS.findall(os.path.splitext(name)[0]) for name in images]
  last = [int(n[-1]) for n in numbers if n]
  return sum(b - a > 1 for a, b in zip(last, last[1:]))


def rgb(picture: Image.Image) -> np.ndarray:
  """Returns a picture's pixels [H,W,3] uint8; grey of 16 bits is scaled to 8.

  Pillow's own conversion would clip it: all above 255 of 65535 would be white.
  """
  if picture.mode.startswith("I;16"):
    grey = (np.asarray(picture).astype(np.float32) / 257 + 0.5).astype(np.uint8)
    return np.repeat(grey[..., None], 3, axis=-1)
  return np.asarray(picture.convert("RGB"))


def _image(path: str) -> np.ndarray:
  with Image.open(path) as picture:
    return rgb(picture)


def _grey(path: str) -> np.ndarray:
  with Image.open(path) as picture:
    if picture.mode == "L":
      return np.asarray(picture).astype(np.uint16) * 257
    if picture.mode.startswith("I;16"):
      return np.asarray(picture).astype(np.uint16)
    raise DataError(f"{path} is {picture.mode}, not grey of 8 or 16 bits")


def probe(folder: str | os.PathLike[str]) -> tuple[int, int, int]:
  """Decodes every image; returns (frames, height, width)."""
  images = names(folder)
  if not images:
    raise DataError("holds no image")
  shape = None
  for name in images:
    try:
      size = _image(os.path.join(folder, name)).shape[:2]
    except Exception as error:
      raise DataError(f"{name}: {type(error).__name__}: {error}") from error
    shape = shape or size
    if size != shape:
      raise DataError(f"{name} is {size}, the frames before it are {shape}")
  return len(images), *shape


def read(
  folder: str | os.PathLike[str], frames: Sequence[int], n_frames: int
) -> np.ndarray:
  """Returns the frames [T,H,W,3] uint8 at indices `frames` [T]."""
  return _read(folder, frames, n_frames, _image)


def read_grey(
  folder: str | os.PathLike[str], frames: Sequence[int], n_frames: int
) -> np.ndarray:
  """As `read` of grey images: [T,H,W] uint16, 8 bits stretched to 16.

  Raises DataError for an image in colour.
  """
  return _read(folder, frames, n_frames, _grey)


def _read(
  folder: str | os.PathLike[str],
  frames: Sequence[int],
  n_frames: int,
  image: Callable[[str], np.ndarray],
) -> np.ndarray:
  images = names(folder)
  if len(images) != n_frames:
    raise DataError(f"holds {len(images)} images, the index says {n_frames}")
  found = {i: image(os.path.join(folder, images[i])) for i in set(map(int, frames))}
  return np.stack([found[int(i)] for i in frames])
