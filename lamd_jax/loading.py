# SPDX-License-Identifier: Apache-2.0
"""Where a model's weights come from: a run, an export, or a repository of the Hub."""

from __future__ import annotations

from collections.abc import Sequence
import os
from typing import Any

from etils import epath
from ml_collections import ConfigDict

from lamd_jax import adapters
from lamd_jax import exported
from lamd_jax import hub
from lamd_jax.errors import ConfigError
from lamd_jax.errors import WeightsError
from lamd_jax.modes import imported
from lamd_jax.systems import distill_stage
from lamd_jax.systems.registry import SYSTEMS
from lamd_jax.training import checkpoints


def locate(path: str | os.PathLike[str]) -> epath.Path:
  """Returns the folder of a model; fetches it only for hub:OWNER/NAME[@REVISION].

  Raises:
    ConfigError: a name that is neither. WeightsError: it cannot be fetched.
  """
  name = os.fspath(path)
  if name.startswith(hub.PREFIX):
    return epath.Path(hub.fetch(name.removeprefix(hub.PREFIX)))
  folder = epath.Path(name)
  if "://" not in name:
    folder = folder.expanduser().resolve()
  if not folder.exists():
    other = f"; a model of the Hub is named {hub.PREFIX}{name}"
    raise ConfigError(f"{path}: no such folder{other if hub.is_name(name) else ''}")
  return folder


def gather(
  config: ConfigDict,
  workdir: epath.Path,
  which: str,
  lora: Sequence[adapters.Adapter] = (),
) -> tuple[ConfigDict, dict[str, Any]]:
  """Returns the config with its files found, and {stage: {"params", "extras"}}.

  A run may have trained some of its stages only; what needs another says so. `which` is
  of the denoisers: encoders are always the averages that those were trained on. The
  files of `lora` are laid over the weights.

  Raises:
    WeightsError: no stage was trained to its end, or an imported file is not there.
  """
  verify = config.train.checkpoint_verify
  if exported.holds(workdir):
    loaded = exported.read(workdir, which, verify)
  else:
    system = SYSTEMS[config.system](config)
    stages = [s for s in system.generates_with if checkpoints.finished(workdir / s)]
    if not stages:
      raise WeightsError(
        f"{workdir}: no stage is trained to its end; run --mode=train"
        f" --workdir={workdir} first"
      )
    read = {n for s in system.stages() if s.name != distill_stage.NAME for n in s.needs}
    loaded = {
      s: checkpoints.load_weights(workdir / s, "ema" if s in read else which, verify)
      for s in stages
    }
    for name in imported.names(config):
      loaded[name] = imported.LOAD[name](config, workdir)
  config = config.copy_and_resolve_references()
  with config.unlocked():
    config.data.vocabulary = imported.find(config.data.vocabulary, workdir)
  return config, adapters.over(config, loaded, lora)
