# SPDX-License-Identifier: Apache-2.0
"""Taichi-HD: `{train,test}/<id>#start#end.mp4`, or a folder of images a clip.

The folders may lie under `frames/` (a mirror's layout). Strides are honoured; frame
rates differ between the videos, so a stride means different times.
"""

from __future__ import annotations

import pathlib

from ml_collections import ConfigDict

from lamd_jax.data.records import Listing
from lamd_jax.data.sources import files
from lamd_jax.data.sources import folder
from lamd_jax.data.sources import frames


def scan(root: pathlib.Path) -> Listing:
  """Lists the clips of whichever form is there; files come before folders of images."""
  base = root
  if not (root / "train").is_dir() and (root / "frames" / "train").is_dir():
    base = root / "frames"
  listing = folder.scan(base)
  if not listing.items:
    listing = frames.scan(base)
  prefix = "" if base == root else "frames/"
  items = [item._replace(path=prefix + item.path) for item in listing.items]
  return listing._replace(items=items)


def open_split(config: ConfigDict, split: str) -> files.FileVideos:
  return files.open_files(config, split, scan)
