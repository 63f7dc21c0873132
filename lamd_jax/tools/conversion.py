# SPDX-License-Identifier: Apache-2.0
"""What every part of tools.convert does alike: check sources, write file and record."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
import hashlib
from importlib import metadata
import json
import os
import pathlib
from typing import Any, NamedTuple

from lamd_jax.errors import ConfigError
from lamd_jax.errors import WeightsError
from lamd_jax.interchange import keys
from lamd_jax.interchange import safetensors_file
from lamd_jax.tools import paths

# Grows when the same sources would give another file.
CONVERTER_VERSION = 1


class Part(NamedTuple):
  """One subcommand of tools.convert."""

  help: str
  add_arguments: Callable[[argparse.ArgumentParser], None]
  run: Callable[[argparse.Namespace], None]


class Source(NamedTuple):
  """A published file, by what is known of it."""

  licence: str
  sha256_start: str = ""
  bytes: int | None = None


def add_out(parser: argparse.ArgumentParser) -> None:
  """Adds --out, which every part has."""
  parser.add_argument("--out", type=paths.path, required=True, metavar="SAFETENSORS")


def add_any_file(parser: argparse.ArgumentParser) -> None:
  """Adds --any-file, for parts whose published files are on record."""
  parser.add_argument(
    "--any-file", action="store_true", help="accept files other than the published"
  )


def sha256(path: pathlib.Path) -> str:
  with open(path, "rb") as file:
    return hashlib.file_digest(file, "sha256").hexdigest()


def check_out(out: pathlib.Path) -> None:
  """Raises ConfigError unless the output has the name of a safetensors file."""
  if out.suffix != ".safetensors":
    raise ConfigError(f"--out={out}: the name must end in .safetensors")


def check_source(path: pathlib.Path, source: Source, any_file: bool) -> dict[str, Any]:
  """Returns a source's entry of the record; raises if it is not the published file.

  Its "as_published" is null where nothing is on record to compare with.
  """
  try:
    size, digest = path.stat().st_size, sha256(path)
  except OSError as error:
    raise WeightsError(f"{path} cannot be read ({error.strerror})") from error
  problem = ""
  if not digest.startswith(source.sha256_start):
    problem = f"has SHA-256 {digest}; the published one starts {source.sha256_start}"
  elif source.bytes not in (None, size):
    problem = f"has {size} bytes; the published one has {source.bytes}"
  if problem and not any_file:
    raise WeightsError(
      f"{path} {problem}; fetch it again, or say --any-file if it is meant"
    )
  on_record = bool(source.sha256_start) or source.bytes is not None
  print(f"{digest}  {path}  ({source.licence})")
  return {
    "file": path.name,
    "bytes": size,
    "sha256": digest,
    "licence": source.licence,
    "as_published": not problem if on_record else None,
  }


def check_names(
  path: pathlib.Path, state: keys.State, wanted: set[str], ignored: Sequence[str] = ()
) -> None:
  """Raises unless the file holds exactly the wanted names, and ignorable ones."""
  missing = [f"{name} is missing" for name in sorted(wanted - set(state))]
  unused = [f"{name} is unused" for name in sorted(set(state) - wanted - set(ignored))]
  if missing or unused:
    raise WeightsError(f"{path}: {'; '.join(missing + unused)}")


def write(
  out: pathlib.Path, state: keys.State, part: str, record: dict[str, Any]
) -> None:
  """Writes weights and record, each whole or not at all, and prints the hash.

  Args:
    out: the safetensors file; the record lies beside it, under OUT.json.
    state: {name: array}.
    part: what the file holds, and in which version.
    record: what only this part has to say: sources, names.

  Raises:
    WeightsError: one of them cannot be written.
  """
  # A record must not outlive the file that it is about.
  beside = out.with_name(f"{out.name}.json")
  try:
    beside.unlink(missing_ok=True)
    safetensors_file.write(out, state, {"part": part})
    digest = sha256(out)
    record = {
      "part": part,
      "converter": CONVERTER_VERSION,
      "lamd_jax": metadata.version("lamd_jax"),
      **record,
      "output": {"file": out.name, "bytes": out.stat().st_size, "sha256": digest},
    }
    partial = beside.with_name(f".{beside.name}.part")
    partial.write_text(json.dumps(record, indent=2) + "\n", "utf-8")
    os.replace(partial, beside)
  except OSError as error:
    raise WeightsError(f"{out} cannot be written ({error.strerror})") from error
  print(f"{digest}  {out}")
