# SPDX-License-Identifier: Apache-2.0
"""DPT-Large, which estimates depth, out of either naming; a part of tools.convert."""

from __future__ import annotations

import argparse
import pathlib

from lamd_jax.errors import WeightsError
from lamd_jax.interchange import dpt
from lamd_jax.interchange import safetensors_file
from lamd_jax.interchange import torch_zip
from lamd_jax.networks import dpt as network_file
from lamd_jax.tools import conversion
from lamd_jax.tools import paths

# The same weights are published in several files, so no hash is on record.
SOURCE = conversion.Source("DPT-Large: Intel ISL, MiDaS v3, code under MIT")


def convert_depth(
  source: pathlib.Path,
  out: pathlib.Path,
  network: network_file.Dpt = network_file.DPT_LARGE,
) -> None:
  """Writes the network as float32 under transformers' names.

  Args:
    source: safetensors or a file of torch.save with a state dict, in MiDaS's or in
      transformers' names.
    out: the safetensors file.
    network: whose widths and layers the source must have.

  Raises:
    WeightsError: the source is absent, damaged or of another network, or the output
      cannot be written.
  """
  conversion.check_out(out)
  entry = conversion.check_source(source, SOURCE, False)
  is_safe = source.suffix == ".safetensors"
  state = (safetensors_file.read if is_safe else torch_zip.state_dict)(source)
  naming = dpt.naming(state)
  unused = [name for name in state if name in dpt.IGNORED]
  absent = dpt.absent(state, network)
  try:
    params = dpt.to_params(state, network)
  except WeightsError as error:
    raise WeightsError(f"{source}: {error}") from error
  print(f"read as {naming}; not used: {len(unused)} tensors, listed in the record")
  if absent:
    print(f"written as zero, absent and in no output: {len(absent)} tensors")
  theirs = {rule.path: rule.source for rule in dpt.rules(params, naming)}
  names = {rule.source: theirs[rule.path] for rule in dpt.rules(params)}
  record = {
    "sources": [entry], "naming": naming, "not_used": unused, "absent": absent,
    "keys": names,
  }  # fmt: skip
  conversion.write(out, dpt.to_state(params), "dpt_large", record)
  # What a run will do with it, now and not in its first minute.
  dpt.load(out, network)


def _add_arguments(parser: argparse.ArgumentParser) -> None:
  parser.add_argument(
    "--source",
    type=paths.path,
    required=True,
    metavar="FILE",
    help="dpt_large_384.pt or dpt_large-midas-2f21e586.pt of MiDaS, or the"
    " model.safetensors or pytorch_model.bin of Intel/dpt-large",
  )
  conversion.add_out(parser)


PART = conversion.Part(
  "DPT-Large of MiDaS, for Gen-1's structure",
  _add_arguments,
  lambda options: convert_depth(options.source, options.out),
)
