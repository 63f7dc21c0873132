# SPDX-License-Identifier: Apache-2.0
"""What all sources made of files share: walking, splits, and reading by the index."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
import functools
import hashlib
import os
import pathlib
import statistics

from absl import logging
from ml_collections import ConfigDict
import numpy as np

from lamd_jax.data import clips
from lamd_jax.data import frame_folder
from lamd_jax.data import listings
from lamd_jax.data import softmotion
from lamd_jax.data import transforms
from lamd_jax.data import video_file
from lamd_jax.errors import DataError
from lamd_jax.data.records import Entry, Listing

# First folder below the root -> split.
_SPLITS = {
  "train": "train", "training": "train", "sky_train": "train",
  "test": "test", "testing": "test", "sky_test": "test",
  "val": "val", "valid": "val", "validation": "val", "eval": "val",
}  # fmt: skip
_HELD_OUT = 0.08  # share of the videos whose split is drawn by hash


@functools.cache
def say_once(message: str) -> None:
  """Logs a message at its first occurrence: a run opens its data several times."""
  logging.warning("%s", message)


# Files that a run or an export, samples and videos in the making have beside them.
_OURS = ({"config.json", "STATUS"}, {"config.json", "model.safetensors"},
         {"samples.json"}, {"journal.json"})  # fmt: skip


def walk(root: pathlib.Path) -> Iterator[tuple[str, list[str], list[str]]]:
  """Yields (folder below root, its folders, its files), sorted.

  Hidden ones are left out, and folders of runs and of samples: a model would learn from
  its own clips.
  """
  seen = set()
  for folder, folders, names in os.walk(root, followlinks=True):
    real = os.path.realpath(folder)
    folders[:] = sorted(name for name in folders if not name.startswith("."))
    if real in seen:  # a link that leads back
      folders[:] = []
      continue
    seen.add(real)
    below = pathlib.Path(folder).relative_to(root).as_posix()
    if below != "." and any(marks <= {*names} for marks in _OURS):
      folders[:] = []
      continue
    files = sorted(name for name in names if not name.startswith("."))
    yield ("" if below == "." else below), list(folders), files


def split_of(path: str) -> str:
  """Returns the split that the first folder of `path` names, or ""."""
  return _SPLITS.get(path.split("/")[0].lower(), "")


def check_root(root: str) -> pathlib.Path:
  """Returns `data.root` as a path. Raises DataError if it is no folder."""
  if not root:
    raise DataError("no data folder is named: say --config.data.root=DIR")
  path = pathlib.Path(root).expanduser()
  if not path.is_dir():
    found = "is a file, not a folder" if path.exists() else "no such folder"
    raise DataError(f"--config.data.root={root}: {found}")
  return path


def check_below(path: str, where: str) -> None:
  """Raises DataError if a path that a file names could lie outside the data folder."""
  parts = pathlib.PurePosixPath(path).parts
  if not parts or path.startswith("/") or ".." in parts or "\0" in path:
    raise DataError(f"{where}: path {path!r} does not lie below the data folder")


def drop_lone_splits(listing: Listing) -> Listing:
  """Splits count only if there is something to train on and something held out.

  What then lies beside them has the split "unlisted", which "all" alone holds.
  """
  found = {item.split for item in listing.items}
  if "train" in found and found & {"test", "val"}:
    stray = [item for item in listing.items if not item.split]
    if not stray:
      return listing
    items = [item._replace(split=item.split or "unlisted") for item in listing.items]
    note = (
      f"{len(stray)} beside the folders of the splits, such as {stray[0].id}: only in"
      " split all"
    )
    return listing._replace(items=items, notes=[*listing.notes, note])
  return listing._replace(items=[item._replace(split="") for item in listing.items])


def draw_splits(entries: Sequence[Entry], usable: Sequence[bool]) -> list[Entry]:
  """Gives every entry without a split one: about 8 % test, by a hash of its id.

  A video keeps its split when others come or go, unless none would be held out; then
  the usable one with the smallest hash is.
  """
  draw = [_unit_hash(entry.id) for entry in entries]
  held_out = {i for i, u in enumerate(draw) if u < _HELD_OUT}
  candidates = [i for i, ok in enumerate(usable) if ok]
  if candidates and not any(usable[i] for i in held_out):
    held_out.add(min(candidates, key=draw.__getitem__))
  if len(candidates) > 1 and held_out >= set(candidates):
    held_out.discard(max(candidates, key=draw.__getitem__))
  return [
    entry._replace(split="test" if i in held_out else "train")
    for i, entry in enumerate(entries)
  ]


def _unit_hash(text: str) -> float:
  digest = hashlib.blake2b(text.encode("utf-8", "surrogateescape"), digest_size=8)
  return int.from_bytes(digest.digest(), "little") / 2**64


def select(entries: Sequence[Entry], split: str, where: str) -> list[Entry]:
  """Returns the entries of `split`; "all" is every one, val stands in for test."""
  if split == "all":
    return list(entries)
  found = {entry.split for entry in entries}
  if split not in found and {split, *found} >= {"test", "val"}:
    other = "val" if split == "test" else "test"
    say_once(f"{where} has no split {split}: {other} is used")
    split = other
  chosen = [entry for entry in entries if entry.split == split]
  if not chosen:
    known = ", ".join(sorted(found - {""})) or "none"
    raise DataError(f"{where} has no split {split!r}; it has {known}, and all")
  return chosen


class FileVideos:
  """`records.Videos` of the entries of an index."""

  def __init__(self, root: pathlib.Path, entries: Sequence[Entry], how: str):
    """Args: the data folder, the videos, `data.resize`."""
    self.where, self._how = str(root), how
    self._root, self._entries = root, list(entries)
    self.n_frames = np.array([entry.n_frames for entry in entries], np.int32)
    labels = np.array([entry.label for entry in entries], np.int32)
    self.labels = labels if (labels >= 0).all() else None
    rates = [entry.fps for entry in entries if entry.fps]
    self.fps = statistics.median(rates) if rates else 0.0

  def entry(self, video: int) -> Entry:
    """Returns the line of the index that a video is read by."""
    return self._entries[video]

  def name(self, video: int) -> str:
    return self._entries[video].id

  def error(self, video: int) -> str:
    return self._entries[video].error

  def caption(self, video: int) -> str:
    return self._entries[video].caption

  def digest(self) -> str:
    lines = [
      f"{e.id} {e.sha256} {e.n_frames} {e.label} {e.caption}"
      + (f" {e.kind} {e.start}" if e.count else "")
      for e in self._entries
    ]
    text = "\n".join(lines).encode("utf-8", "surrogateescape")
    return hashlib.sha256(text).hexdigest()

  def read(self, video: int, frames: np.ndarray, size: int) -> np.ndarray:
    entry = self._entries[video]
    path = self._root / entry.path
    if entry.kind == "frames":
      return frame_folder.read(path, frames, entry.n_frames)
    bytes_now = path.stat().st_size
    if bytes_now != entry.size:
      raise DataError(f"has {bytes_now} bytes, the index says {entry.size}")
    frames = np.asarray(frames) + entry.start
    if entry.kind in softmotion.CAMERAS:
      return softmotion.read(path, frames, entry.kind, entry.keyframes)
    sides = transforms.sides(entry.height, entry.width, size, self._how)
    return video_file.read(
      path, frames, entry.n_frames, entry.keyframes, grid=entry.grid, sides=sides
    )


def open_files(config: ConfigDict, split: str, scan: listings.Scan) -> FileVideos:
  """Lists `config.root`, brings its index up to date, returns the videos of `split`."""
  root = check_root(config.root)
  entries, notes = listings.indexed(root, scan)
  for note in notes:
    say_once(f"{root}: {note}")
  if not entries:
    raise DataError(
      f"{root} holds no video that data.source={config.source} can read; see"
      f" python -m lamd_jax.tools.doctor {root}"
    )
  if all(not entry.split for entry in entries):
    need = clips.span(config.frames, config.stride, config.sampling, config.pad_last)
    usable = [entry.n_frames >= need for entry in entries]
    entries = draw_splits(entries, usable)
    # Training and scoring on the one video there is; of none, each says what is wrong.
    if sum(usable) <= 1:
      entries = [entry._replace(split=split) for entry in entries]
    held_out = sum(entry.split == "test" for entry in entries)
    say_once(
      f"{root} has no train and test folders: {held_out} of its {len(entries)} videos"
      " are the test split, by a hash of their names"
    )
  return FileVideos(root, select(entries, split, str(root)), config.resize)
