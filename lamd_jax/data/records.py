# SPDX-License-Identifier: Apache-2.0
"""Records of the data code."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple, Protocol

import numpy as np


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

  def sample(
    self, split: str, index: int, frames: int, size: int, start: int = 0
  ) -> WorldSample:
    """Renders frames start, ..., start+frames-1 of video `index`, [T,size,size,3]."""
