# SPDX-License-Identifier: Apache-2.0
"""Captioned videos listed in csv files, WebVid's or plain ones.

WebVid: columns `videoid,page_dir,name` (others are ignored), files
`videos/PAGE_DIR/VIDEOID.mp4`, the caption in `name`. Plain: `path,text` and, if wanted,
`label` and `split`, which may be called training or valid too. All `*.csv` of the root with such columns are read; a file name
that holds train, val or test says the split of rows without one.
"""

from __future__ import annotations

from collections.abc import Iterator
import csv
import pathlib
import re

from ml_collections import ConfigDict

from lamd_jax.data.records import Item, Listing
from lamd_jax.data.sources import files
from lamd_jax.errors import DataError

_WEBVID = {"videoid", "page_dir", "name"}
_PLAIN = {"path", "text"}
_LABEL = re.compile(r"[0-9]{1,9}")
_SPLIT = re.compile(r"(?:^|[^a-z])(train|val|test)")


def tables(root: pathlib.Path) -> list[pathlib.Path]:
  """Returns the csv files of a folder that list captioned videos, sorted."""
  found = []
  for path in sorted(root.glob("*.csv")):
    with open(path, encoding="utf-8-sig", errors="replace", newline="") as file:
      try:
        columns = {name.strip() for name in next(csv.reader(file), [])}
      except csv.Error:  # some other table, with a field that is too long
        continue
    if _WEBVID <= columns or _PLAIN <= columns:
      found.append(path)
  return found


def _rows(path: pathlib.Path) -> Iterator[dict[str, str]]:
  with open(path, encoding="utf-8-sig", errors="replace", newline="") as file:
    reader = csv.DictReader(file, skipinitialspace=True)
    reader.fieldnames = [name.strip() for name in reader.fieldnames or ()]
    try:
      for row in reader:
        yield {key: (value or "").strip() for key, value in row.items() if key}
    except csv.Error as error:
      raise DataError(f"{path}, line {reader.line_num}: {error}") from error


def _item(row: dict[str, str], split: str, where: str) -> Item:
  if "path" in row:
    path, caption = row["path"], row["text"]
  else:
    path, caption = f"videos/{row['page_dir']}/{row['videoid']}.mp4", row["name"]
  files.check_below(path, where)
  path = pathlib.PurePosixPath(path).as_posix()  # ./a.mp4 is a.mp4
  label = int(row["label"]) if _LABEL.fullmatch(row.get("label", "")) else -1
  said = row.get("split", "")
  return Item(path, path, "video", files.split_of(said) or said or split, label, caption)


def _is_there(path: pathlib.Path) -> bool:
  try:
    return path.is_file()
  except OSError:  # a name longer than any file's: a column of texts, perhaps
    return False


def scan(root: pathlib.Path) -> Listing:
  """Lists the videos that are there; missing ones are normal and are counted."""
  items: dict[str, Item] = {}
  missing = repeated = 0
  for path in tables(root):
    named = _SPLIT.search(path.stem.lower())
    for number, row in enumerate(_rows(path), 2):
      item = _item(row, named.group(1) if named else "", f"{path}, row {number}")
      if not _is_there(root / item.path):
        missing += 1
      elif item.path in items:
        repeated += 1
      else:
        items[item.path] = item
  notes = [f"{missing} videos of the csv are not there"] if missing else []
  if repeated:
    notes.append(f"{repeated} videos are listed twice; the first caption counts")
  return files.drop_lone_splits(Listing(list(items.values()), notes))


def open_split(config: ConfigDict, split: str) -> files.FileVideos:
  return files.open_files(config, split, scan)
