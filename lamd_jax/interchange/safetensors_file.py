# SPDX-License-Identifier: Apache-2.0
"""safetensors files: the foreign weight format of the core. Errors are one line."""

from __future__ import annotations

from collections.abc import Mapping
import pathlib

import numpy as np
import safetensors
import safetensors.numpy

from lamd_jax.errors import WeightsError


def read(path: pathlib.Path) -> dict[str, np.ndarray]:
  """Returns {name: array}; float16 is widened to float32.

  Raises:
    WeightsError: there is no such file, or it is no whole safetensors file.
  """
  try:
    tensors = safetensors.numpy.load_file(path)
  except OSError as error:
    raise WeightsError(f"cannot read {path}: {error.strerror or error}") from error
  except safetensors.SafetensorError as error:
    raise WeightsError(f"{path} is not a whole safetensors file: {error}") from error
  half = lambda a: a.dtype == np.float16
  return {k: a.astype(np.float32) if half(a) else a for k, a in tensors.items()}


def write(
  path: pathlib.Path, tensors: Mapping[str, np.ndarray], metadata: Mapping[str, str]
) -> None:
  """Writes {name: array}, whole or not at all.

  Raises:
    WeightsError: the folder cannot be written to.
  """
  # safetensors writes the bytes as they lie, so strided views must be copied.
  whole = {k: np.ascontiguousarray(a).reshape(a.shape) for k, a in tensors.items()}
  partial = path.with_name(path.name + ".partial")
  try:
    partial.write_bytes(safetensors.numpy.save(whole, dict(metadata)))
    partial.replace(path)
  except OSError as error:
    raise WeightsError(f"cannot write {path}: {error.strerror or error}") from error
