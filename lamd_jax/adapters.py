# SPDX-License-Identifier: Apache-2.0
"""LoRA files laid over a model's weights, each with a weight, before it is used.

At a weight of 0 the weights are those of the model bit by bit; several files add.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import hashlib
import os
import pathlib
from typing import Any, NamedTuple

from absl import logging
from ml_collections import ConfigDict
import numpy as np

from lamd_jax import exported
from lamd_jax import limits
from lamd_jax import run_folder
from lamd_jax.errors import ConfigError
from lamd_jax.errors import WeightsError
from lamd_jax.interchange import keys
from lamd_jax.interchange import lora_file
from lamd_jax.systems import distill_stage
from lamd_jax.systems import parameter_groups
from lamd_jax.systems.diffusion_stage import DenoiserStage
from lamd_jax.systems.further_stage import DENOISER
from lamd_jax.systems.further_stage import TEMPORAL
from lamd_jax.systems.registry import SYSTEMS

FORMAT = "lamd_jax lora 1"
NAME = "lora.safetensors"  # below the run that was made with it
Tree = Mapping[str, Any]


class Adapter(NamedTuple):
  """A file and how much of it."""

  path: str
  weight: float


def asked(
  lora: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
  weight: float | Sequence[float],
) -> tuple[Adapter, ...]:
  """Pairs files and weights; one weight serves all files.

  Args:
    lora: a file, several with commas between them, or a list of files.
    weight: one number, or one to each file.

  Raises:
    ConfigError: there are neither one nor as many weights, one out of range, or one of
      no file.
  """
  if isinstance(lora, str):
    files = [name.strip() for name in lora.split(",") if name.strip()]
  else:
    files = [lora] if isinstance(lora, os.PathLike) else list(lora)
  weights = tuple(weight) if isinstance(weight, Sequence) else (weight,)
  limits.check_leaf("sample", "lora_weight", weights)
  said = f"lora_weight={','.join(f'{x:g}' for x in weights)}"
  if not files and set(weights) != {1.0}:
    raise ConfigError(f"{said}: there is no LoRA file that it would weigh; name one")
  if len(weights) not in (1, len(files)) and files:
    raise ConfigError(
      f"{said}: {len(weights)} weights for {len(files)} LoRA files; give one, or one to"
      " each"
    )
  weights = weights * len(files) if len(weights) == 1 else weights
  return tuple(Adapter(os.fspath(f), float(w)) for f, w in zip(files, weights))


def numbers(text: str) -> tuple[float, ...]:
  """The weights in "0.8,0.5". Raises ConfigError."""
  try:
    return tuple(float(part) for part in text.split(","))
  except ValueError as error:
    raise ConfigError(f"--lora_weight={text}: numbers, as 0.8 or 0.8,0.5") from error


def record(adapters: Sequence[Adapter]) -> list[dict[str, Any]]:
  """What samples.json says of the files: name, SHA-256 and weight of each."""
  digest = lambda path: exported.sha256(pathlib.Path(path).expanduser())
  return [{"file": p, "sha256": digest(p), "weight": weight} for p, weight in adapters]


def stages(config: ConfigDict, weights: Mapping[str, Any]) -> list[DenoiserStage]:
  """The stages with a denoiser, of those that there are weights of."""
  known = SYSTEMS[config.system](config).stages()
  return [s for s in known if isinstance(s, DenoiserStage) and s.name in weights]


def network(params: Tree) -> dict[str, Any]:
  """A denoiser's parameters out of a stage's groups, temporal ones among them."""
  if TEMPORAL in params:
    return parameter_groups.merge(params[DENOISER], params[TEMPORAL])
  return dict(params[DENOISER])


def with_network(params: Tree, whole: Tree) -> dict[str, Any]:
  """The groups again, with `whole` in the place of the denoiser's parameters."""
  if TEMPORAL not in params:
    return {**params, DENOISER: whole}
  spatial, temporal = parameter_groups.split(whole)
  return {**params, DENOISER: spatial, TEMPORAL: temporal}


