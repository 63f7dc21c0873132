# SPDX-License-Identifier: Apache-2.0
"""Folders of images, one folder a video: the layouts of Sky Time-lapse.

`sky_train/<id>/<id>_<k>/*.jpg`, `train/<id>/<id>_<k>/*.jpg` or `train/<video>/*.png`:
whatever the depth, a folder that holds images is a video.
"""

from __future__ import annotations

import pathlib

from ml_collections import ConfigDict

from lamd_jax.data import frame_folder
from lamd_jax.data.records import Item, Listing
from lamd_jax.data.sources import files

# Known to be broken in the published Sky Time-lapse archive.
_LEFT_OUT = ("z6Yr7KDZhm0",)


def scan(root: pathlib.Path) -> Listing:
  """Lists every folder below `root` that holds images; its id is its path."""
  items, notes, empty, broken, gaps = [], [], 0, 0, 0
  for folder, folders, names in files.walk(root):
    images = [name for name in names if frame_folder.is_image(name)]
    if not images:
      empty += bool(folder) and not folders and not names
    elif set(folder.split("/")) & set(_LEFT_OUT):
      broken += 1
    else:
      ordered = sorted(images, key=frame_folder.natural_key)
      gaps += bool(frame_folder.gaps(ordered))
      items.append(Item(folder, folder, "frames", files.split_of(folder)))
  if empty:
    notes.append(f"{empty} empty folders skipped")
  if broken:
    notes.append(f"{broken} folders of {_LEFT_OUT[0]}, known to be broken, skipped")
  if gaps:
    notes.append(f"{gaps} folders skip frame numbers; clips run across the gaps")
  return files.drop_lone_splits(Listing(items, notes))


def open_split(config: ConfigDict, split: str) -> files.FileVideos:
  return files.open_files(config, split, scan)
