# SPDX-License-Identifier: Apache-2.0
"""What is finished of one stream: its units, their files and hashes, in journal.json.

A unit counts once the journal names it, and the journal is written after the unit's
files are on disk. Whatever else lies in the folder, a killed run left behind; it is
written again.
"""

from __future__ import annotations

from collections.abc import Mapping
import hashlib
import json
import os
import pathlib
from typing import Any, NamedTuple

from absl import logging
import numpy as np

from lamd_jax import limits
from lamd_jax import media
from lamd_jax.errors import ConfigError
from lamd_jax.errors import DataError

NAME = "journal.json"
_VERSION = 1
_CHUNK_BYTES = 1 << 20
_NOTHING = "no value"


class File(NamedTuple):
  """A file of the stream; `name` is relative to the folder."""

  name: str
  bytes: int
  sha256: str


class Unit(NamedTuple):
  """A finished unit."""

  index: int
  frames: int
  seconds: float  # from its start to its files
  frames_sha256: str  # of its frames [n,H,W,3] uint8 before they are encoded
  latents: File
  segment: File


def frames_sha256(frames: np.ndarray) -> str:
  """SHA-256 of the values of frames [n,H,W,3] uint8, row by row."""
  return hashlib.sha256(np.ascontiguousarray(frames)).hexdigest()


def _measure(folder: pathlib.Path, name: str) -> File:
  digest = hashlib.sha256()
  with (folder / name).open("rb") as handle:
    while chunk := handle.read(_CHUNK_BYTES):
      digest.update(chunk)
    return File(name, handle.tell(), digest.hexdigest())


def _problem(folder: pathlib.Path, file: File) -> str:
  """What is wrong with a file, "" if nothing."""
  path = folder / file.name
  if not path.is_file():
    return f"{file.name} is missing"
  size = path.stat().st_size
  if size != file.bytes:
    return f"{file.name} has {size} bytes, not {file.bytes}"
  if _measure(folder, file.name) != file:
    return f"{file.name} differs from its SHA-256"
  return ""


def _to_disk(path: pathlib.Path) -> None:
  """Returns when the file, or the names in the folder, would outlive a power cut."""
  if path.is_dir() and os.name != "posix":
    return  # elsewhere folders cannot be opened
  handle = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
  try:
    os.fsync(handle)
  finally:
    os.close(handle)


def _check_same(
  folder: pathlib.Path, stored: Mapping[str, Any], given: Mapping[str, Any]
) -> None:
  old, new = dict(limits.leaves(stored)), dict(limits.leaves(given))
  for key in {**new, **old}:
    before, now = old.get(key, _NOTHING), new.get(key, _NOTHING)
    if before != now:
      raise ConfigError(
        f"{key}={now}: the stream in {folder} was begun with {before}; name another"
        " folder with --sample.out, or leave the setting as it was"
      )


