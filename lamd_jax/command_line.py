# SPDX-License-Identifier: Apache-2.0
"""Command line flags: --config=FILE:VARIANT, --GROUP.KEY=VALUE and a few plain ones.

Why not absl with config_flags: it wants the config before its overrides, reports a
faulty config file as a traceback, and cannot apply overrides to a stored config.
"""

from __future__ import annotations

import ast
from collections.abc import Sequence
import difflib
import importlib.util
import os
import pathlib
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from lamd_jax import limits
from lamd_jax.errors import ConfigError
from lamd_jax.errors import InputError

# Files and folders of --sample. Shells leave the tilde of --sample.out=~/x as it is, and
# a folder called "~" is not meant.
_PATHS = ("out", "image", "motion_from", "video", "depth", "mask")
_PLAIN = ("config", "workdir", "mode", "resume")
GROUPS = ("config", "sample", "eval", "compile")
MODES = ("train", "sample", "evaluate", "compile")
RESUME = ("auto", "must", "never")


class CommandLine(NamedTuple):
  """What was typed, not yet applied."""

  config: str = ""  # FILE[:VARIANT]
  workdir: str = ""
  mode: str = "train"
  resume: str = "auto"
  dry_run: bool = False
  overrides: tuple[tuple[str, str, str], ...] = ()  # (group, dotted key, text)


def _nearest(word: str, known: Sequence[str]) -> str:
  close = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
  return f"; did you mean {close[0]}?" if close else ""


def parse(arguments: Sequence[str]) -> CommandLine:
  """Splits arguments (without the program's name). Raises ConfigError."""
  plain: dict[str, Any] = {}
  overrides = []
  queue = list(arguments)
  while queue:
    argument = queue.pop(0)
    name, equals, value = argument.lstrip("-").partition("=")
    if not argument.startswith("-"):
      raise ConfigError(f"{argument}: not a flag; see --help")
    if name == "dry_run":
      plain[name] = _parse_value("--dry_run", value or "true", False)
      continue
    group, _, key = name.partition(".")
    if not (key and group in GROUPS) and name not in _PLAIN:
      known = [f"--{n}" for n in (*_PLAIN, "dry_run")]
      known += [f"--{n}.KEY" for n in GROUPS]
      hint = _nearest(f"--{name}", known) or f"; flags are {', '.join(known)}"
      raise ConfigError(f"--{name}: no such flag{hint}")
    if not equals:
      # An empty variable of a shell leaves the next flag in the value's place.
      if not queue or queue[0].startswith("--"):
        raise ConfigError(f"--{name}: has no value; say --{name}=VALUE")
      value = queue.pop(0)
    if key:
      overrides.append((group, key, value))
    else:
      plain[name] = value
  for name, known in (("mode", MODES), ("resume", RESUME)):
    if plain.get(name, known[0]) not in known:
      raise ConfigError(f"--{name}={plain[name]}: choose one of {', '.join(known)}")
  return CommandLine(**plain, overrides=tuple(overrides))


def _parse_value(flag: str, text: str, like: Any) -> Any:
  """Reads `text` as a value of `like`'s type."""
  kind = type(like).__name__
  try:
    if isinstance(like, bool):
      return {"true": True, "1": True, "false": False, "0": False}[text.lower()]
    if isinstance(like, str):
      return text
    if isinstance(like, int):
      return int(text)
    if isinstance(like, float):
      return float(text)
    value = ast.literal_eval(text) if text[:1] in "([" else text.split(",")
    items = tuple(value)
    wanted = type(like[0])
    if any(isinstance(item, str) for item in items):
      items = tuple(wanted(item.strip()) for item in items if item.strip())
    if any(type(item) is not wanted for item in items):
      raise ValueError(f"an item is no {wanted.__name__}")
    return items
  except (KeyError, ValueError, SyntaxError, TypeError, MemoryError) as error:
    raise ConfigError(f"{flag}={text}: expected {kind}, such as {like}") from error


def apply(tree: ConfigDict, group: str, line: CommandLine) -> ConfigDict:
  """Applies the overrides of `group` to `tree`; returns it locked."""
  known = dict(limits.leaves(tree))
  for owner, key, text in line.overrides:
    if owner != group:
      continue
    flag = f"--{group}.{key}"
    if key not in known:
      inner = [name for name in known if name.startswith(f"{key}.")]
      hint = f"; it has {', '.join(inner)}" if inner else _nearest(key, list(known))
      raise ConfigError(f"{flag}: no such key{hint}")
    if group == "sample" and key in _PATHS:
      text = os.path.expanduser(text)
    tree.update_from_flattened_dict({key: _parse_value(flag, text, known[key])})
  return tree.lock()


def load_config(spec: str) -> ConfigDict:
  """Runs FILE's get_config(VARIANT). Raises ConfigError if that fails."""
  name, _, variant = spec.partition(":")
  path = pathlib.Path(name)
  if not path.is_file():
    beside = [str(p) for p in pathlib.Path("configs").glob("*.py")]
    hint = _nearest(name, beside) or "; run from the folder that holds configs/"
    raise ConfigError(f"--config={name}: no such file{hint}")
  module_spec = importlib.util.spec_from_file_location("lamd_jax_config", path)
  if module_spec is None or module_spec.loader is None:
    raise ConfigError(f"--config={name}: not a Python file")
  module = importlib.util.module_from_spec(module_spec)
  try:
    module_spec.loader.exec_module(module)
    config = module.get_config(*([variant] if variant else []))
  except InputError:
    raise
  except Exception as error:  # a config file is a program and may raise anything
    raise ConfigError(
      f"--config={name}: the file raised {type(error).__name__}: {error}"
    ) from error
  if not isinstance(config, ConfigDict):
    raise ConfigError(f"--config={name}: get_config returned no ConfigDict")
  return config
