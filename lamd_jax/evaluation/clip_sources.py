# SPDX-License-Identifier: Apache-2.0
"""Anybody's clips, one at a time: video files, folders of images, npz files.

A source is opened without reading pixels, so that thousands of clips cost no memory;
an npz file that is not compressed (LVDM's published samples, 6.4 GB) is mapped. Every
complaint is one DataError line that names the file.
"""

from __future__ import annotations

from collections.abc import Iterator
import hashlib
import os
import pathlib
from typing import NamedTuple, Protocol
import zipfile
import zlib

import numpy as np

from lamd_jax.data import frame_folder
from lamd_jax.data import video_file
from lamd_jax.errors import DataError


class Source(Protocol):
  """An ordered set of videos."""

  kind: str  # mp4 and the like | images | npz: scores differ by compression
  names: list[str]

  def digest(self) -> str:
    """Changes with any byte of the data."""

  def length(self, video: int) -> int:
    """Frames of a video."""

  def read(self, video: int, start: int, frames: int, stride: int) -> np.ndarray:
    """Returns a clip [frames,H,W,3] uint8."""


def _file_digest(root: pathlib.Path, paths: list[pathlib.Path]) -> str:
  total = hashlib.sha256()
  for path in paths:
    with open(path, "rb") as file:
      part = hashlib.file_digest(file, "sha256").hexdigest()
    total.update(f"{path.relative_to(root)} {part}\n".encode())
  return total.hexdigest()


class VideoFiles:
  """mp4 and other containers, each decoded as far as needed."""

  kind = "video files"

  def __init__(self, root: pathlib.Path, paths: list[pathlib.Path]):
    self._root, self._paths = root, paths
    self.names = [str(path.relative_to(root)) for path in paths]
    self._facts: dict[int, video_file.Facts] = {}

  def digest(self) -> str:
    return _file_digest(self._root, self._paths)

  def _fact(self, video: int) -> video_file.Facts:
    if video not in self._facts:
      self._facts[video] = video_file.probe(self._paths[video])
    return self._facts[video]

  def length(self, video: int) -> int:
    return self._fact(video).n_frames

  def read(self, video: int, start: int, frames: int, stride: int) -> np.ndarray:
    fact = self._fact(video)
    at = start + stride * np.arange(frames)
    return video_file.read(self._paths[video], at, fact.n_frames, fact.keyframes)


class ImageFolders:
  """One folder of images a video."""

  kind = "images"

  def __init__(self, root: pathlib.Path, folders: list[pathlib.Path]):
    self._root, self._folders = root, folders
    self.names = [str(folder.relative_to(root)) for folder in folders]

  def digest(self) -> str:
    images = [f / name for f in self._folders for name in frame_folder.names(f)]
    return _file_digest(self._root, images)

  def length(self, video: int) -> int:
    return len(frame_folder.names(self._folders[video]))

  def read(self, video: int, start: int, frames: int, stride: int) -> np.ndarray:
    at = start + stride * np.arange(frames)
    try:
      return frame_folder.read(self._folders[video], at, self.length(video))
    except ValueError as error:
      if isinstance(error, DataError):
        raise
      raise DataError(f"frames differ in size ({error})") from error


class NpzClips:
  """[N,T,H,W,3] uint8 under arr_0 or as the only array; mapped if not compressed."""

  kind = "npz"

  def __init__(self, path: pathlib.Path):
    self._path = path
    self._clips = _map_npz(path)
    self.names = [f"{path.name}[{i}]" for i in range(len(self._clips))]

  def digest(self) -> str:
    return _file_digest(self._path.parent, [self._path])

  def length(self, video: int) -> int:
    del video
    return self._clips.shape[1]

  def read(self, video: int, start: int, frames: int, stride: int) -> np.ndarray:
    stop = start + stride * (frames - 1) + 1
    return np.array(self._clips[video, start:stop:stride])


