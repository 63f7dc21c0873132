# SPDX-License-Identifier: Apache-2.0
"""Where a model's weights come from: a run, an export, or a repository of the Hub."""

from __future__ import annotations

from collections.abc import Sequence
import os
import re
from typing import Any

from etils import epath
from ml_collections import ConfigDict

from lamd_jax import adapters
from lamd_jax import exported
from lamd_jax.errors import ConfigError
from lamd_jax.errors import WeightsError
from lamd_jax.modes import imported
from lamd_jax.systems.registry import SYSTEMS
from lamd_jax.training import checkpoints

_HUB = "hub:"
_HUB_NAME = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*(@[\w./-]+)?")
# Nothing that could be unpickled, and no file that `load` does not read.
_FETCHED = ["*.json", "*.safetensors", "*.txt", "*.txt.gz"]


def locate(path: str | os.PathLike[str]) -> epath.Path:
  """Returns the folder of a model; fetches it only for hub:OWNER/NAME[@REVISION].

  Raises:
    ConfigError: a name that is neither. WeightsError: it cannot be fetched.
  """
  name = os.fspath(path)
  if name.startswith(_HUB):
    return _fetch(name.removeprefix(_HUB))
  folder = epath.Path(name)
  if "://" not in name:
    folder = folder.expanduser().resolve()
  if not folder.exists():
    hub = f"; a model of the Hub is named {_HUB}{name}" if _is_hub_name(name) else ""
    raise ConfigError(f"{path}: no such folder{hub}")
  return folder


def _is_hub_name(name: str) -> bool:
  return _HUB_NAME.fullmatch(name) is not None


def _fetch(name: str) -> epath.Path:
  if not _is_hub_name(name):
    raise ConfigError(f"{_HUB}{name}: expected {_HUB}OWNER/NAME or @REVISION after it")
  repository, _, revision = name.partition("@")
  try:
    import huggingface_hub  # Late: an optional package.
  except ImportError as error:
    raise WeightsError(
      f"{_HUB}{name}: needs huggingface_hub, pip install 'lamd_jax[hub]'; or fetch the"
      " repository by hand and name its folder"
    ) from error
  offline = os.environ.get("LAMD_OFFLINE", "") not in ("", "0")
  try:
    return epath.Path(huggingface_hub.snapshot_download(
      repository, revision=revision or None, allow_patterns=_FETCHED,
      local_files_only=offline,
    ))  # fmt: skip
  except Exception as error:  # the library raises its own, requests' and httpx's
    why = "LAMD_OFFLINE is set and it was not fetched before" if offline else (
      f"cannot be fetched ({type(error).__name__}: {str(error).splitlines()[0][:200]})"
      if str(error) else f"cannot be fetched ({type(error).__name__})"
    )  # fmt: skip
    raise WeightsError(f"{_HUB}{name}: {why}") from error


def gather(
  config: ConfigDict,
  workdir: epath.Path,
  which: str,
  lora: Sequence[adapters.Adapter] = (),
) -> tuple[ConfigDict, dict[str, Any]]:
  """Returns the config with its files found, and {stage: {"params", "extras"}}.

  A run may have trained some of its stages only; what needs another says so. The files
  of `lora` are laid over the weights.

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
    loaded = {s: checkpoints.load_weights(workdir / s, which, verify) for s in stages}
    for name in imported.names(config):
      loaded[name] = imported.LOAD[name](config, workdir)
  config = config.copy_and_resolve_references()
  with config.unlocked():
    config.data.vocabulary = imported.find(config.data.vocabulary, workdir)
  return config, adapters.over(config, loaded, lora)
