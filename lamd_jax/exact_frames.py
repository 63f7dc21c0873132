# SPDX-License-Identifier: Apache-2.0
"""The frames of a stream bit for bit beside its mp4: one npy file, or one png each.

Both are filled as the frames come, so that memory holds the frames of one unit.
"""

from __future__ import annotations

import pathlib

import numpy as np
from PIL import Image

from lamd_jax import media


def _open_npy(folder: pathlib.Path, shape: tuple[int, ...]) -> np.ndarray | None:
  """Maps frames.npy, or returns None if it is not of `shape`."""
  try:
    frames = np.lib.format.open_memmap(folder / "frames.npy", mode="r")
  except (OSError, ValueError):
    return None
  return frames if frames.shape == shape and frames.dtype == np.uint8 else None


def write_npy(
  folder: pathlib.Path, begin: int, frames: np.ndarray, total: int
) -> None:
  """Puts frames [n,H,W,3] uint8 at `begin` of frames.npy, [total,H,W,3] uint8.

  Frames that are not made yet are zeros.
  """
  shape = (total, *frames.shape[1:])
  mapped = _open_npy(folder, shape)
  if mapped is None:
    mapped = np.lib.format.open_memmap(
      folder / "frames.npy", mode="w+", dtype=np.uint8, shape=shape
    )
  place = mapped.offset + begin * frames[0].nbytes
  del mapped
  # Written and not mapped: on a full disk a write fails, where a touch of mapped memory
  # makes the system kill the process (SIGBUS).
  with open(folder / "frames.npy", "r+b") as file:
    file.seek(place)
    file.write(np.ascontiguousarray(frames))


def read_npy(folder: pathlib.Path, begin: int, count: int) -> np.ndarray:
  """Returns frames [count,H,W,3] uint8; fewer where the file ends."""
  mapped = np.load(folder / "frames.npy", mmap_mode="r", allow_pickle=False)
  return np.array(mapped[begin : begin + count])


def _png(folder: pathlib.Path, index: int) -> pathlib.Path:
  return folder / "frames" / f"{index:06d}.png"


def write_png(
  folder: pathlib.Path, begin: int, frames: np.ndarray, total: int
) -> None:
  """Writes frames [n,H,W,3] uint8 as frames/<number>.png, numbered from `begin`."""
  del total
  for i, frame in enumerate(frames):
    media.write_png(_png(folder, begin + i), frame)


def read_png(folder: pathlib.Path, begin: int, count: int) -> np.ndarray:
  """Returns frames [count,H,W,3] uint8."""
  return np.stack(
    [np.asarray(Image.open(_png(folder, begin + i))) for i in range(count)]
  )


# format -> how its frames are written and read back
WRITE = {"npz": write_npy, "png": write_png}
READ = {"npz": read_npy, "png": read_png}
