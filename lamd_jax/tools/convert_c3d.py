# SPDX-License-Identifier: Apache-2.0
"""C3D, the network of UCF-101's inception score; a part of tools.convert."""

from __future__ import annotations

import argparse
import pathlib

import numpy as np

from lamd_jax.errors import WeightsError
from lamd_jax.interchange import c3d
from lamd_jax.interchange import numpy_zip
from lamd_jax.networks import c3d as network_file
from lamd_jax.tools import conversion
from lamd_jax.tools import paths

SOURCE = conversion.Source("C3D fine-tuned on UCF-101: by way of TGAN2; research use")


def convert_c3d(
  source: pathlib.Path,
  mean: pathlib.Path,
  out: pathlib.Path,
  network: network_file.C3D = network_file.C3D(),
  size: int = network_file.SIZE,
) -> None:
  """Joins network and mean video into one file, as float32.

  Args:
    source: conv3d_deepnetA_ucf.npz, chainer's parameters by name.
    mean: mean2.npz.
    out: the safetensors file.
    network: whose widths the source must have.
    size: of the clips that its first linear layer was made for.

  Raises:
    WeightsError: a source is absent, damaged or of another network, or the output
      cannot be written.
  """
  conversion.check_out(out)
  entries = [conversion.check_source(path, SOURCE, False) for path in (source, mean)]
  video = numpy_zip.read(mean)
  conversion.check_names(mean, video, {c3d.MEAN})
  try:
    params = c3d.to_params({**numpy_zip.read(source), **video}, network, size)
  except WeightsError as error:
    raise WeightsError(f"{source}, {mean}: {error}") from error
  keys = {rule.source: "/".join(rule.path) for rule in c3d.rules(params["network"])}
  record = {"sources": entries, "not_used": [], "keys": keys}
  state = {k: np.asarray(v) for k, v in c3d.to_state(params).items()}
  conversion.write(out, state, "c3d_ucf101", record)
  c3d.load(out, network, size)


def _add_arguments(parser: argparse.ArgumentParser) -> None:
  for flag in ("--source", "--mean"):
    parser.add_argument(flag, type=paths.path, required=True, metavar="NPZ")
  conversion.add_out(parser)


PART = conversion.Part(
  "C3D of UCF-101, for inception scores",
  _add_arguments,
  lambda options: convert_c3d(options.source, options.mean, options.out),
)
