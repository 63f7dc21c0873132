# SPDX-License-Identifier: Apache-2.0
"""Captions of clips from a file, matched to clips by name or by order.

  .txt   one a line, in the order of the clips
  .json  [{"image_id" | "video" | "id": NAME, "caption": TEXT}, ...], as captioners
         write them; {NAME: TEXT, ...}; or [TEXT, ...] in the order of the clips

Of a name only the part between its last slash and the next dot counts, so that
"videos/CLEVR_new_000001.mp4" and "CLEVR_new_000001.avi" are the same clip.
"""

from __future__ import annotations

from collections.abc import Sequence
import json
import pathlib
from typing import Any, NamedTuple

from lamd_jax.errors import DataError

SUFFIXES = (".txt", ".json")
_NAMES = ("image_id", "video", "id")


class Captions(NamedTuple):
  """Texts in the order of the file, and the clips' names where it has them."""

  path: str
  names: list[str]  # "" each, where the file goes by order
  texts: list[str]


def stem(name: str) -> str:
  """Returns the part of a clip's name that counts."""
  return str(name).replace("\\", "/").rpartition("/")[2].partition(".")[0]


def lines(text: str) -> list[str]:
  """Cuts a file's text at ends of lines alone: a text may hold what Unicode calls one."""
  cut = text.removesuffix("\n").split("\n") if text else []
  return [" ".join(line.split()) for line in cut]


def read(path: str | pathlib.Path) -> Captions:
  """Reads a file of captions. Raises DataError, in one line."""
  path = pathlib.Path(path).expanduser()
  try:
    text = path.read_text("utf-8-sig")
    if path.suffix == ".txt":
      texts = lines(text)
      return Captions(str(path), [""] * len(texts), texts)
    return Captions(str(path), *_from_json(json.loads(text)))
  except (OSError, ValueError, KeyError) as error:
    said = " ".join(str(error).split())
    raise DataError(
      f"{path} is no file of captions ({said}); a .txt with one a line is due, or a"
      ' .json such as [{"video": "0001.mp4", "caption": "the cone is rotating."}]'
    ) from error


def _from_json(data: Any) -> tuple[list[str], list[str]]:
  if isinstance(data, dict):
    data = [{"id": name, "caption": text} for name, text in data.items()]
  if not isinstance(data, list) or not data:
    raise ValueError("neither a list nor names with texts")
  if all(isinstance(row, str) for row in data):
    return [""] * len(data), data
  names, texts = [], []
  for row in data:
    key = next((k for k in _NAMES if isinstance(row, dict) and k in row), "")
    if not key or not isinstance(row.get("caption"), str):
      raise ValueError(f"{row!r:.60} has no name or no caption")
    names.append(stem(row[key]))
    texts.append(row["caption"])
  if len(set(names)) < len(names):
    raise ValueError("two captions of one name")
  return names, texts


def for_clips(captions: Captions, clips: Sequence[str]) -> list[str]:
  """Returns the caption of each clip.

  Raises:
    DataError: a clip has none, or the file goes by order and has fewer than clips.
  """
  if not any(captions.names):
    if len(captions.texts) < len(clips):
      raise DataError(
        f"{captions.path} has {len(captions.texts)} captions for {len(clips)} clips"
      )
    return captions.texts[: len(clips)]
  known = dict(zip(captions.names, captions.texts))
  missing = [name for name in clips if stem(name) not in known]
  if missing:
    raise DataError(
      f"{captions.path} has no caption of {missing[0]} ({len(missing)} such clips of"
      f" {len(clips)})"
    )
  if len(set(map(stem, clips))) < len(clips):
    raise DataError(
      f"{captions.path} goes by names, of which clips share some; give captions in the"
      " order of the clips, a .txt with one a line"
    )
  return [known[stem(name)] for name in clips]
