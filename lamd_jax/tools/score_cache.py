# SPDX-License-Identifier: Apache-2.0
"""What scoring computed before, by the hash of data, protocol and weights."""

from __future__ import annotations

from collections.abc import Sequence
import hashlib
import json
import os
import pathlib
from typing import Any
import zipfile

import numpy as np

from lamd_jax import media


def folder(chosen: str) -> pathlib.Path | None:
  """Where features are kept; None: nowhere."""
  if chosen == "off":
    return None
  if chosen:
    return pathlib.Path(chosen).expanduser()
  cache = os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache"
  return pathlib.Path(cache) / "lamd_jax" / "features"


class Cache:
  """Named arrays by key; a file that is missing or damaged is as none."""

  def __init__(self, chosen: str):
    """Args: a folder, "" for the user's, "off" for none."""
    self._folder = folder(chosen)

  def _file(self, key: Sequence[Any]) -> pathlib.Path | None:
    if self._folder is None:
      return None
    text = json.dumps(key)
    return self._folder / f"{hashlib.sha256(text.encode()).hexdigest()[:32]}.npz"

  def read(
    self, key: Sequence[Any], names: Sequence[str], count: int
  ) -> dict[str, np.ndarray] | None:
    """Returns what was kept, if all names are there and the first has `count` rows.

    Args:
      key: all that the arrays depend on, as JSON can hold it.
      names: of the arrays.
      count: rows of the first.
    """
    file = self._file(key)
    if file is None:
      return None
    try:
      with np.load(file, allow_pickle=False) as archive:
        found = {name: archive[name] for name in names}
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
      return None  # not there, or damaged: made again
    return found if len(found[names[0]]) == count else None

  def write(self, key: Sequence[Any], arrays: dict[str, np.ndarray]) -> None:
    file = self._file(key)
    if file is None:
      return
    try:
      media.atomically(file, lambda part: np.savez(part, **arrays))
    except OSError as error:
      print(f"features are not kept: {file} cannot be written ({error.strerror})")