class Joined:
  """Several npz files in a row."""

  kind = "npz"

  def __init__(self, parts: list[NpzClips]):
    self._parts = parts
    self._where = [(p, i) for p in parts for i in range(len(p.names))]
    self.names = [name for part in parts for name in part.names]

  def digest(self) -> str:
    text = "".join(part.digest() for part in self._parts)
    return hashlib.sha256(text.encode()).hexdigest()

  def length(self, video: int) -> int:
    part, index = self._where[video]
    return part.length(index)

  def read(self, video: int, start: int, frames: int, stride: int) -> np.ndarray:
    part, index = self._where[video]
    return part.read(index, start, frames, stride)


def npz_member(path: pathlib.Path) -> np.ndarray:
  """Returns arr_0 of an npz file, or its only array, mapped where it can be.

  Raises:
    DataError: the file is damaged, holds Python objects or several arrays.
  """
  if not zipfile.is_zipfile(path):
    raise DataError(f"{path} is no npz file, or one that is truncated")
  try:
    with zipfile.ZipFile(path) as archive:
      names = [n for n in archive.namelist() if n.endswith(".npy")]
      name = "arr_0.npy" if "arr_0.npy" in names else names[0] if len(names) == 1 else ""
      if not name:
        raise DataError(f"{path} holds {names or 'nothing'}; clips are expected as arr_0")
      info = archive.getinfo(name)
      with archive.open(name) as file:
        version = np.lib.format.read_magic(file)
        header = {
          (1, 0): np.lib.format.read_array_header_1_0,
          (2, 0): np.lib.format.read_array_header_2_0,
        }.get(version)
        if header is None:
          raise DataError(f"{path} is of npy version {version}; write it with np.savez")
        shape, fortran, dtype = header(file)
        body = file.tell()
        if dtype.hasobject:
          raise DataError(f"{path} holds Python objects, a pickle; uint8 clips are due")
        if info.compress_type != zipfile.ZIP_STORED:
          order = "F" if fortran else "C"
          return np.frombuffer(file.read(), dtype).reshape(shape, order=order)
    start = _data_start(path, info) + body
    order = "F" if fortran else "C"
    return np.memmap(path, dtype, "r", start, shape, order)
  except (
    OSError, ValueError, EOFError, OverflowError, zipfile.BadZipFile, zlib.error
  ) as error:  # fmt: skip
    if isinstance(error, DataError):
      raise
    raise DataError(f"{path} is damaged ({' '.join(str(error).split())})") from error


def _data_start(path: pathlib.Path, info: zipfile.ZipInfo) -> int:
  """Where a stored member's bytes begin: behind its local header, whose lengths count."""
  with open(path, "rb") as file:
    file.seek(info.header_offset + 26)
    name, extra = np.frombuffer(file.read(4), "<u2")
  return info.header_offset + 30 + int(name) + int(extra)


def _map_npz(path: pathlib.Path) -> np.ndarray:
  clips = npz_member(path)
  if clips.dtype != np.uint8 and clips.dtype.kind == "f":
    flat = clips.reshape(len(clips), -1) if clips.ndim else clips[None, None]
    bad = [i for i, row in enumerate(flat) if not np.isfinite(row).all()]
    if bad:
      raise DataError(f"{path}: clip {bad[0]} holds NaN or infinity ({len(bad)} such clips)")
  if clips.dtype != np.uint8 or clips.ndim != 5 or clips.shape[-1] != 3:
    raise DataError(f"{path} holds {clips.dtype} {clips.shape}; uint8 [N,T,H,W,3] is due")
  if not clips.size:
    raise DataError(f"{path} holds no clip")
  return clips


