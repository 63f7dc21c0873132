# SPDX-License-Identifier: Apache-2.0
"""BAIR robot pushing, small (`softmotion30_44k`): as published, or as folders of images.

  softmotion30_44k/{train,test}/traj_A_to_B.tfrecords     30 frames a record, two cameras
  bair/{train,eval,test}/traj_A_to_B/<k>/<t>.png          what cINN's extractor writes

A clip is named by folder, file and place in it: file names repeat between the splits.
"""

from __future__ import annotations

import functools
import pathlib
import re

from ml_collections import ConfigDict

from lamd_jax.data import frame_folder
from lamd_jax.data import index
from lamd_jax.data import listings
from lamd_jax.data import softmotion
from lamd_jax.data import tfrecord
from lamd_jax.data.records import Item, Listing
from lamd_jax.data.sources import files

_FILE = re.compile(r"traj_\d+_to_\d+")
_TEST = 256  # clips of the published test split


def _record_items(folder: str, name: str, root: pathlib.Path) -> list[Item]:
  """One item a record; a file without a whole one gives a single item, to be named."""
  path = f"{folder}/{name}" if folder else name
  kind = "softmotion_aux1"
  begins, _ = tfrecord.offsets(root / path)
  split = _split(path)
  if not begins:
    return [Item(path, path, kind, split)]
  return [
    Item(f"{path}#{k}", path, kind, split, start=softmotion.STEPS * k,
         count=softmotion.STEPS)
    for k in range(len(begins))
  ]  # fmt: skip


def _split(path: str) -> str:
  """The split that the folder of a traj file names, wherever that folder lies."""
  parts = path.split("/")
  at = next(i for i, part in enumerate(parts) if _FILE.match(part))
  return files.split_of(parts[at - 1]) if at else ""


def scan(root: pathlib.Path) -> Listing:
  """Lists the records of the TFRecord files, or else the folders of images."""
  records, folders = [], []
  for folder, _, names in files.walk(root):
    for name in names:
      if _FILE.match(name) and name.endswith(".tfrecords"):
        records += _record_items(folder, name, root)
    inside = any(_FILE.fullmatch(part) for part in folder.split("/"))
    if inside and any(map(frame_folder.is_image, names)):
      folders.append(Item(folder, folder, "frames", _split(folder)))
  items = records or folders
  notes = []
  test = sum(item.split == "test" for item in items)
  if test not in (0, _TEST):
    notes.append(f"the test split holds {test} clips, the published one {_TEST}")
  return Listing(items, notes)


def open_split(config: ConfigDict, split: str) -> files.FileVideos:
  """Opens a split as seen by `data.camera`; folders of images have but one."""
  videos = files.open_files(config, split, _scan_of(config.camera))
  _warn_of_shared_clips(files.check_root(config.root))
  return videos


@functools.cache
def _scan_of(camera: str) -> listings.Scan:
  """One function for each camera, by which `listings` knows what was listed."""

  def scan_camera(root: pathlib.Path) -> Listing:
    listing = scan(root)
    items = [
      item if item.kind == "frames" else item._replace(kind=f"softmotion_{camera}")
      for item in listing.items
    ]
    return listing._replace(items=items)

  return scan_camera


def _warn_of_shared_clips(root: pathlib.Path) -> None:
  """Says if test clips are also training clips.

  The extractor that makes the folders of images handles one folder as it comes, and a
  test split made from the train folder looks just like the right one.
  """
  entries = [entry for entry in index.load(root).values() if entry.sha256]
  train = {entry.sha256 for entry in entries if entry.split == "train"}
  shared = sum(entry.sha256 in train for entry in entries if entry.split == "test")
  if shared:
    files.say_once(
      f"{root}: {shared} files or folders of the test split are in train too: scores"
      " on it measure memory; make it from the release's test folder"
    )
