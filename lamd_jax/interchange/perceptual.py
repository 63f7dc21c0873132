# SPDX-License-Identifier: Apache-2.0
"""Weights of LPIPS: torchvision's VGG16 convolutions and the published distances.

In the safetensors file the tensors keep the names and layouts of their sources:
`features.N.{weight,bias}` and `linK.model.1.weight`.
"""

from __future__ import annotations

from collections.abc import Mapping
import pathlib
from typing import Any

import numpy as np

from lamd_jax.errors import WeightsError
from lamd_jax.interchange import keys
from lamd_jax.interchange import safetensors_file
from lamd_jax.networks import perceptual

FILE_NAME = "lpips_vgg16.safetensors"
VGG_FILE = "vgg16-397923af.pth"
LINS_FILE = "vgg.pth"


def rules() -> list[keys.Rule]:
  """Returns one rule per array of `networks.perceptual`."""
  found = []
  for path in keys.flatten(perceptual.shapes()):
    part, index, *leaf = path
    if part == "lins":
      found.append(keys.Rule(f"lin{index}.model.1.weight", path, "conv2d_as_vector"))
    elif leaf == ["kernel"]:
      found.append(keys.Rule(f"features.{index}.weight", path, "conv2d"))
    else:
      found.append(keys.Rule(f"features.{index}.bias", path, "copy"))
  return found


def how_to_get(path: str | pathlib.Path) -> str:
  """Returns what to say to a user who has no such file, over several lines."""
  named = f"{path} does not exist" if str(path) else "model.perceptual.weights is empty"
  return (
    f"{named}; LPIPS needs weights, made once by\n"
    f"  python -m lamd_jax.tools.convert lpips --vgg {VGG_FILE} --lins {LINS_FILE}"
    f" --out {FILE_NAME}\n"
    f"from torchvision's {VGG_FILE} (https://download.pytorch.org/models/{VGG_FILE})\n"
    f"and {LINS_FILE} of the lpips package (lpips/weights/v0.1/{LINS_FILE}); then\n"
    f"  --config.model.perceptual.weights={FILE_NAME}\n"
    "or train without: --config.model.perceptual.weights=none"
  )


def load(path: str | pathlib.Path) -> dict[str, Any]:
  """Returns the parameters of `networks.perceptual.distance` as NumPy arrays.

  Raises:
    WeightsError: the file is missing, damaged, or does not hold exactly these tensors.
  """
  path = pathlib.Path(path).expanduser()
  if not path.is_file():
    raise WeightsError(how_to_get(path))
  try:
    return to_params(safetensors_file.read(path))
  except WeightsError as error:
    raise WeightsError(f"{path}: {error}") from error


def to_params(state: Mapping[str, np.ndarray]) -> dict[str, Any]:
  """Renames tensors, in the sources' names, to parameters; strict."""
  return keys.to_params(state, rules(), perceptual.shapes())
