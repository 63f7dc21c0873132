# SPDX-License-Identifier: Apache-2.0
"""safetensors files as dicts of numpy arrays; the only weight format that runs read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
import contextlib
import os
import pathlib
from typing import Any

import ml_dtypes
import numpy as np
import safetensors
from safetensors import numpy as safetensors_numpy

from lamd_jax.errors import WeightsError


def _what_is(path: pathlib.Path) -> str:
  """Says what a file is that safetensors refused, by its first bytes."""
  with open(path, "rb") as file:
    start = file.read(9)
  if start[8:] == b"{":  # after the header's length
    return "is a damaged or truncated safetensors file; fetch or convert it again"
  if start[:4] == b"PK\x03\x04" or start[:1] == b"\x80":
    return (
      "is a pickle or zip, probably of PyTorch; runs read safetensors only: see python"
      " -m lamd_jax.tools.convert --help"
    )
  return "is no safetensors file"


def read(path: str | pathlib.Path) -> dict[str, np.ndarray]:
  """Returns the tensors by name; float16 and bfloat16 as float32, which is exact.

  Raises:
    WeightsError: one line; the file is absent, damaged or of another format.
  """
  narrow = (np.dtype(np.float16), np.dtype(ml_dtypes.bfloat16))
  with _opened(path) as file:
    state = {name: file.get_tensor(name) for name in file.keys()}
  return {k: v.astype(np.float32) if v.dtype in narrow else v for k, v in state.items()}


def metadata(path: str | pathlib.Path) -> dict[str, str]:
  """Returns the file's metadata; raises as `read`."""
  with _opened(path) as file:
    return file.metadata() or {}


@contextlib.contextmanager
def _opened(path: str | pathlib.Path) -> Iterator[Any]:
  path = pathlib.Path(path).expanduser()
  if not path.is_file():
    raise WeightsError(f"{path} does not exist or is no file")
  try:
    with safetensors.safe_open(path, "np") as file:
      yield file
  except safetensors.SafetensorError as error:
    raise WeightsError(f"{path} {_what_is(path)} ({error})") from error
  except (OSError, TypeError) as error:  # TypeError: a type that numpy lacks, as F8
    raise WeightsError(f"{path} cannot be read ({error})") from error


def write(
  path: str | pathlib.Path,
  tensors: Mapping[str, np.ndarray],
  metadata: Mapping[str, str],
) -> None:
  """Writes tensors under their final name only once all of them are on disk.

  Args:
    path: the file, replaced if it exists.
    tensors: {name: array}.
    metadata: one entry at most if equal input must give equal files: the library
      does not fix their order.

  Raises:
    WeightsError: the file cannot be written.
  """
  path = pathlib.Path(path).expanduser()
  # The bytes are written as they lie, so strided views must be copied.
  whole = {k: np.ascontiguousarray(a).reshape(a.shape) for k, a in tensors.items()}
  partial = path.with_name(f".{path.name}.part")
  try:
    safetensors_numpy.save_file(whole, partial, dict(metadata))
    with open(partial, "rb+") as file:
      os.fsync(file.fileno())
    # The library's files are its owner's alone; these are to be passed on.
    os.umask(mask := os.umask(0))
    partial.chmod(0o666 & ~mask)
    os.replace(partial, path)
  except (OSError, safetensors.SafetensorError) as error:
    partial.unlink(missing_ok=True)
    raise WeightsError(f"{path} cannot be written ({error})") from error
