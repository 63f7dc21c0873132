# SPDX-License-Identifier: Apache-2.0
"""A procedural world as a source: nothing on disk, rendered when it is read."""

from __future__ import annotations

import functools
import hashlib

from ml_collections import ConfigDict
import numpy as np

from lamd_jax.data import clips
from lamd_jax.data import procedural
from lamd_jax.data.procedural import cater
from lamd_jax.data.records import Truth, WorldSample
from lamd_jax.errors import ConfigError


@functools.lru_cache(maxsize=8)  # a split is opened many times in a run
def _action_classes(mode: str, split: str, count: int) -> np.ndarray:
  world = cater.Cater(mode)
  classes = [world.action_class(split, index) for index in range(count)]
  return np.array(classes, np.int32)


class WorldVideos:
  """`records.Videos` of one split, all `length` frames long."""

  def __init__(
    self, world: str, mode: str, split: str, count: int, length: int, labelled: bool,
    appearance: bool = False,
  ):  # fmt: skip
    self.where = f"world {world}, {mode}"
    self._digest = f"{world} {mode} {split} {count} {length}{' classes' * labelled}"
    self._digest += " appearance" * appearance
    self._world, self._split = procedural.world(world, mode), split
    self._appearance = appearance
    self._whole = world in procedural.WHOLE
    self.n_frames = np.full(count, length, np.int32)
    self.fps = self._world.fps
    self.labels = _action_classes(mode, split, count) if labelled else None

  def name(self, video: int) -> str:
    return f"{self._split}/{video}"

  def error(self, video: int) -> str:
    del video
    return ""

  def caption(self, video: int) -> str:
    if self._appearance:
      return self._world.appearance(self._split, video)
    return self._world.caption(self._split, video)

  def digest(self) -> str:
    version = procedural.VERSIONS[self._digest.split()[0]]
    return hashlib.sha256(f"{self._digest} {version}".encode()).hexdigest()

  def read(self, video: int, frames: np.ndarray, size: int) -> np.ndarray:
    sample, at = self._render(video, frames, size)
    return sample.video[at]

  def read_truth(self, video: int, frames: np.ndarray, size: int) -> Truth:
    """As `read`, with what the world knows of the frames: a `records.TruthReader`."""
    sample, at = self._render(video, frames, size)
    return Truth(sample.video[at], 1 / sample.depth[at, ..., 0], sample.instance[at])

  def _render(
    self, video: int, frames: np.ndarray, size: int
  ) -> tuple[WorldSample, np.ndarray]:
    """Returns a stretch of a video and where `frames` [T] lie in it."""
    # A whole clip cannot be rendered from its middle: frame i depends on the length.
    start = 0 if self._whole else int(frames[0])
    count = self.n_frames[video] if self._whole else int(frames[-1]) - start + 1
    sample = self._world.sample(self._split, video, int(count), size, start)
    return sample, np.asarray(frames) - start


def open_split(config: ConfigDict, split: str) -> WorldVideos:
  appearance = config.captions == "appearance"
  if appearance and config.world != "cater":
    raise ConfigError(
      f"data.captions=appearance: data.world={config.world} has one kind of captions;"
      " only cater has these, say data.captions=explicit"
    )
  # With pad_last or linspace a single frame would do; a clip must still move.
  length = clips.span(config.frames, config.stride, "random", False)
  # Training clips start anywhere in the video, others at its beginning.
  if split == "train" and config.world in procedural.LENGTHS:
    length = max(length, procedural.LENGTHS[config.world])
  return WorldVideos(
    config.world, config.world_mode, split, config.num_videos, length,
    config.label_actions, appearance,
  )  # fmt: skip
