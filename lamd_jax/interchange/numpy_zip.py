# SPDX-License-Identifier: Apache-2.0
"""npz files as dicts of arrays, without the pickles that npz may hold."""

from __future__ import annotations

import pathlib
import zipfile
import zlib

import numpy as np

from lamd_jax.errors import WeightsError


def read(path: str | pathlib.Path) -> dict[str, np.ndarray]:
  """Returns the arrays by name; "/" in names stays.

  Raises:
    WeightsError: one line; the file is absent, damaged, or holds Python objects.
  """
  path = pathlib.Path(path).expanduser()
  if not path.is_file():
    raise WeightsError(f"{path} does not exist or is no file")
  if not zipfile.is_zipfile(path):
    raise WeightsError(f"{path} is no npz file, or one that is truncated")
  try:
    with np.load(path, allow_pickle=False) as archive:
      return {name: archive[name] for name in archive.files}
  except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
    line = " ".join(str(error).split())
    raise WeightsError(f"{path} cannot be read without pickle ({line})") from error
