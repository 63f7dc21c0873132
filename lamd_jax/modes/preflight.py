# SPDX-License-Identifier: Apache-2.0
"""What a run needs from its user, looked for before anything is compiled."""

from __future__ import annotations

import pathlib

from ml_collections import ConfigDict

from lamd_jax.data import layouts
from lamd_jax.errors import DataError
from lamd_jax.errors import WeightsError
from lamd_jax.interchange import perceptual


def _missing_data(config: ConfigDict) -> str:
  data = config.data
  if data.source == "procedural":
    return ""
  if data.source == "tfds":
    return "" if data.name else "data: --config.data.name=NAME of a TFDS data set"
  if data.root and pathlib.Path(data.root).expanduser().is_dir():
    return ""
  found = f"{data.root} is no folder" if data.root else "no folder named"
  return (
    f"data: {found}; say --config.data.root=DIR, with this tree:\n"
    f"{layouts.expected_tree(data.source)}"
  )


def _missing_weights(config: ConfigDict) -> str:
  path = config.model.perceptual.weights
  unused = not config.loss.perceptual_weight or "autoencoder" not in config.stages
  if unused or path == "none" or (path and pathlib.Path(path).expanduser().is_file()):
    return ""
  return f"weights: {perceptual.how_to_get(path)}"


def check_inputs(config: ConfigDict) -> None:
  """Raises one error that names everything missing: data (3) before weights (4)."""
  data, weights = _missing_data(config), _missing_weights(config)
  if not data and not weights:
    return
  lines = ["this run lacks", *filter(None, (data, weights))]
  if config.variant != "demo":
    lines.append(
      f"without data or weights: --config=configs/{config.name}.py:demo"
    )
  raise (DataError if data else WeightsError)("\n".join(lines))
