# SPDX-License-Identifier: Apache-2.0
"""What tools that make a run of another run share: the parts that stay as they were."""

from __future__ import annotations

from collections.abc import Callable, Mapping
import json
import pathlib
import shutil
from typing import Any

from etils import epath
import jax
from ml_collections import ConfigDict

from lamd_jax import exported
from lamd_jax import limits
from lamd_jax import run_folder
from lamd_jax.errors import ConfigError
from lamd_jax.interchange import clip_image
from lamd_jax.interchange import clip_text
from lamd_jax.interchange import dpt
from lamd_jax.interchange import safetensors_file
from lamd_jax.modes import imported
from lamd_jax.systems import distill_stage
from lamd_jax.systems.registry import SYSTEMS
from lamd_jax.training import checkpoints

Weights = Mapping[str, Any]  # {stage: {"params": ..., "extras": ...}}
# Imported network -> its tensors under the names that a run reads.
_TO_STATE: dict[str, Callable[[Any], dict[str, Any]]] = {
  "clip_text": clip_text.to_state, "clip_image": clip_image.to_state,
  "depth": dpt.to_state,
}  # fmt: skip


def check_begun(note: epath.Path, record: Mapping[str, Any], out: epath.Path) -> None:
  """Raises ConfigError if `note` says that `out` was begun with another record."""
  if not note.exists():
    return
  before = json.loads(note.read_text())
  for key, value in record.items():
    if before.get(key) != value:
      raise ConfigError(
        f"--{key}={value}: {out} was begun with {before.get(key)}; name another --out"
      )


def write(
  config: ConfigDict,
  run: epath.Path,
  out: epath.Path,
  weights: Weights,
  made: str,
  record: Mapping[str, Any],
  name: str,
) -> None:
  """Makes `out` a run, whose stage `made` lies there already.

  Args:
    config: of the new run; files are named in it as in `run`'s.
    run: the run or the export that it was made of.
    out: the new folder.
    weights: of all that sampling needs, as `loading.gather` gives them.
    made: the stage that is new.
    record: how it was made, for `name`.
    name: of the record's file.
  """
  for stage in SYSTEMS[config.system](config).generates_with:
    # A distilled network is that of the weights that it was distilled from.
    if stage not in (made, distill_stage.NAME) and stage in weights:
      params, extras = weights[stage]["params"], weights[stage]["extras"]
      checkpoints.write_finished(out / stage, params, {}, extras)
  config = config.copy_and_resolve_references()
  with config.unlocked():
    # Stages that only led to the last one are not there, nor to be trained again.
    config.stages = tuple(s for s in config.stages if checkpoints.finished(out / s))
    config.model.update(denoiser_weights="", autoencoder_weights="")  # has a folder
    if exported.holds(run):
      _write_imported(config, out, weights)
  for _, value in limits.leaves(config):
    if not isinstance(value, str) or not value or pathlib.Path(value).is_absolute():
      continue  # an absolute path names its file from anywhere
    if (run / value).is_file():
      (out / value).parent.mkdir(parents=True, exist_ok=True)
      shutil.copy(run / value, out / value)
  (out / name).write_text(json.dumps(dict(record), indent=2) + "\n")
  run_folder.write(out, config)  # last: it makes a run of the folder


def _write_imported(config: ConfigDict, out: epath.Path, weights: Weights) -> None:
  """Writes an export's imported networks as files, which is where runs find them."""
  content, text = config.model.content, config.model.text
  places = {
    "clip_text": (content, "text_weights") if config.system == "gen1"
    else (text, "weights"),
    "clip_image": (content, "image_weights"),
    "depth": (config.model.structure, "depth_weights"),
  }  # fmt: skip
  for name in imported.names(config):
    if name in weights:
      group, key = places[name]
      group[key] = f"{name}.safetensors"
      state = _TO_STATE[name](jax.device_get(weights[name]["params"]))
      safetensors_file.write(pathlib.Path(out / group[key]), state, {"part": name})
