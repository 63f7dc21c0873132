# SPDX-License-Identifier: Apache-2.0
"""Models on the Hugging Face Hub: fetched by name, and uploaded when told to.

Asks the network for hub:OWNER/NAME and for uploads alone; LAMD_OFFLINE=1 keeps it to
what was fetched before. Needs the extra `hub`.
"""

from __future__ import annotations

import os
import pathlib
import re
from typing import Any

from lamd_jax.errors import ConfigError
from lamd_jax.errors import WeightsError

PREFIX = "hub:"
_NAME = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*(@[\w./-]+)?")
# Nothing that could be unpickled, and no file that `load` does not read.
_FETCHED = ["*.json", "*.safetensors", "*.txt", "*.txt.gz"]


def is_name(name: str) -> bool:
  """Whether this is OWNER/NAME or OWNER/NAME@REVISION."""
  return _NAME.fullmatch(name) is not None


def fetch(name: str) -> pathlib.Path:
  """Returns the folder with the files of OWNER/NAME[@REVISION].

  Raises:
    ConfigError: it is no such name. WeightsError: it cannot be fetched.
  """
  if not is_name(name):
    raise ConfigError(f"{PREFIX}{name}: expected {PREFIX}OWNER/NAME or @REVISION after it")
  repository, _, revision = name.partition("@")
  hub = _library(name, "; or fetch the repository by hand and name its folder")
  try:
    return pathlib.Path(hub.snapshot_download(
      repository, revision=revision or None, allow_patterns=_FETCHED,
      local_files_only=_offline(),
    ))  # fmt: skip
  except Exception as error:  # the library raises its own, requests' and httpx's
    why = f"cannot be fetched ({_first_line(error)})"
    if _offline():
      why = "LAMD_OFFLINE is set and it was not fetched before"
    raise WeightsError(f"{PREFIX}{name}: {why}") from error


def push(folder: pathlib.Path, name: str, private: bool) -> str:
  """Uploads an export, all its files in one commit; returns the address.

  The repository is made if there is none; the library finds the user's token itself, in
  the environment or where `hf auth login` put it.

  Raises:
    ConfigError: `name` is not OWNER/NAME, or LAMD_OFFLINE is set.
    WeightsError: the upload failed; the folder is as it was.
  """
  if not is_name(name) or "@" in name:
    raise ConfigError(f"--push={name}: expected OWNER/NAME")
  if _offline():
    raise ConfigError(f"--push={name}: LAMD_OFFLINE is set; unset it to upload")
  hub = _library(name, "")
  try:
    hub.create_repo(name, private=private, exist_ok=True)
    found = hub.upload_folder(
      repo_id=name, folder_path=str(folder), commit_message="Export of lamd_jax"
    )
  except Exception as error:
    raise WeightsError(
      f"--push={name}: cannot be uploaded ({_first_line(error)}); {folder} is complete"
    ) from error
  return str(found)


def _library(name: str, otherwise: str) -> Any:
  try:
    import huggingface_hub  # Late: an optional package.
  except ImportError as error:
    raise WeightsError(
      f"{PREFIX}{name}: needs huggingface_hub, pip install 'lamd_jax[hub]'{otherwise}"
    ) from error
  return huggingface_hub


def _offline() -> bool:
  return os.environ.get("LAMD_OFFLINE", "") not in ("", "0")


def _first_line(error: Exception) -> str:
  said = str(error).splitlines()[:1]
  return ": ".join([type(error).__name__, *(line[:200] for line in said)])
