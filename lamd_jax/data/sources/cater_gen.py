# SPDX-License-Identifier: Apache-2.0
"""CATER-GEN v1 and v2 (MAGE, Hu et al. 2022): rendered videos with captions.

  videos/*.avi
  {train,test}_{explicit,ambiguous}.json    {"0": {"video": "videos/x.avi", "caption"}}

`scenes/` is not read, nor is the pickled cache `good_videos.pkl`. Captions keep the space
they begin with; they hold coordinates, so clips are never mirrored. A caption can be
empty: a movement that always collided yields no sentence.
"""

from __future__ import annotations

import functools
import json
import pathlib
import struct
from typing import Any

from ml_collections import ConfigDict

from lamd_jax.data import listings
from lamd_jax.data.records import Item, Listing
from lamd_jax.data.sources import files
from lamd_jax.errors import DataError

CAPTIONS = ("explicit", "ambiguous")
_SPLITS = ("train", "test")
_LARGEST = 1 << 28  # bytes of a list; v2's has 6 MB
_LONGEST = 2000  # characters of a caption; the grammar's have under 200
_NAMED = 3


def lists(root: pathlib.Path, captions: str) -> dict[str, pathlib.Path]:
  """Returns split -> its list of one kind of captions, as far as they are there."""
  paths = {split: root / f"{split}_{captions}.json" for split in _SPLITS}
  return {split: path for split, path in paths.items() if path.is_file()}


def _load(path: pathlib.Path) -> dict[str, Any]:
  size = path.stat().st_size
  if size > _LARGEST:
    raise DataError(f"{path} has {size} bytes, at most {_LARGEST} are read")
  try:
    found = json.loads(path.read_text("utf-8"))
  except (OSError, ValueError, RecursionError) as error:
    raise DataError(f"{path}: cannot be read ({type(error).__name__})") from error
  if not isinstance(found, dict):
    raise DataError(f'{path}: is no list {{"0": {{"video": ..., "caption": ...}}}}')
  return found


def _item(row: Any, split: str, where: str) -> Item:
  fields = row if isinstance(row, dict) else {}
  path, caption = fields.get("video"), fields.get("caption")
  if not isinstance(path, str) or not isinstance(caption, str):
    raise DataError(f"{where}: needs a video and a caption, both text")
  if len(caption) > _LONGEST:
    raise DataError(f"{where}: a caption of {len(caption)} characters, at most {_LONGEST}")
  files.check_below(path, where)
  return Item(path, path, "video", split, caption=caption)


def finished(path: pathlib.Path) -> bool:
  """Whether an AVI was rendered to its end: no lock beside it, its index written.

  The renderer holds `x.avi.lock` while it works; where it was stopped the file decodes,
  but short, and has no `idx1` chunk.
  """
  if path.with_name(f"{path.name}.lock").exists():
    return False
  with open(path, "rb") as file:
    head = file.read(12)
    if head[:4] != b"RIFF" or head[8:] != b"AVI ":
      return True  # of another kind: decoding tells
    while len(chunk := file.read(8)) == 8:
      name, size = struct.unpack("<4sI", chunk)
      if name == b"idx1":
        return True
      file.seek(size + size % 2, 1)  # chunks are padded to even lengths
  return False


def _scan(root: pathlib.Path, captions: str) -> Listing:
  found = lists(root, captions)
  if not found:
    names = " and ".join(f"{split}_{captions}.json" for split in _SPLITS)
    raise DataError(f"{root} has no {names}, which hold data.captions={captions}")
  items: dict[str, Item] = {}
  missing = repeated = 0
  unfinished = []
  for split, path in found.items():
    for key, row in _load(path).items():
      item = _item(row, split, f"{path}, entry {key!r}")
      if item.path in items:
        repeated += 1
      elif not (root / item.path).is_file():
        missing += 1
      elif not finished(root / item.path):
        unfinished.append(item.path)
      else:
        items[item.path] = item
  notes = [f"{missing} videos of the lists are not there"] if missing else []
  if repeated:
    notes.append(f"{repeated} videos are listed twice; the first caption counts")
  if unfinished:
    more = " ..." if len(unfinished) > _NAMED else ""
    notes.append(
      f"{len(unfinished)} videos were not rendered to their end, skipped:"
      f" {', '.join(unfinished[:_NAMED])}{more}"
    )
  return Listing(list(items.values()), notes)


def scan(root: pathlib.Path) -> Listing:
  """Lists the videos with the captions that are there, explicit ones first."""
  kinds = [kind for kind in CAPTIONS if lists(root, kind)]
  return _scan(root, kinds[0] if kinds else CAPTIONS[0])


def open_split(config: ConfigDict, split: str) -> files.FileVideos:
  """Opens a split with the captions that `data.captions` names."""
  return files.open_files(config, split, _scan_of(config.captions))


@functools.cache
def _scan_of(kind: str) -> listings.Scan:
  """One function for each kind, by which `listings` knows what was listed."""
  return lambda root: _scan(root, kind)
