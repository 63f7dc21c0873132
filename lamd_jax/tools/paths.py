# SPDX-License-Identifier: Apache-2.0
"""Paths that tools are given."""

from __future__ import annotations

import os
import pathlib


def path(text: str | os.PathLike[str]) -> pathlib.Path:
  """Reads a flag; of --out=~/x shells leave the tilde, and a folder "~" is not meant."""
  return pathlib.Path(text).expanduser()
