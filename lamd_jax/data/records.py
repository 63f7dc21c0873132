# SPDX-License-Identifier: Apache-2.0
"""Records of the data code, and the two protocols that sources and worlds follow."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple, Protocol

import numpy as np


class Item(NamedTuple):
  """A video as a source lists it, before anything is decoded."""

  id: str  # unique in its data set
  path: str  # below the root, "/" between parts
  kind: str  # video (a file) | frames (a folder of images) | one of softmotion.CAMERAS
  split: str = ""  # "": the source has none; one is drawn by hash
  label: int = -1  # class, -1: none
  caption: str = ""
  # A file can hold many videos: this one is its frames start, ..., start+count-1.
  start: int = 0
  count: int = 0  # 0: all the file has


class Listing(NamedTuple):
  """What a source found below its root."""

  items: list[Item]
  notes: list[str]  # things a user should know, one line each


class Entry(NamedTuple):
  """A line of the index: a video after it was decoded once from end to end."""

  id: str
  path: str
  kind: str
  split: str
  label: int
  caption: str
  n_frames: int = 0  # as decoded, 0: unusable
  fps: float = 0.0  # 0: none stored
  height: int = 0
  width: int = 0
  sha256: str = ""
  size: int = 0  # bytes; with mtime_ns says whether the file changed
  mtime_ns: int = 0
  keyframes: tuple[tuple[int, int], ...] = ()  # (frame, pts) to seek to
  error: str = ""  # why it is unusable
  start: int = 0  # as of the item
  count: int = 0
  grid: tuple[int, ...] = ()  # of times, see video_file.Facts; () too in older indexes


class Videos(Protocol):
  """One split of a data set, opened. Picklable: it crosses to worker processes."""

  where: str  # for messages: the folder, the TFDS name or the world
  n_frames: np.ndarray  # [V] int32, 0: unreadable
  labels: np.ndarray | None  # [V] int32
  fps: float  # frames a second, 0: none stored

  def name(self, video: int) -> str:
    """Returns the id of a video."""

  def error(self, video: int) -> str:
    """Returns why `n_frames` is 0."""

  def caption(self, video: int) -> str:
    """Returns what a video shows, in words; "" where nobody said."""

  def digest(self) -> str:
    """Returns a hash of what the videos hold, as far as is known without reading."""

  def read(self, video: int, frames: np.ndarray, size: int) -> np.ndarray:
    """Returns frames [T,H,W,3] uint8 at the indices `frames` [T], non-decreasing.

    H and W are the source's own, or what `transforms.sides` allows; `size` is what the
    clip will have, for sources that can render or decode at it. Raises any exception if
    the video is not as the index says.
    """


class Truth(NamedTuple):
  """Frames and what is known of them beside their colours."""

  video: np.ndarray  # [T,H,W,3] uint8
  inverse_depth: np.ndarray  # [T,h,w] float32, larger is nearer; of the same view
  instance: np.ndarray | None = None  # [T,H,W,1] uint8, 0 is background


class TruthReader(Protocol):
  """Reads as `Videos.read` does, with depth. Picklable likewise."""

  def __call__(self, video: int, frames: np.ndarray, size: int) -> Truth: ...


class WorldSample(NamedTuple):
  """A piece of a procedural video with its ground truth."""

  video: np.ndarray  # [T,H,W,3] uint8
  depth: np.ndarray  # [T,H,W,1] float32, along the view axis
  instance: np.ndarray  # [T,H,W,1] uint8, 0 is background
  state: Mapping[str, np.ndarray]
  caption: str
  fps: float  # frames a second


class World(Protocol):
  """A procedural family in one mode: a function of (split, index), in any order."""

  fps: float

  def caption(self, split: str, index: int) -> str:
    """Returns the caption of video `index`, without rendering it."""

  def sample(
    self, split: str, index: int, frames: int, size: int, start: int = 0
  ) -> WorldSample:
    """Renders frames start, ..., start+frames-1 of video `index`, [T,size,size,3]."""
