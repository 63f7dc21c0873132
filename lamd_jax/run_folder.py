# SPDX-License-Identifier: Apache-2.0
"""What a run writes about itself: its resolved config and its environment."""

from __future__ import annotations

from collections.abc import Callable
import datetime
import hashlib
from importlib import metadata
import json
import os
import pathlib
import platform
import subprocess
import sys
from typing import Any

from absl import logging
from etils import epath
import jax
from ml_collections import ConfigDict

from lamd_jax import config as config_lib
from lamd_jax import limits
from lamd_jax.errors import ConfigError

# A change in these makes another model or another experiment; the rest may change
# from one start of a run to the next (steps, log periods, mesh).
_FIXED = ("system", "seed", "data", "model", "loss", "diffusion")
# Groups that are one stage's own: fixed once it has begun.
_OF_A_STAGE = ("prediction", "interpolation", "distill")
# Of a stage's optimizer, what its checkpoints' arrays depend on, and how.
_OF_ARRAYS: dict[str, Callable[[Any], Any]] = {
  "optimizer": str, "weight_decay": bool, "ema_decay": bool
}  # fmt: skip
# Of these groups, what only says where or how fast the same clips are read.
_MOVABLE = (
  "data.root", "data.depth_root", "data.num_threads", "data.num_workers",
  "data.prefetch", "data.max_bad_fraction", "data.fps",
)  # fmt: skip

_PACKAGES = ("lamd_jax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain",
             "numpy", "av")  # fmt: skip


def _write(path: epath.Path, record: dict[str, Any]) -> None:
  partial = path.with_name(f".{path.name}.part")
  partial.write_text(json.dumps(record, indent=2, sort_keys=True) + "\n")
  partial.replace(path)


def absolute(root: str) -> str:
  """Returns a data folder as a run records it, to find it from anywhere; links stay."""
  local = root and "://" not in root
  return os.path.abspath(os.path.expanduser(root)) if local else root


def config_hash(config: ConfigDict) -> str:
  """Twelve hex digits of the resolved config."""
  text = json.dumps(_plain(config), sort_keys=True)
  return hashlib.sha256(text.encode()).hexdigest()[:12]


def _plain(config: ConfigDict) -> dict[str, Any]:
  return json.loads(json.dumps(config.to_dict()))


def read(workdir: epath.Path) -> ConfigDict | None:
  """Returns the config of the run in `workdir`, locked, or None if there is none."""
  path = workdir / "config.json"
  if not path.exists():
    return None
  try:
    stored = dict(limits.leaves(dict(json.loads(path.read_text()))))
  except (ValueError, TypeError) as error:
    raise ConfigError(f"{path}: not readable as JSON ({error})") from error
  config = config_lib.defaults()
  missing = []
  for key, default in limits.leaves(config):
    if key not in stored:
      missing.append(key)
      continue
    value = stored.pop(key)
    config.update_from_flattened_dict(
      {key: tuple(value) if isinstance(default, tuple) else value}
    )
  if missing:
    logging.warning(
      "%s is of an older version: %d keys take their defaults (%s%s)", path,
      len(missing), ", ".join(missing[:3]), ", ..." if len(missing) > 3 else "",
    )  # fmt: skip
  if stored:
    raise ConfigError(
      f"{path}: keys of another version: {', '.join(sorted(stored))}; use the version"
      " named in env.json beside it"
    )
  return config.lock()


def check_same(stored: ConfigDict, given: ConfigDict, workdir: epath.Path) -> None:
  """Raises ConfigError if `given` describes another experiment than `stored`."""
  old = dict(limits.leaves(stored))

  def same(key: str, value: Any) -> bool:
    group, *rest = key.split(".")
    if group in _FIXED:
      return key in _MOVABLE or old[key] == value
    if group in _OF_A_STAGE:
      return old[key] == value or not (workdir / group).exists()
    if group == "optim" and rest[1] in _OF_ARRAYS:
      kind = _OF_ARRAYS[rest[1]]
      return kind(old[key]) == kind(value) or not (workdir / rest[0]).exists()
    return True

  for key, value in limits.leaves(given):
    if not same(key, value):
      raise ConfigError(
        f"--config.{key}={value}: the run in {workdir} was made with {old[key]};"
        " name another --workdir or leave the key as it was"
      )


def _git_revision() -> str:
  here = pathlib.Path(__file__).resolve().parent
  try:
    done = subprocess.run(
      ["git", "describe", "--always", "--dirty"],
      cwd=here,
      capture_output=True,
      text=True,
      timeout=10,
      check=True,
    )
  except (OSError, subprocess.SubprocessError):
    return "unknown"
  return done.stdout.strip()


def write(workdir: epath.Path, config: ConfigDict) -> None:
  """Records the resolved config and the environment in `workdir`, on the first process.

  Raises:
    ConfigError: it cannot be written.
  """
  if jax.process_index() != 0:
    return
  try:
    workdir.mkdir(parents=True, exist_ok=True)
    _write(workdir / "config.json", _plain(config))
  except OSError as error:
    raise ConfigError(
      f"--workdir={workdir}: cannot be written ({error.strerror}); name another"
    ) from error
  environment = {
    "time": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    "command": [pathlib.Path(sys.argv[0]).name, *sys.argv[1:]],
    "config_hash": config_hash(config),
    "git": _git_revision(),
    "python": platform.python_version(),
    "platform": platform.platform(),
    "packages": {name: metadata.version(name) for name in _PACKAGES},
    "devices": [str(device) for device in jax.devices()],
    "processes": jax.process_count(),
  }
  _write(workdir / "env.json", environment)