def open_source(path: str | os.PathLike[str]) -> Source:
  """Opens a folder of videos, of image folders or of npz files, or one npz file.

  Raises:
    DataError: there is nothing, or more than one kind.
  """
  root = pathlib.Path(path).expanduser()
  if root.is_file() and root.suffix == ".npz":
    return NpzClips(root)
  if not root.is_dir():
    raise DataError(f"{root} is no folder and no npz file")
  # Of a path only what lies below the folder: that may be named as ../../clips.
  hidden = lambda p: any(part.startswith(".") for part in p.relative_to(root).parts)
  files = sorted(
    (p for p in root.rglob("*") if not hidden(p)),
    key=lambda p: frame_folder.natural_key(str(p)),
  )
  videos = [p for p in files if p.suffix.lower() in video_file.SUFFIXES]
  archives = [p for p in files if p.suffix == ".npz"]
  folders = list(dict.fromkeys(p.parent for p in files if frame_folder.is_image(p.name)))
  found = {"videos": videos, "npz files": archives, "image folders": folders}
  kinds = [kind for kind, items in found.items() if items]
  if not kinds:
    raise DataError(f"{root} holds no video, no folder of images and no npz file")
  if len(kinds) > 1:
    raise DataError(
      f"{root} holds {' and '.join(kinds)}; name a folder with one kind, or one npz file"
    )
  if videos:
    return VideoFiles(root, videos)
  if folders:
    return ImageFolders(root, folders)
  return Joined([NpzClips(p) for p in archives])


class Place(NamedTuple):
  """Where a clip is: video and first frame."""

  video: int
  start: int


def places(
  source: Source, frames: int, stride: int, sampling: str, limit: int, seed: int
) -> tuple[list[Place], int]:
  """Lists up to `limit` clips, each video's first before any second one.

  Args:
    source: the videos; shorter ones than a clip are left out.
    frames: of a clip.
    stride: between them.
    sampling: first (frame 0 of each video, in order) | random (videos and offsets
      drawn; then second clips of the same videos, and so on).
    limit: clips at most; 0: one of each video.
    seed: of the draw.

  Returns:
    The places, and how many of them come from videos not used before.
  """
  span, lengths = (frames - 1) * stride + 1, _lengths(source)
  usable = [i for i, n in enumerate(lengths) if n >= span]
  if not usable:
    raise DataError(
      f"none of {len(lengths)} videos has the {span} frames of a clip; the longest has"
      f" {max(lengths)}"
    )
  if sampling == "first":
    found = [Place(i, 0) for i in usable]
    return found[: limit or None], min(len(found), limit or len(found))
  draw = np.random.Generator(np.random.Philox(seed))
  order = [usable[i] for i in draw.permutation(len(usable))]
  limit = limit or len(order)
  rounds = -(-limit // len(order))
  starts = {
    i: _distinct(draw, lengths[i] - span + 1, rounds) for i in order
  }
  found = [
    Place(i, int(starts[i][k])) for k in range(rounds) for i in order
    if k < len(starts[i])
  ]  # fmt: skip
  return found[:limit], min(len(order), limit)


def _distinct(draw: np.random.Generator, count: int, wanted: int) -> np.ndarray:
  """Up to `wanted` different numbers below `count`."""
  return draw.choice(count, min(count, wanted), replace=False)


def _lengths(source: Source) -> list[int]:
  found = []
  for i, name in enumerate(source.names):
    try:
      found.append(source.length(i))
    except Exception as error:  # decoders raise what they like
      raise DataError(f"{name} cannot be read ({_line(error)})") from error
  return found


def clips(
  source: Source, where: list[Place], frames: int, stride: int, pixels: int
) -> Iterator[np.ndarray]:
  """Yields clips [frames,H,W,3] uint8, all of one size.

  Args:
    source: the videos.
    where: of `places`.
    frames: of a clip.
    stride: between them.
    pixels: side that the clips must have; 0: that of the first.
  """
  first = None
  for place in where:
    name = source.names[place.video]
    try:
      clip = source.read(place.video, place.start, frames, stride)
    except Exception as error:  # decoders raise what they like
      raise DataError(f"{name} cannot be read ({_line(error)})") from error
    size = clip.shape[1:3]
    first = first or (name, size)
    if size != first[1]:
      raise DataError(
        f"{name} is {size[1]}x{size[0]}, {first[0]} is {first[1][1]}x{first[1][0]};"
        " score clips of one size"
      )
    if pixels and size != (pixels, pixels):
      raise DataError(
        f"{name} is {size[1]}x{size[0]}; the protocol takes {pixels}x{pixels}: resize the"
        " clips, or say --set pixels=0, which changes the score's name"
      )
    yield clip


def _line(error: Exception) -> str:
  return " ".join(str(error).split()) or type(error).__name__
