# SPDX-License-Identifier: Apache-2.0
"""Stable Diffusion 1's UNet, of either scheme of names; a part of tools.convert.

  python -m lamd_jax.tools.convert sd-unet v1-5-pruned.ckpt --weights ema \
    --out sd_unet.safetensors
"""

from __future__ import annotations

import argparse
import pathlib

import jax
import jax.numpy as jnp

from lamd_jax import types
from lamd_jax.errors import WeightsError
from lamd_jax.interchange import keys
from lamd_jax.interchange import safetensors_file
from lamd_jax.interchange import sd_unet
from lamd_jax.interchange import torch_zip
from lamd_jax.nn import initializers
from lamd_jax.systems import gen1_blocks
from lamd_jax.tools import conversion
from lamd_jax.tools import paths

# Published in many files, alone and within models, so no hash is on record.
SOURCE = conversion.Source("Stable Diffusion 1 UNet: CreativeML OpenRAIL-M")
PART_NAME = "sd_unet"
WEIGHTS = ("raw", "ema")
_CONTEXT = 768  # width of CLIP ViT-L/14, whose states the published network attends to
_LATENT = 4  # channels


def released() -> keys.Params:
  """Shapes of the published network's parameters in ours."""
  like = lambda *shape: jax.ShapeDtypeStruct(shape, jnp.float32)
  network = gen1_blocks.unet(
    gen1_blocks.STABLE_DIFFUSION_1, _LATENT, remat="none"
  )
  conditions = types.Conditions(context=like(1, 1, _CONTEXT))
  z = like(1, 1, 8, 8, _LATENT)
  return initializers.shapes(network, z, like(1), conditions)["params"]


def convert_sd_unet(
  source: pathlib.Path, out: pathlib.Path, weights: str, expected: keys.Params
) -> None:
  """Writes the UNet as float32 under latent diffusion's names.

  Args:
    source: safetensors or a file of torch.save, of the UNet or a whole model.
    out: the safetensors file.
    weights: raw, or ema for the moving average that full training files carry. Files
      with one set of weights have it as raw, whichever it is.
    expected: shapes of the parameters that the source must have.

  Raises:
    WeightsError: the source is absent, damaged or of another network, or the output
      cannot be written.
  """
  conversion.check_out(out)
  entry = conversion.check_source(source, SOURCE, False)
  if source.suffix == ".safetensors":
    state = safetensors_file.read(source)
  else:
    state = torch_zip.state_dict(source, torch_zip.TRAINING)
  try:
    if weights == "ema":
      state, unused = sd_unet.averages(state, expected)
    else:
      state, unused = sd_unet.unwrap(state)
    params = sd_unet.to_params(state, expected)
  except WeightsError as error:
    raise WeightsError(f"{source}: {error}") from error
  print(f"not used: {len(unused)} tensors, listed in the record")
  names = sd_unet.naming(state)
  theirs = {rule.path: rule.source for rule in sd_unet.rules(expected, names)}
  ours = sd_unet.rules(expected, "ldm")
  record = {
    "sources": [entry],
    "weights": weights,
    "not_used": unused,
    "keys": {rule.source: theirs[rule.path] for rule in ours},
  }
  conversion.write(out, sd_unet.to_state(params, "ldm"), PART_NAME, record)


def _add_arguments(parser: argparse.ArgumentParser) -> None:
  parser.add_argument("source", type=paths.path, metavar="FILE")
  parser.add_argument("--weights", choices=WEIGHTS, default="raw")
  conversion.add_out(parser)


PART = conversion.Part(
  "Stable Diffusion 1's UNet, under latent diffusion's names",
  _add_arguments,
  lambda options: convert_sd_unet(
    options.source, options.out, options.weights, released()
  ),
)
