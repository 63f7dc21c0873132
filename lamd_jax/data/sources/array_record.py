# SPDX-License-Identifier: Apache-2.0
"""Pre-cut uint8 clips in ArrayRecord files: nothing to decode, the fastest source.

A folder holds `metadata.json` and, for each split, `<split>-00000-of-00004.array_record`
and `<split>.jsonl`. A record is the raw bytes of one video [T,H,W,3]; line i of the
jsonl is record i // shards of shard i % shards: {"id", "frames", "label", "caption"}.
Where the metadata of a split say `in_blocks`, shards hold lines that follow each other
instead, in even parts, the first ones longer by one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
import hashlib
import json
import os
import pathlib
import threading
from typing import Any, NamedTuple

from array_record.python import array_record_module
from ml_collections import ConfigDict
import numpy as np

from lamd_jax.errors import DataError
from lamd_jax.data.sources import files

METADATA = "metadata.json"

_FORMAT = {"format": "lamd_clips", "version": 1}
# A record a group: reading one clip must not decompress its neighbours.
WRITER_OPTIONS = "group_size:1,zstd:1"
_READER_OPTIONS = "readahead_buffer_size:0,max_parallelism:0"


class Record(NamedTuple):
  """A video to be written."""

  id: str
  video: np.ndarray  # [T,H,W,3] uint8; H and W equal in a data set
  label: int = -1
  caption: str = ""


def write(
  folder: str | os.PathLike[str],
  split: str,
  records: Iterable[Record],
  fps: float,
  shards: int = 1,
) -> int:
  """Writes or replaces one split; returns how many videos it has.

  The metadata names the split only when all its files are complete.
  """
  folder = pathlib.Path(folder)
  folder.mkdir(parents=True, exist_ok=True)
  names = [f"{split}-{i:05d}-of-{shards:05d}.array_record" for i in range(shards)]
  writers = [
    array_record_module.ArrayRecordWriter(str(folder / f"{name}.part"), WRITER_OPTIONS)
    for name in names
  ]
  lines: list[str] = []
  size, content = None, hashlib.sha256()
  try:
    for i, record in enumerate(records):
      video = np.ascontiguousarray(record.video)
      size = size or video.shape[1:3]
      if video.dtype != np.uint8 or video.ndim != 4 or video.shape[1:] != (*size, 3):
        raise DataError(
          f"{record.id}: is {video.dtype} {video.shape}, expected uint8 [T,"
          f"{size[0]},{size[1]},3]"
        )
      writers[i % shards].write(video.tobytes())
      content.update(video)
      fields = {"id": record.id, "frames": len(video), "label": int(record.label),
                "caption": record.caption}  # fmt: skip
      lines.append(f"{json.dumps(fields)}\n")
  finally:
    for writer in writers:
      writer.close()
  if size is None:
    raise DataError(f"split {split}: no video to write")
  for name in names:
    os.replace(folder / f"{name}.part", folder / name)
  _replace(folder / f"{split}.jsonl", "".join(lines))
  # `content` is for the digest: other pixels under the same names are other data.
  row = {"files": names, "count": len(lines), "height": size[0], "width": size[1],
         "fps": fps, "content": content.hexdigest()}  # fmt: skip
  store_metadata(folder, {split: row})
  return len(lines)


def store_metadata(folder: pathlib.Path, rows: Mapping[str, dict[str, Any]]) -> None:
  """Names splits that are complete, beside those that were named before."""
  old = load_metadata(folder) if (folder / METADATA).exists() else {"splits": {}}
  splits = {**old["splits"], **rows}
  _replace(folder / METADATA, json.dumps({**_FORMAT, "splits": splits}, indent=2) + "\n")


def _replace(path: pathlib.Path, text: str) -> None:
  partial = path.with_name(f"{path.name}.part")
  partial.write_text(text, "utf-8")
  os.replace(partial, path)


def load_metadata(folder: pathlib.Path) -> dict[str, Any]:
  """Returns the parsed metadata. Raises DataError if it is absent or of another kind."""
  path = folder / METADATA
  try:
    found = json.loads(path.read_text("utf-8"))
  except (OSError, ValueError) as error:
    raise DataError(f"{path}: cannot be read ({type(error).__name__})") from error
  known = isinstance(found, dict) and {key: found.get(key) for key in _FORMAT}
  if known != _FORMAT or not isinstance(found.get("splits"), dict):
    raise DataError(f"{path}: is not of the format {_FORMAT}")
  return found


class RecordVideos:
  """`records.Videos` of one split."""

  def __init__(self, folder: pathlib.Path, split: str, row: dict[str, Any]):
    self.where = str(folder)
    self._paths = [str(folder / name) for name in row["files"]]
    self._size = (row["height"], row["width"])
    self._in_blocks = "in_blocks" in row and row["in_blocks"]
    text = (folder / f"{split}.jsonl").read_text("utf-8")
    lines = [json.loads(line) for line in text.splitlines()]
    if len(lines) != row["count"]:
      raise DataError(
        f"{folder}/{split}.jsonl has {len(lines)} lines, {METADATA} says {row['count']}"
      )
    self._names = [line["id"] for line in lines]
    self._captions = [line["caption"] for line in lines]
    self._digest = hashlib.sha256(f"{row}{text}".encode()).hexdigest()
    self.n_frames = np.array([line["frames"] for line in lines], np.int32)
    labels = np.array([line["label"] for line in lines], np.int32)
    self.labels = labels if (labels >= 0).all() else None
    self.fps = float(row["fps"])
    self._local = threading.local()

  def name(self, video: int) -> str:
    return self._names[video]

  def error(self, video: int) -> str:
    return f"{self._names[video]} has no frame"

  def caption(self, video: int) -> str:
    return self._captions[video]

  def digest(self) -> str:
    return self._digest

  def read(self, video: int, frames: np.ndarray, size: int) -> np.ndarray:
    del size
    record, shard = self._place(video)
    data = self._reader(shard).read([record])[0]
    shape = (int(self.n_frames[video]), *self._size, 3)
    if len(data) != np.prod(shape):
      raise DataError(f"record has {len(data)} bytes, expected {np.prod(shape)}")
    return np.frombuffer(data, np.uint8).reshape(shape)[frames]

  def _place(self, video: int) -> tuple[int, int]:
    """Returns (record, shard)."""
    if not self._in_blocks:
      return divmod(video, len(self._paths))
    part, longer = divmod(len(self._names), len(self._paths))
    # The first `longer` shards hold part + 1 lines.
    if video < longer * (part + 1):
      shard, record = divmod(video, part + 1)
    else:
      shard, record = divmod(video - longer * (part + 1), part)
      shard += longer
    return record, shard

  def _reader(self, shard: int):
    # A reader a thread: readers keep a position.
    readers = self._local.__dict__.setdefault("readers", {})
    if shard not in readers:
      readers[shard] = array_record_module.ArrayRecordReader(
        self._paths[shard], _READER_OPTIONS
      )
    return readers[shard]

  def __getstate__(self) -> dict[str, Any]:
    return {k: v for k, v in self.__dict__.items() if k != "_local"}

  def __setstate__(self, state: dict[str, Any]) -> None:
    self.__dict__.update(state)
    self._local = threading.local()


def open_split(config: ConfigDict, split: str) -> RecordVideos:
  folder = files.check_root(config.root)
  splits = load_metadata(folder)["splits"]
  if split not in splits:
    raise DataError(f"{folder} has no split {split!r}; it has {', '.join(splits)}")
  return RecordVideos(folder, split, splits[split])


def stored_fps(config: ConfigDict) -> float:
  """Returns the stored frame rate of the first split, 0 if there is none."""
  folder = pathlib.Path(config.root).expanduser()
  if not (folder / METADATA).exists():
    return 0.0
  rows: Sequence[dict[str, Any]] = list(load_metadata(folder)["splits"].values())
  return float(rows[0]["fps"]) if rows else 0.0


def lengths(config: ConfigDict) -> list[int]:
  """Returns the frames of each video of the split that `stored_fps` is of."""
  folder = pathlib.Path(config.root).expanduser()
  split = next(iter(load_metadata(folder)["splits"]))
  text = (folder / f"{split}.jsonl").read_text("utf-8")
  return [json.loads(line)["frames"] for line in text.splitlines()]
