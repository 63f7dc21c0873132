# SPDX-License-Identifier: Apache-2.0
"""CLIP's text tower out of any of its published forms; a part of tools.convert."""

from __future__ import annotations

import argparse
import pathlib

from lamd_jax.errors import WeightsError
from lamd_jax.interchange import clip_text
from lamd_jax.interchange import safetensors_file
from lamd_jax.interchange import torch_zip
from lamd_jax.networks import clip_text as network_file
from lamd_jax.tools import conversion
from lamd_jax.tools import paths

# The same weights are published in several files, so no hash is on record.
SOURCE = conversion.Source("CLIP: OpenAI or OpenCLIP, code under MIT")


def convert_clip(
  source: pathlib.Path,
  out: pathlib.Path,
  network: network_file.ClipText = network_file.VIT_L_14,
  name: str = "vit_l_14",
) -> None:
  """Writes the text tower, and its projection where the source has one, as float32.

  Args:
    source: safetensors, or a file of torch.save with a state dict, of the whole CLIP
      or of its text tower, in Hugging Face's or in OpenAI's names.
    out: the safetensors file, in Hugging Face's names.
    network: whose widths and layers the source must have, without projection.
    name: of the network, for the record.

  Raises:
    WeightsError: the source is absent, damaged or of another network, or the output
      cannot be written.
  """
  conversion.check_out(out)
  entry = conversion.check_source(source, SOURCE, False)
  is_safe = source.suffix == ".safetensors"
  read = safetensors_file.read if is_safe else torch_zip.state_dict
  state = clip_text.hugging_face_names(read(source))
  if clip_text.PROJECTION in state:
    network = network.clone(projection=network.width)  # as in all three
  unused = [name for name in state if _is_unused(name)]
  print(f"not used: {len(unused)} tensors, listed in the record")
  try:
    params = clip_text.to_params(
      {name: value for name, value in state.items() if name not in unused}, network
    )
  except WeightsError as error:
    raise WeightsError(f"{source}: {error}") from error
  names = {r.source: "/".join(r.path) for r in clip_text.rules(params)}
  record = {"sources": [entry], "not_used": unused, "keys": names}
  conversion.write(out, clip_text.to_state(params), f"clip_{name}_text", record)
  # What a run will do with it, now and not in its first minute.
  clip_text.load(out, network)


def _is_unused(name: str) -> bool:
  return name in clip_text.IGNORED or name.startswith(clip_text.OF_IMAGES)


def _add_arguments(parser: argparse.ArgumentParser) -> None:
  parser.add_argument(
    "--source",
    type=paths.path,
    required=True,
    metavar="FILE",
    help="model.safetensors, pytorch_model.bin, or OpenAI's state_dict() by torch.save",
  )
  parser.add_argument("--network", choices=_NETWORKS, default="l14")
  conversion.add_out(parser)


# l14 is what text-to-video attends to, with or without a projection.
_NETWORKS = {
  "l14": (network_file.VIT_L_14, "vit_l_14"),
  "b32": (network_file.VIT_B_32, "vit_b_32"),
  "h14": (network_file.VIT_H_14, "vit_h_14"),
}
PART = conversion.Part(
  "CLIP's text tower (L/14 for captions; B/32, L/14, H/14 for scores)",
  _add_arguments,
  lambda options: convert_clip(options.source, options.out, *_NETWORKS[options.network]),
)
