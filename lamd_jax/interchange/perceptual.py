# SPDX-License-Identifier: Apache-2.0
"""The weights of LPIPS on disk: VGG16's convolutions and the five linear layers.

The file keeps the names and layouts of its two sources, joined:

  features.{0,2,5,...,28}.{weight,bias}   torchvision's VGG16
  lin{0..4}.model.1.weight                lpips 0.1, [1,C,1,1]
"""

from __future__ import annotations

import pathlib
from typing import Any

import numpy as np

from lamd_jax.errors import WeightsError
from lamd_jax.interchange import keys
from lamd_jax.interchange import safetensors_file
from lamd_jax.networks import perceptual

FILE_NAME = "lpips_vgg16.safetensors"
VGG_FILE = "vgg16-397923af.pth"  # the digits begin its SHA-256
LINS_FILE = "vgg.pth"
# The rest of VGG16, which LPIPS does not use.
IGNORED = tuple(
  f"classifier.{layer}.{name}" for layer in (0, 3, 6) for name in ("weight", "bias")
)


def rules() -> list[keys.Rule]:
  """Returns one rule per parameter of `networks.perceptual`."""
  found = []
  for path in keys.flatten(perceptual.shapes()):
    if path[0] == "lins":
      rule = keys.Rule(f"lin{path[1]}.model.1.weight", path, "conv2d_as_vector")
    elif path[2] == "kernel":
      rule = keys.Rule(f"features.{path[1]}.weight", path, "conv2d")
    else:
      rule = keys.Rule(f"features.{path[1]}.bias", path, "copy")
    found.append(rule)
  return found


def to_params(state: keys.State) -> dict[str, Any]:
  """Renames a state dict to the parameters of `perceptual.distance`, float32.

  Args:
    state: {name: array} of the names above; `IGNORED` ones may stand there too.

  Raises:
    WeightsError: lists all names that are missing, unused or of a wrong shape, or
      whose values cannot be those of LPIPS.
  """
  params = keys.to_params(state, rules(), perceptual.shapes(), IGNORED)
  flat = {path: v.astype(np.float32) for path, v in keys.flatten(params).items()}
  bad = [f"{'/'.join(p)} is not finite" for p, v in flat.items() if not _finite(v)]
  # Training clips them at 0, or LPIPS would not be a distance.
  lins = {path: v for path, v in flat.items() if path[0] == "lins"}
  bad += [f"{'/'.join(p)} is negative" for p, v in lins.items() if v.min() < 0]
  if bad:
    raise WeightsError(f"these are no weights of LPIPS: {'; '.join(bad)}")
  return keys.nest(flat)


def _finite(array: np.ndarray) -> bool:
  return bool(np.isfinite(array).all())


def to_state(params: keys.Params) -> dict[str, np.ndarray]:
  """The inverse of `to_params`."""
  return keys.to_state(params, rules())


def load(path: str | pathlib.Path) -> dict[str, Any]:
  """Reads the parameters of `perceptual.distance` from a safetensors file.

  Raises:
    WeightsError: one line that begins with the file's name.
  """
  state = safetensors_file.read(path)
  try:
    return to_params(state)
  except WeightsError as error:
    raise WeightsError(f"{path}: {error}") from error


def how_to_get(path: str | pathlib.Path) -> str:
  """Returns what to say to a user who has no such file, over several lines.

  Args:
    path: the file that is not there; "" if none was named.
  """
  named = f"{path} does not exist" if str(path) else "model.perceptual.weights is empty"
  return (
    f"{named}; LPIPS needs weights, made once by\n"
    f"  python -m lamd_jax.tools.convert lpips --vgg {VGG_FILE} --lins {LINS_FILE}"
    f" --out {FILE_NAME}\n"
    f"from torchvision's {VGG_FILE} (https://download.pytorch.org/models/{VGG_FILE})\n"
    f"and {LINS_FILE} of the lpips package (lpips/weights/v0.1/{LINS_FILE}, 7,289"
    " bytes); then\n"
    f"  --config.model.perceptual.weights={FILE_NAME}\n"
    "or train without: --config.model.perceptual.weights=none"
  )
