# SPDX-License-Identifier: Apache-2.0
"""A folder of video files at any depth, with or without train and test folders.

Captions may lie beside the videos, see `sidecars`.
"""

from __future__ import annotations

import pathlib

from ml_collections import ConfigDict

from lamd_jax.data import video_file
from lamd_jax.data.records import Item, Listing
from lamd_jax.data.sources import files
from lamd_jax.data.sources import sidecars


def is_video(name: str) -> bool:
  return name.lower().endswith(video_file.SUFFIXES)


def scan(root: pathlib.Path) -> Listing:
  """Lists every video file below `root`; its id is its path."""
  items, captions = [], sidecars.Captions(root)
  for folder, _, names in files.walk(root):
    known = frozenset(names)
    for name in filter(is_video, names):
      path = f"{folder}/{name}" if folder else name
      caption = captions.of(path, known)
      items.append(Item(path, path, "video", files.split_of(path), caption=caption))
  return files.drop_lone_splits(Listing(items, captions.notes()))


def open_split(config: ConfigDict, split: str) -> files.FileVideos:
  return files.open_files(config, split, scan)
