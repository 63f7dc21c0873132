# SPDX-License-Identifier: Apache-2.0
"""Stable Diffusion's autoencoder, of any scheme of names; a part of tools.convert.

  python -m lamd_jax.tools.convert sd-vae diffusion_pytorch_model.safetensors \
    --out sd_vae.safetensors
"""

from __future__ import annotations

import argparse
import pathlib

import jax
import jax.numpy as jnp

from lamd_jax import config as config_lib
from lamd_jax.errors import WeightsError
from lamd_jax.interchange import safetensors_file
from lamd_jax.interchange import sd_vae
from lamd_jax.interchange import torch_zip
from lamd_jax.networks import image_autoencoder
from lamd_jax.nn import initializers
from lamd_jax.tools import conversion
from lamd_jax.tools import paths

# Published in many files, alone and within models, so no hash is on record.
SOURCE = conversion.Source(
  "Stable Diffusion autoencoder: CreativeML OpenRAIL-M, sd-vae-ft-* MIT"
)
PART_NAME = "sd_vae"


def released() -> image_autoencoder.ImageAutoencoder:
  """The network of the published weights."""
  settings = config_lib.defaults().model.image_autoencoder
  return image_autoencoder.ImageAutoencoder(**settings.to_dict())


def convert_sd_vae(
  source: pathlib.Path,
  out: pathlib.Path,
  network: image_autoencoder.ImageAutoencoder,
) -> None:
  """Writes the autoencoder as float32 under latent diffusion's names.

  Args:
    source: safetensors or a file of torch.save, of the autoencoder or a whole model.
    out: the safetensors file.
    network: whose widths and levels the source must have.

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
  frame = jax.ShapeDtypeStruct((1, 1, 64, 64, 3), jnp.float32)
  expected = initializers.shapes(network, frame)["params"]
  try:
    state, unused = sd_vae.unwrap(state)
    params = sd_vae.to_params(state, expected)
  except WeightsError as error:
    raise WeightsError(f"{source}: {error}") from error
  print(f"not used: {len(unused)} tensors, listed in the record")
  theirs = {r.path: r.source for r in sd_vae.rules(expected, sd_vae.naming(state))}
  names = {r.source: theirs[r.path] for r in sd_vae.rules(expected, "ldm")}
  record = {"sources": [entry], "not_used": unused, "keys": names}
  conversion.write(out, sd_vae.to_state(params), PART_NAME, record)


def _add_arguments(parser: argparse.ArgumentParser) -> None:
  parser.add_argument("source", type=paths.path, metavar="FILE")
  conversion.add_out(parser)


PART = conversion.Part(
  "Stable Diffusion's autoencoder, under latent diffusion's names",
  _add_arguments,
  lambda options: convert_sd_vae(options.source, options.out, released()),
)
