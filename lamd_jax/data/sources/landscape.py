# SPDX-License-Identifier: Apache-2.0
"""Landscape, that is Sky Time-lapse (Xiong et al. 2018), and QST, its larger successor.

  {sky_train,sky_test}/<id>/<id>_<k>/<id>_frames_000NNNNN.jpg   and what others made of it
  clips/<id>/<id> t0-t1.mp4  with  {train,val,test}_urls.txt    QST, a clip name a line

Folders of images are read as `frames` reads them, with the same ids.
"""

from __future__ import annotations

import pathlib

from ml_collections import ConfigDict

from lamd_jax.data.records import Item, Listing
from lamd_jax.data.sources import files
from lamd_jax.data.sources import folder
from lamd_jax.data.sources import frames

_SPLITS = ("train", "val", "test")


def lists(root: pathlib.Path) -> dict[str, pathlib.Path]:
  """Returns split -> its list of QST clips, as far as they are there."""
  paths = {split: root / f"{split}_urls.txt" for split in _SPLITS}
  return {split: path for split, path in paths.items() if path.is_file()}


def _listed(root: pathlib.Path) -> dict[str, str]:
  """Returns clip name -> split.

  The first word of a line is the video; all clips of a video share its split, so a
  line of the id alone means all of them.
  """
  found = {}
  for split, path in lists(root).items():
    for line in path.read_text("utf-8", "replace").splitlines():
      if line.strip():
        found[line.strip()] = split
  return found


def _id(clip: str) -> str:
  """The video of a clip's name, its first word; "" of a name of blanks."""
  return next(iter(clip.split()), "")


def _qst(root: pathlib.Path) -> Listing:
  listed = _listed(root)
  items, unlisted = [], 0
  for below, _, names in files.walk(root / "clips"):
    for name in filter(folder.is_video, names):
      path = "/".join(filter(None, ("clips", below, name)))
      clip = pathlib.PurePosixPath(name).stem
      split = listed.get(clip) or listed.get(_id(clip), "unlisted")
      unlisted += split == "unlisted"
      items.append(Item(path, path, "video", split))
  there = {pathlib.PurePosixPath(item.path).stem for item in items}
  ids = {_id(clip) for clip in there}
  missing = sum(name not in there and name not in ids for name in listed)
  notes = [f"{missing} clips of the lists are not there"] if missing else []
  if unlisted:
    notes.append(f"{unlisted} clips stand in no list: only in split all")
  return Listing(items, notes)


def scan(root: pathlib.Path) -> Listing:
  """Lists QST's clips if its lists are there, else every folder of images."""
  if lists(root) and (root / "clips").is_dir():
    return _qst(root)
  return frames.scan(root)


def open_split(config: ConfigDict, split: str) -> files.FileVideos:
  return files.open_files(config, split, scan)
