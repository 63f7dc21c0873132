# SPDX-License-Identifier: Apache-2.0
"""Published weights to the safetensors files that runs read.

  python -m lamd_jax.tools.convert lpips --vgg vgg16-397923af.pth --lins vgg.pth \
    --out lpips_vgg16.safetensors

Needs no torch and runs nothing that stands in the sources. Beside the output a record
OUT.json says what was read, by SHA-256, and which tensor became which.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
import hashlib
from importlib import metadata
import json
import os
import pathlib
import sys
from typing import Any, NamedTuple

import numpy as np

from lamd_jax.errors import ConfigError
from lamd_jax.errors import InputError
from lamd_jax.errors import WeightsError
from lamd_jax.interchange import keys
from lamd_jax.interchange import perceptual
from lamd_jax.interchange import safetensors_file
from lamd_jax.interchange import torch_zip

# Grows when the same sources would give another file.
CONVERTER_VERSION = 1


class Source(NamedTuple):
  """A published file, by what is known of it."""

  licence: str
  sha256_start: str = ""
  bytes: int | None = None


# torchvision names its files by the start of their SHA-256. Of the lpips file only the
# size is on record.
VGG = Source("VGG16 weights: torchvision, trained on ImageNet", "397923af")
LINS = Source("linear layers: lpips 0.1, BSD-2-Clause", bytes=7289)


def _sha256(path: pathlib.Path) -> str:
  with open(path, "rb") as file:
    return hashlib.file_digest(file, "sha256").hexdigest()


def _check_source(path: pathlib.Path, source: Source, any_file: bool) -> dict[str, Any]:
  """Returns a source's entry of the record; raises if it is not the published file."""
  try:
    size, digest = path.stat().st_size, _sha256(path)
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
  print(f"{digest}  {path}  ({source.licence})")
  return {
    "file": path.name,
    "bytes": size,
    "sha256": digest,
    "licence": source.licence,
    "as_published": not problem,
  }


def _check_names(
  path: pathlib.Path, state: keys.State, wanted: set[str], ignored: Sequence[str] = ()
) -> None:
  """Raises unless the file holds exactly the wanted names, and ignorable ones."""
  missing = [f"{name} is missing" for name in sorted(wanted - set(state))]
  unused = [f"{name} is unused" for name in sorted(set(state) - wanted - set(ignored))]
  if missing or unused:
    raise WeightsError(f"{path}: {'; '.join(missing + unused)}")


def _write(
  out: pathlib.Path, state: keys.State, part: str, record: dict[str, Any]
) -> None:
  """Writes weights and record, each whole or not at all, and prints the hash."""
  # A record must not outlive the file that it is about.
  beside = out.with_name(f"{out.name}.json")
  try:
    beside.unlink(missing_ok=True)
    safetensors_file.write(out, state, {"part": part})
    digest = _sha256(out)
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


def convert_lpips(
  vgg: pathlib.Path, lins: pathlib.Path, out: pathlib.Path, any_file: bool
) -> None:
  """Joins VGG16's convolutions and the lpips layers into one file.

  Args:
    vgg: torchvision's vgg16-397923af.pth.
    lins: weights/v0.1/vgg.pth of the lpips package.
    out: the safetensors file.
    any_file: whether files other than the published ones may be read.

  Raises:
    WeightsError: a source is absent, damaged, another file or of another network, or
      the output cannot be written.
  """
  if out.suffix != ".safetensors":
    raise ConfigError(f"--out={out}: the name must end in .safetensors")
  entries = [_check_source(vgg, VGG, any_file), _check_source(lins, LINS, any_file)]
  rules = perceptual.rules()
  of_lins = {rule.source for rule in rules if rule.path[0] == "lins"}
  of_vgg = {rule.source for rule in rules} - of_lins
  vgg_state, lins_state = torch_zip.state_dict(vgg), torch_zip.state_dict(lins)
  _check_names(vgg, vgg_state, of_vgg, perceptual.IGNORED)
  _check_names(lins, lins_state, of_lins)
  ignored = [name for name in vgg_state if name not in of_vgg]
  for name in ignored:
    print(f"not used: {name}")
  try:
    params = perceptual.to_params(
      {name: a for name, a in (vgg_state | lins_state).items() if name not in ignored}
    )
  except WeightsError as error:
    raise WeightsError(f"{vgg}, {lins}: {error}") from error
  state = {k: np.asarray(v) for k, v in perceptual.to_state(params).items()}
  names = {rule.source: "/".join(rule.path) for rule in rules}
  record = {"sources": entries, "not_used": ignored, "keys": names}
  _write(out, state, "lpips_vgg16_v0.1", record)
  # What a run will do with it, now and not in its first minute.
  perceptual.load(out)


class _Parser(argparse.ArgumentParser):
  """Says what is wrong on one line, without the usage before it."""

  def error(self, message: str) -> None:
    self.exit(ConfigError.exit_code, f"{message}; see {self.prog} --help\n")


def main(arguments: Sequence[str] | None = None) -> int:
  """Returns the exit code: 2 for a wrong call, 4 for wrong weights."""
  parser = _Parser(
    prog="python -m lamd_jax.tools.convert",
    description=__doc__,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  parts = parser.add_subparsers(dest="part", required=True, metavar="PART")
  lpips = parts.add_parser("lpips", help="VGG16 and LPIPS, for the perceptual loss")
  lpips.add_argument("--vgg", type=pathlib.Path, required=True, metavar="PTH")
  lpips.add_argument("--lins", type=pathlib.Path, required=True, metavar="PTH")
  lpips.add_argument("--out", type=pathlib.Path, required=True, metavar="SAFETENSORS")
  lpips.add_argument(
    "--any-file", action="store_true", help="accept files other than the published"
  )
  options = parser.parse_args(arguments)
  try:
    # One part so far; a second one makes this a table.
    convert_lpips(options.vgg, options.lins, options.out, options.any_file)
  except InputError as error:
    print(error, file=sys.stderr)
    return error.exit_code
  return 0


if __name__ == "__main__":
  sys.exit(main())
