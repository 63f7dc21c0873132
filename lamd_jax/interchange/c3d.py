# SPDX-License-Identifier: Apache-2.0
"""The weights of C3D: chainer's names on disk, and the mean video beside them.

  conv1a/W, conv1a/b, ..., fc8/W, fc8/b    as in conv3d_deepnetA_ucf.npz
  mean                                     [3,16,128,171], of mean2.npz
"""

from __future__ import annotations

import functools
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lamd_jax.errors import WeightsError
from lamd_jax.interchange import keys
from lamd_jax.interchange import safetensors_file
from lamd_jax.networks import c3d
from lamd_jax.nn import initializers

FILE_NAME = "c3d_ucf101.safetensors"
MEAN = "mean"
MEAN_SHAPE = (3, c3d.FRAMES, 128, 171)


@functools.cache
def shapes(network: c3d.C3D, size: int = c3d.SIZE) -> dict[str, Any]:
  """Returns the network's parameters as ShapeDtypeStructs, for clips of `size`."""
  clip = jax.ShapeDtypeStruct((1, c3d.FRAMES, size, size, 3), jnp.float32)
  return initializers.shapes(network, clip)["params"]


def rules(params: keys.Params) -> list[keys.Rule]:
  """Returns one rule per parameter of a `C3D` (or of their shapes)."""
  found = []
  for path in keys.flatten(params):
    layer, _, leaf = path[0].rpartition("_")
    kernel = "dense" if layer.startswith("fc") else "conv"
    name, layout = {"kernel": ("W", kernel), "bias": ("b", "copy")}[leaf]
    found.append(keys.Rule(f"{layer}/{name}", path, layout))
  return found


def to_params(
  state: keys.State, network: c3d.C3D = c3d.C3D(), size: int = c3d.SIZE
) -> dict[str, Any]:
  """Renames a state dict to {"network": parameters, "mean": [3,16,128,171]}, float32.

  Raises:
    WeightsError: lists all names that are missing, unused or of a wrong shape, or
      that are not finite.
  """
  expected = shapes(network, size)
  if MEAN not in state or state[MEAN].shape != MEAN_SHAPE:
    found = state[MEAN].shape if MEAN in state else "missing"
    raise WeightsError(f"{MEAN} is {found}; the mean video of {MEAN_SHAPE} is due")
  params = keys.to_params(state, rules(expected), expected, (MEAN,))
  wide = lambda v: np.asarray(v, np.float32)
  flat = {path: wide(v) for path, v in keys.flatten(params).items()}
  found = {"network": keys.nest(flat), MEAN: wide(state[MEAN])}
  bad = [p for p, v in keys.flatten(found).items() if not np.isfinite(v).all()]
  if bad:
    raise WeightsError(f"these are no weights of C3D: {'/'.join(bad[0])} is not finite")
  return found


def to_state(params: keys.Params) -> dict[str, np.ndarray]:
  """The inverse of `to_params`."""
  network = params["network"]
  return {**keys.to_state(network, rules(network)), MEAN: params[MEAN]}


def load(
  path: str | pathlib.Path, network: c3d.C3D = c3d.C3D(), size: int = c3d.SIZE
) -> dict[str, Any]:
  """Reads network and mean video from a safetensors file.

  Raises:
    WeightsError: one line that begins with the file's name.
  """
  if not pathlib.Path(path).expanduser().is_file():
    named = f"{path} does not exist or is no file" if str(path) else "no weights are named"
    raise WeightsError(
      f"{named}; C3D's are made once by python -m lamd_jax.tools.convert c3d --source"
      f" conv3d_deepnetA_ucf.npz --mean mean2.npz --out {FILE_NAME}, from TGAN2's files"
    )
  state = safetensors_file.read(path)
  try:
    return to_params(state, network, size)
  except WeightsError as error:
    raise WeightsError(f"{path}: {error}") from error
