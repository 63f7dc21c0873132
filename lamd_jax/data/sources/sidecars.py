# SPDX-License-Identifier: Apache-2.0
"""Captions that lie beside videos.

  clip.mp4 and clip.txt        the text of the file
  clip.mp4 and clip.json       its entry caption, text or prompt
  captions.json in the root    {"holiday/clip.mp4": "text", ...}

A file of its own goes before the list. What cannot be read is counted and named.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
import json
import pathlib
from typing import Any

LIST = "captions.json"
_KEYS = ("caption", "text", "prompt")
_MOST = 2000  # characters; tokenizers read far fewer
_LARGEST = 10**8  # bytes of a file of captions that is read


class Captions:
  """The captions of a folder; `notes` grows while they are asked for."""

  def __init__(self, root: pathlib.Path):
    self._root = root
    self._bad: list[str] = []
    self._found: dict[str, int] = {}
    self._list = self._read_list()

  def of(self, path: str, names: Collection[str]) -> str:
    """Returns the caption of a video, "" for none.

    Args:
      path: of the video, below the root.
      names: the files of its folder.
    """
    video = pathlib.PurePosixPath(path)
    for suffix in (".txt", ".json"):
      name = video.stem + suffix
      if name in names and name != LIST:
        if text := self._read(video.with_name(name).as_posix(), suffix):
          return self._count(suffix[1:], text)
    text = self._list.get(path, "")
    return self._count(LIST, _clean(text)) if isinstance(text, str) and text else ""

  def notes(self) -> list[str]:
    """What a user should know."""
    lines = [f"{n} captions from {kind}" for kind, n in sorted(self._found.items())]
    if self._bad:
      some = ", ".join(self._bad[:3]) + (", ..." if len(self._bad) > 3 else "")
      lines.append(f"{len(self._bad)} caption files cannot be read: {some}")
    return lines

  def _count(self, kind: str, text: str) -> str:
    if text:
      self._found[kind] = self._found.get(kind, 0) + 1
    return text

  def _load(self, path: str) -> str:
    file = self._root / path
    if file.stat().st_size > _LARGEST:
      raise ValueError("too large for captions")
    return file.read_text("utf-8-sig")

  def _read(self, path: str, suffix: str) -> str:
    try:
      text = self._load(path)
      if suffix == ".json":
        text = _entry(json.loads(text))
      return _clean(text)
    except (OSError, ValueError, RecursionError):
      self._bad.append(path)
      return ""

  def _read_list(self) -> Mapping[str, Any]:
    if not (self._root / LIST).is_file():
      return {}
    try:
      found = json.loads(self._load(LIST))
    except (OSError, ValueError, RecursionError):
      found = None
    if not isinstance(found, dict):
      self._bad.append(LIST)
      return {}
    return found


def _entry(record: Any) -> str:
  for key in _KEYS:
    if isinstance(record, dict) and isinstance(record.get(key), str):
      return record[key]
  raise ValueError(f"has none of {', '.join(_KEYS)}")


def _clean(text: str) -> str:
  """One line, without control characters."""
  words = " ".join(text.split())
  return "".join(c for c in words if c.isprintable())[:_MOST]
