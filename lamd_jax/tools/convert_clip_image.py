# SPDX-License-Identifier: Apache-2.0
"""CLIP's image tower out of any of its published forms; a part of tools.convert."""

from __future__ import annotations

import argparse
import pathlib

from lamd_jax.errors import WeightsError
from lamd_jax.interchange import clip_image
from lamd_jax.interchange import safetensors_file
from lamd_jax.interchange import torch_zip
from lamd_jax.networks import clip_image as network_file
from lamd_jax.tools import conversion
from lamd_jax.tools import paths

# The same weights are published in several files, so no hash is on record.
SOURCE = conversion.Source("CLIP: OpenAI or OpenCLIP, code under MIT")


def convert_clip_image(
  source: pathlib.Path, out: pathlib.Path, network: network_file.ClipImage, name: str
) -> None:
  """Writes the image tower with its projection as float32.

  Args:
    source: safetensors, or a file of torch.save with a state dict, of the whole CLIP
      or of its image tower, in Hugging Face's or in OpenAI's names.
    out: the safetensors file, in Hugging Face's names.
    network: whose widths and layers the source must have.
    name: of the network, for the record.

  Raises:
    WeightsError: the source is absent, damaged or of another network, or the output
      cannot be written.
  """
  conversion.check_out(out)
  entry = conversion.check_source(source, SOURCE, False)
  is_safe = source.suffix == ".safetensors"
  state = (safetensors_file.read if is_safe else torch_zip.state_dict)(source)
  unused = [k for k in state if clip_image.is_unused(k)]
  print(f"not used: {len(unused)} tensors, listed in the record")
  try:
    params = clip_image.to_params(
      {k: v for k, v in state.items() if k not in unused}, network
    )
  except WeightsError as error:
    raise WeightsError(f"{source}: {error}") from error
  keys = {r.source: "/".join(r.path) for r in clip_image.rules(params)}
  record = {"sources": [entry], "not_used": unused, "keys": keys}
  conversion.write(out, clip_image.to_state(params), f"clip_image_{name}", record)
  # What a score will do with it, now and not in its first minute.
  clip_image.load(out, network)


def _add_arguments(parser: argparse.ArgumentParser) -> None:
  add = parser.add_argument
  add("--source", type=paths.path, required=True, metavar="FILE")
  add("--network", required=True, choices=network_file.NETWORKS)
  conversion.add_out(parser)


PART = conversion.Part(
  "CLIP's image tower (B/32, L/14, H/14), for CLIPSIM and consistency",
  _add_arguments,
  lambda options: convert_clip_image(
    options.source, options.out, network_file.NETWORKS[options.network], options.network
  ),
)