def base_hash(params: Tree) -> str:
  """Hash of a denoiser's parameters, by path and bytes: which model a file is for."""
  digest = hashlib.sha256()
  for path, leaf in sorted(keys.flatten(network(params)).items()):
    array = np.ascontiguousarray(leaf)
    digest.update(f"{'/'.join(path)}:{array.dtype}:{array.shape}".encode())
    digest.update(array)
  return digest.hexdigest()


def changes_of(tree: Tree, alpha: float) -> dict[lora_file.Path, lora_file.Change]:
  """Changes by layer, of a tree as `systems.lora` trains it."""
  by_layer: dict[lora_file.Path, dict[str, np.ndarray]] = {}
  for (*path, part), array in keys.flatten(tree).items():
    by_layer.setdefault(tuple(path), {})[part] = np.asarray(array)
  return {path: lora_file.Change(**x, alpha=alpha) for path, x in by_layer.items()}


def write(
  path: pathlib.Path,
  config: ConfigDict,
  stage: str,
  base: Tree,
  changes: Mapping[lora_file.Path, lora_file.Change],
) -> None:
  """Writes changes of a stage's network; `base` are the groups that they change."""
  rank, alpha = next((c.a.shape[1], c.alpha) for c in changes.values())
  about = {
    "format": FORMAT, "system": config.system, "stage": stage, "rank": rank,
    "alpha": alpha, "base": base_hash(base), "config": run_folder.config_hash(config),
    "name": f"{config.name}-{config.variant}",
  }  # fmt: skip
  known = lora_file.layers(config.system, network(base))
  lora_file.write(path, changes, known, about)


def merged(
  params: Tree, changes: Mapping[lora_file.Path, lora_file.Change], weight: float
) -> dict[str, Any]:
  """A stage's groups with changes added to its denoiser."""
  return with_network(params, lora_file.merged(network(params), changes, weight))


def _read(
  path: str, config: ConfigDict, found: Sequence[DenoiserStage], weights: Tree
) -> tuple[str, str, dict[lora_file.Path, lora_file.Change]]:
  """Returns a file's stage, the hash of its base ("" if it says none), its changes."""
  about = lora_file.about(path)
  stage, base = str(about.get("stage", found[0].name)), str(about.get("base", ""))
  if about.get("system", config.system) != config.system:
    raise WeightsError(f"{path}: is for {about['system']}, this model is {config.system}")
  if stage not in {s.name for s in found}:
    raise WeightsError(
      f"{path}: is for the stage {stage}; of this model there are"
      f" {', '.join(s.name for s in found)}"
    )
  known = lora_file.layers(config.system, network(weights[stage]["params"]))
  return stage, base, lora_file.read(path, known)


def _alike(
  config: ConfigDict, weights: Mapping[str, Any], stage: str
) -> tuple[str, ...]:
  """The stage, and what was distilled from it."""
  known = SYSTEMS[config.system](config).stages()
  taught = [s for s in known if s.name == distill_stage.NAME and s.name in weights]
  return (stage, *(s.name for s in taught if s.starts_from == stage))


def over(
  config: ConfigDict, weights: Mapping[str, Any], adapters: Sequence[Adapter]
) -> dict[str, Any]:
  """Returns {stage: {"params", "extras"}} with files laid over their stages.

  A file made for other weights of the same network is taken, and a warning says so.
  What changes a stage changes its distilled network alike (Luo et al., arXiv
  2311.05556).

  Raises:
    WeightsError: a file that is none, or does not fit the network; one line.
  """
  weights = dict(weights)
  found = stages(config, weights) if adapters else []
  if adapters and not found:
    raise WeightsError(f"{adapters[0].path}: this model has no denoiser to change")
  hashes: dict[str, str] = {}  # before any file was laid over them
  for path, weight in adapters:
    stage, base, changes = _read(path, config, found, weights)
    params = weights[stage]["params"]
    if stage not in hashes:
      hashes[stage] = base_hash(params)
    if base not in ("", hashes[stage]):
      logging.warning(
        "%s was trained on other weights of %s (%s, not %s)", path, stage, base[:12],
        hashes[stage][:12],
      )  # fmt: skip
    for name in _alike(config, weights, stage):
      new = merged(weights[name]["params"], changes, weight)
      weights[name] = {**weights[name], "params": new}
  return weights
