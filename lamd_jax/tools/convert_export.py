# SPDX-License-Identifier: Apache-2.0
"""A trained stage under the names of LVDM's code; a part of tools.convert.

  python -m lamd_jax.tools.convert export runs/mine --stage diffusion \
    --out diffusion.safetensors

`load_state_dict` of the original code takes the file, but for the tables of the noise
schedule, which that code computes itself.
"""

from __future__ import annotations

import argparse
import json
import pathlib
from typing import Any

from etils import epath
from ml_collections import ConfigDict
import numpy as np

from lamd_jax import run_folder
from lamd_jax.errors import ConfigError
from lamd_jax.errors import WeightsError
from lamd_jax.interchange import lvdm_checkpoint as parts
from lamd_jax.tools import conversion
from lamd_jax.tools import convert_lvdm
from lamd_jax.tools import paths
from lamd_jax.training import checkpoints

WEIGHTS = ("ema", "raw", "both")


def export(run: pathlib.Path, stage: str, out: pathlib.Path, weights: str) -> None:
  """Writes one stage's weights as safetensors.

  Args:
    run: a run's directory, trained or converted.
    stage: autoencoder, or one that trains a denoiser.
    out: the safetensors file.
    weights: ema, the averages where there are any; raw; or both, for denoisers.

  Raises:
    ConfigError: there is no such run or stage, or nothing to choose from.
    WeightsError: the stage is not finished or damaged, or has networks that LVDM's
      code does not know, or the output cannot be written.
  """
  conversion.check_out(out)
  workdir = epath.Path(run).expanduser().resolve()
  config = run_folder.read(workdir)
  if config is None:
    raise ConfigError(f"{run}: holds no run (no config.json)")
  folder = workdir / stage
  if not checkpoints.finished(folder):
    known = sorted(p.name for p in workdir.iterdir() if checkpoints.finished(p))
    raise ConfigError(
      f"--stage={stage}: not finished in {run}; finished are {', '.join(known) or '-'}"
    )
  tree, unnamed = _tree(folder, config, weights)
  for group in unnamed:
    print(f"not exported: {group}, which LVDM's code does not have")
  source = {"run": workdir.name, "stage": stage, "weights": weights}
  source["step"] = checkpoints.finished_step(folder)
  record = {"sources": [source], "keys": convert_lvdm.keys_of(tree)}
  conversion.write(out, parts.to_state(tree), f"lvdm_{stage}", record)


def _tree(
  folder: epath.Path, config: ConfigDict, weights: str
) -> tuple[dict[str, Any], list[str]]:
  """Returns the tree of a checkpoint's parts, and the groups that are none of it."""
  which = "raw" if weights == "both" else weights
  loaded = checkpoints.load_weights(folder, which)["params"]
  if "denoiser" not in loaded:
    if weights == "both":
      raise ConfigError("--weights=both: LVDM's code averages denoisers alone")
    known = {config.model.first_stage: loaded["generator"]}
    return known, [group for group in loaded if group != "generator"]
  tree = {parts.DENOISER: loaded["denoiser"]}
  if weights == "both":
    if "denoiser" not in checkpoints.averaged_groups(folder):
      raise ConfigError(f"--weights=both: {folder} holds no average; take raw")
    tree[parts.EMA] = checkpoints.load_weights(folder, "ema")["params"]["denoiser"]
    tree[parts.EMA_STATE] = _average(folder, config)
  return tree, [group for group in loaded if group != "denoiser"]


def _average(folder: epath.Path, config: ConfigDict) -> dict[str, np.ndarray]:
  """What the original code keeps beside the averages."""
  record = folder.parent / convert_lvdm.RECORD
  if record.exists():
    try:
      known = json.loads(record.read_text())["ema"]
    except (ValueError, LookupError, TypeError) as error:
      raise WeightsError(f"{record} is damaged; convert it again") from error
  else:
    known = {
      "decay": config.optim[folder.name].ema_decay,
      "num_updates": checkpoints.finished_step(folder),
    }
  return {
    "decay": np.asarray(known["decay"], np.float32),
    "num_updates": np.asarray(known["num_updates"], np.int32),
  }


def _add_arguments(parser: argparse.ArgumentParser) -> None:
  parser.add_argument("run", type=paths.path, metavar="RUN")
  parser.add_argument("--stage", required=True, help="autoencoder, diffusion, ...")
  parser.add_argument("--weights", choices=WEIGHTS, default="ema")
  conversion.add_out(parser)


PART = conversion.Part(
  "a trained stage under LVDM's names",
  _add_arguments,
  lambda options: export(options.run, options.stage, options.out, options.weights),
)
