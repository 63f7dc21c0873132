# SPDX-License-Identifier: Apache-2.0
"""UCF-101, fold 1: as published, split into folders, or as folders of images.

  UCF-101/<Class>/v_<Class>_gXX_cYY.avi  with  ucfTrainTestlist/  beside it
  {train,test}/<Class>/v_<Class>_gXX_cYY.avi
  {train,test}/v_<Class>_gXX_cYY/*.jpg

Groups gXX share scenes, so a split never cuts through one.
"""

from __future__ import annotations

import pathlib
import re

from ml_collections import ConfigDict

from lamd_jax.data import frame_folder
from lamd_jax.data.records import Item, Listing
from lamd_jax.data.sources import files
from lamd_jax.data.sources import folder
from lamd_jax.errors import DataError

_NAME = re.compile(r"v_(.+)_g(\d+)_c(\d+)$")
_LAST_TEST_GROUP = 7  # in fold 1 groups 1 to 7 are the test split
_WORDS = re.compile(r"(?<=[a-z])(?=[A-Z])")


def _lists(root: pathlib.Path) -> pathlib.Path | None:
  for base in (root, root.parent):
    if (base / "ucfTrainTestlist").is_dir():
      return base / "ucfTrainTestlist"
  return None


def _lines(path: pathlib.Path) -> list[str]:
  return [line for line in path.read_text("utf-8").splitlines() if line.strip()]


def _classes(lists: pathlib.Path | None, found: set[str]) -> tuple[dict[str, int], bool]:
  """Returns lower-cased class -> label from 0, and whether the published file gave it."""
  if lists and (lists / "classInd.txt").is_file():
    path = lists / "classInd.txt"
    try:
      rows = [line.split() for line in _lines(path)]
      return {name.lower(): int(number) - 1 for number, name in rows}, True
    except ValueError as error:
      raise DataError(f"{path}: expected lines such as 1 ApplyEyeMakeup") from error
  return {name: i for i, name in enumerate(sorted(found))}, False


def _fold(lists: pathlib.Path | None) -> dict[str, str]:
  """Returns lower-cased video name -> split.

  Lower-cased, because the lists say HandStandPushups where folders say Handstand.
  """
  fold = {}
  for split in ("train", "test"):
    path = lists / f"{split}list01.txt" if lists else None
    for line in _lines(path) if path and path.is_file() else []:
      name = line.split()[0].rsplit("/", 1)[-1]
      fold[pathlib.PurePosixPath(name).stem.lower()] = split
  return fold


def _paths(root: pathlib.Path) -> list[tuple[str, str]]:
  """Returns (path, kind) of everything that is named like a UCF-101 video."""
  found = []
  for below, _, names in files.walk(root):
    leaf = below.rsplit("/", 1)[-1]
    if _NAME.match(leaf) and any(map(frame_folder.is_image, names)):
      found.append((below, "frames"))
    for name in filter(folder.is_video, names):
      if _NAME.match(pathlib.PurePosixPath(name).stem):
        found.append((f"{below}/{name}" if below else name, "video"))
  return found


def scan(root: pathlib.Path) -> Listing:
  """Lists the videos with label, caption and the split of fold 1."""
  lists = _lists(root)
  fold, notes, unlisted = _fold(lists), [], 0
  named = []
  for path, kind in _paths(root):
    stem = pathlib.PurePosixPath(path).name
    stem = stem if kind == "frames" else pathlib.PurePosixPath(stem).stem
    named.append((path, kind, stem, *_NAME.match(stem).group(1, 2)))
  labels, published = _classes(lists, {name.lower() for *_, name, _ in named})
  items = []
  for path, kind, stem, name, group in named:
    split = files.split_of(path) or fold.get(stem.lower(), "")
    if not split and fold:
      unlisted += 1
      split = "unlisted"
    elif not split:
      split = "test" if int(group) <= _LAST_TEST_GROUP else "train"
    caption = _WORDS.sub(" ", name).lower()
    items.append(Item(path, path, kind, split, labels.get(name.lower(), -1), caption))
  if items and not published:
    notes.append("ucfTrainTestlist/classInd.txt is missing: labels follow the alphabet")
  if items and not fold and not any(files.split_of(item.path) for item in items):
    notes.append("ucfTrainTestlist is missing: groups 1 to 7 are the test split")
  if unlisted:
    notes.append(f"{unlisted} videos stand in no list of fold 1: only in split all")
  return Listing(items, notes)


def open_split(config: ConfigDict, split: str) -> files.FileVideos:
  return files.open_files(config, split, scan)
