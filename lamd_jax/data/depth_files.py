# SPDX-License-Identifier: Apache-2.0
"""Depth that lies in files: a folder that mirrors the videos' paths.

To train/a.mp4 belongs train/a.* below `data.depth_root`, a grey video, or train/a, a
folder of grey images of 8 or 16 bits; to a folder of frames likewise. Near is bright,
and what is stored is inverse depth, as estimators of depth give it. There is a frame of
depth to each frame of the video, of any size but of the same shape.
"""

from __future__ import annotations

from collections.abc import Mapping
import hashlib
import pathlib

from ml_collections import ConfigDict
import numpy as np

from lamd_jax.data import frame_folder
from lamd_jax.data import listings
from lamd_jax.data import video_file
from lamd_jax.data.records import Entry, Item, Listing, Truth
from lamd_jax.data.sources import files
from lamd_jax.errors import ConfigError, DataError


def _scan(root: pathlib.Path) -> Listing:
  """Lists every video and every folder of images below `root`."""
  found = []
  for folder, _, names in files.walk(root):
    if folder and any(map(frame_folder.is_image, names)):
      found.append(Item(folder, folder, "frames"))
    for name in names:
      if name.lower().endswith(video_file.SUFFIXES):
        path = f"{folder}/{name}" if folder else name
        found.append(Item(path, path, "video"))
  return Listing(found, [])


def _stem(entry: Entry) -> str:
  """Returns what a video and its depth have in common: the path without its suffix."""
  if entry.kind == "frames":
    return entry.path
  return pathlib.PurePosixPath(entry.path).with_suffix("").as_posix()


def _problem(video: Entry, depth: Entry | None, root: pathlib.Path) -> str:
  """Returns what is wrong with the depth of a video, "" if nothing is."""
  if depth is None:
    return f"{video.path} has no {root / _stem(video)}.mp4 (or .mkv, ..., or folder)"
  if depth.error:
    return f"{root / depth.path}: {depth.error}"
  if depth.n_frames != video.n_frames:
    return f"{root / depth.path}: {depth.n_frames} frames, its video {video.n_frames}"
  # A row or column of depth more or less is how somebody rounded.
  rounding = max(1, video.width / min(depth.height, depth.width))
  if abs(video.height * depth.width / depth.height - video.width) > rounding:
    return (
      f"{root / depth.path}: {depth.width}x{depth.height}, its video"
      f" {video.width}x{video.height}, which is another shape"
    )
  return ""


class DepthFiles:
  """The depth of the videos of a split; `read` is a `records.TruthReader`."""

  def __init__(
    self, videos: files.FileVideos, root: pathlib.Path, known: Mapping[str, Entry]
  ):
    """Finds the depth of every readable video. Raises DataError if one has none."""
    self._videos, self._root = videos, root
    self._depth: dict[int, Entry] = {}
    problems = []
    for video in np.flatnonzero(videos.n_frames):
      entry = videos.entry(video)
      if entry.count:
        raise DataError(
          f"data.depth=files: {entry.path} holds several videos; there is one file of"
          " depth a video, so cut it, or say data.depth=none"
        )
      depth = known.get(_stem(entry))
      if problem := _problem(entry, depth, root):
        problems.append(problem)
      else:
        self._depth[int(video)] = depth
    if problems:
      more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
      raise DataError(f"data.depth_root={root}: {problems[0]}{more}")

  def digest(self) -> str:
    """Returns a hash of what the files hold."""
    text = " ".join(self._depth[video].sha256 for video in sorted(self._depth))
    return hashlib.sha256(text.encode()).hexdigest()

  def read(self, video: int, frames: np.ndarray, size: int) -> Truth:
    """Returns frames and their inverse depth, each in its file's size."""
    depth = self._depth[video]
    path = self._root / depth.path
    if depth.kind == "frames":
      grey = frame_folder.read_grey(path, frames, depth.n_frames)
    else:
      grey = video_file.read(path, frames, depth.n_frames, depth.keyframes, "gray16le")
    pixels = self._videos.read(video, frames, size)
    return Truth(pixels, grey.astype(np.float32))


def open_depth(config: ConfigDict, videos: files.FileVideos) -> DepthFiles:
  """Opens `config.depth_root`, brings its index up to date.

  Raises:
    ConfigError: no folder is named.
    DataError: no such folder, or the depth of a video is missing or does not fit it.
  """
  if not config.depth_root:
    raise ConfigError("data.depth=files needs a folder: --config.data.depth_root=DIR")
  root = pathlib.Path(config.depth_root).expanduser()
  if not root.is_dir():
    raise DataError(f"--config.data.depth_root={config.depth_root}: no such folder")
  # All of the folder, though one split is asked for: the index holds what it is given.
  entries, _ = listings.indexed(root, _scan)
  # Where there are both, the images: they are what a video was made of.
  entries = sorted(entries, key=lambda entry: entry.kind == "frames")
  return DepthFiles(videos, root, {_stem(entry): entry for entry in entries})