class Journal:
  """The record of one stream's folder."""

  def __init__(
    self, folder: str | os.PathLike[str], settings: Mapping[str, Any]
  ) -> None:
    """Opens the folder's journal, or begins one.

    Units are kept up to the first whose files are not as they were written; the log
    says so in one line.

    Args:
      folder: of the stream.
      settings: all that the frames depend on; JSON holds it.

    Raises:
      ConfigError: the folder holds a stream of other settings.
      DataError: journal.json cannot be read.
    """
    self.folder = pathlib.Path(folder)
    self.settings = json.loads(json.dumps(settings))
    self.units: list[Unit] = []
    self.video: File | None = None
    if (self.folder / NAME).exists():
      self._read()

  @property
  def frames(self) -> int:
    """How many frames are finished."""
    return sum(unit.frames for unit in self.units)

  def latents(self, index: int) -> pathlib.Path:
    """Where the arrays that unit `index` leaves to the next one lie."""
    return self.folder / f"latents/{index:05d}.npz"

  def segment(self, index: int) -> pathlib.Path:
    """Where the frames of unit `index` lie, as mp4."""
    return self.folder / f"segments/{index:05d}.mp4"

  def carry(self) -> dict[str, np.ndarray]:
    """Returns what the last finished unit left to the next, bit for bit."""
    if not self.units:
      return {}
    with np.load(self.latents(len(self.units) - 1), allow_pickle=False) as shard:
      return dict(shard)

  def add(
    self, frames: np.ndarray, carry: Mapping[str, np.ndarray], seconds: float
  ) -> Unit:
    """Records the next unit, whose segment has been written.

    Args:
      frames: [n,H,W,3] uint8, before they were encoded.
      carry: float32 or uint8 arrays by name; stored in the unit's shard.
      seconds: how long the unit took.
    """
    for name, array in carry.items():
      if array.dtype not in (np.float32, np.uint8):
        raise ValueError(
          f"carry {name!r} is {array.dtype}; shards hold float32 and uint8"
        )
    index = len(self.units)
    media.atomically(
      self.latents(index), lambda partial: np.savez(partial, **carry)
    )
    for path in (self.latents(index), self.segment(index)):
      _to_disk(path)
      _to_disk(path.parent)
    latents, segment = self._files(index)
    unit = Unit(
      index, len(frames), round(seconds, 3), frames_sha256(frames),
      _measure(self.folder, latents), _measure(self.folder, segment),
    )  # fmt: skip
    self.units.append(unit)
    self.video = None
    self._write()
    return unit

  def finish(self, name: str) -> None:
    """Records the joined video, file `name` of the folder."""
    _to_disk(self.folder / name)
    self.video = _measure(self.folder, name)
    self._write()

  def finished(self) -> bool:
    """Whether the joined video is there as it was written."""
    return self.video is not None and not _problem(self.folder, self.video)

  def drop(self, first: int, why: str) -> None:
    """Forgets the units from `first` on; they are made again."""
    logging.warning(
      "%s: %s; units %d to %d of the stream are made again",
      self.folder, why, first, len(self.units) - 1,
    )  # fmt: skip
    del self.units[first:]
    self.video = None

  def _files(self, index: int) -> tuple[str, str]:
    paths = self.latents(index), self.segment(index)
    latents, segment = (path.relative_to(self.folder).as_posix() for path in paths)
    return latents, segment

  def _read(self) -> None:
    path = self.folder / NAME
    try:
      record = json.loads(path.read_text("utf-8"))
      if record["version"] != _VERSION:
        raise ValueError(f"version {record['version']}, not {_VERSION}")
      settings = dict(record["settings"])
      settings.pop("config_hash", None)  # of older versions: also of steps and logs
      units = [_parse(unit) for unit in record["units"]]
      video = record["video"] and File(**record["video"])
      for index, unit in enumerate(units):
        # Names are checked, so that no journal points out of its folder.
        names = (unit.latents.name, unit.segment.name)
        if unit.index != index or names != self._files(index):
          raise ValueError(f"unit {index} is not in its place")
    except (OSError, ValueError, KeyError, TypeError) as error:
      raise DataError(
        f"{path}: not readable as a journal ({error}); name another folder with"
        " --sample.out, or remove the file to begin again"
      ) from error
    _check_same(self.folder, settings, self.settings)
    self.units, self.video = units, video
    for unit in units:
      problem = _problem(self.folder, unit.latents) or _problem(
        self.folder, unit.segment
      )
      if problem:
        self.drop(unit.index, problem)
        return

  def _write(self) -> None:
    head = {
      "version": _VERSION,
      "settings": self.settings,
      "video": self.video and self.video._asdict(),
    }

    def write(partial: pathlib.Path) -> None:
      with partial.open("w", encoding="utf-8") as handle:
        # Indented by hand: a line for each unit.
        handle.write(json.dumps(head, indent=1)[:-2] + ',\n "units": [')
        for unit in self.units:
          comma = "," if unit.index else ""
          handle.write(f"{comma}\n  {json.dumps(_record(unit))}")
        handle.write("\n ]\n}\n")
      _to_disk(partial)

    media.atomically(self.folder / NAME, write)
    _to_disk(self.folder)


def _record(unit: Unit) -> dict[str, Any]:
  files = {"latents": unit.latents._asdict(), "segment": unit.segment._asdict()}
  return {**unit._asdict(), **files}


def _parse(record: Mapping[str, Any]) -> Unit:
  files = {name: File(**record[name]) for name in ("latents", "segment")}
  return Unit(**{**record, **files})
