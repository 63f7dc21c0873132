# SPDX-License-Identifier: Apache-2.0
"""I3D, the network behind FVD, out of any of its namings; a part of tools.convert."""

from __future__ import annotations

import argparse
import pathlib

import numpy as np

from lamd_jax.errors import WeightsError
from lamd_jax.interchange import i3d
from lamd_jax.interchange import numpy_zip
from lamd_jax.interchange import safetensors_file
from lamd_jax.interchange import torch_zip
from lamd_jax.networks import i3d as network_file
from lamd_jax.tools import conversion
from lamd_jax.tools import paths

# The same weights are published under several names, so no hash is on record.
SOURCE = conversion.Source("I3D Kinetics-400: DeepMind; research use of Kinetics")
READERS = {".safetensors": safetensors_file.read, ".npz": numpy_zip.read}


def convert_i3d(source: pathlib.Path, out: pathlib.Path, network: network_file.I3D):
  """Writes the network as float32 under piergiaj's names.

  Args:
    source: safetensors, npz (the variables of TF-Hub's module by name) or a file of
      torch.save with a state dict, in any of `interchange.i3d.NAMINGS`.
    out: the safetensors file.
    network: whose widths and classes the source must have.

  Raises:
    WeightsError: the source is absent, damaged or of another network, or the output
      cannot be written.
  """
  conversion.check_out(out)
  entry = conversion.check_source(source, SOURCE, False)
  state = READERS.get(source.suffix, torch_zip.state_dict)(source)
  names, unused = i3d.naming(state), i3d.ignored(state)
  try:
    params = i3d.to_params(state, network)
  except WeightsError as error:
    raise WeightsError(f"{source}: {error}") from error
  print(f"read as {names}; not used: {len(unused)} counters, listed in the record")
  keys = {rule.source: "/".join(rule.path) for rule in i3d.rules(params, "piergiaj")}
  record = {"sources": [entry], "naming": names, "not_used": unused, "keys": keys}
  state = {k: np.asarray(v) for k, v in i3d.to_state(params).items()}
  conversion.write(out, state, "i3d_kinetics400", record)
  # What a score will do with it, now and not in its first minute.
  i3d.load(out, network)


def _add_arguments(parser: argparse.ArgumentParser) -> None:
  parser.add_argument(
    "--source",
    type=paths.path,
    required=True,
    metavar="FILE",
    help="i3d_pretrained_400.pt, a state dict in hassony2's names, or TF-Hub's"
    " variables as npz",
  )
  conversion.add_out(parser)


PART = conversion.Part(
  "I3D of Kinetics-400, for FVD",
  _add_arguments,
  # The epsilon is no weight: each protocol brings its own.
  lambda options: convert_i3d(
    options.source, options.out, network_file.I3D(epsilon=1e-3)
  ),
)
