# SPDX-License-Identifier: Apache-2.0
"""A folder of video files at any depth, with or without train and test folders."""

from __future__ import annotations

import pathlib

from ml_collections import ConfigDict

from lamd_jax.data import video_file
from lamd_jax.data.records import Item, Listing
from lamd_jax.data.sources import files


def is_video(name: str) -> bool:
  return name.lower().endswith(video_file.SUFFIXES)


def scan(root: pathlib.Path) -> Listing:
  """Lists every video file below `root`; its id is its path."""
  items = []
  for folder, _, names in files.walk(root):
    for name in filter(is_video, names):
      path = f"{folder}/{name}" if folder else name
      items.append(Item(path, path, "video", files.split_of(path)))
  return files.drop_lone_splits(Listing(items, []))


def open_split(config: ConfigDict, split: str) -> files.FileVideos:
  return files.open_files(config, split, scan)
