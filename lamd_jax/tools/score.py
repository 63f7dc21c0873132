# SPDX-License-Identifier: Apache-2.0
"""Scores anybody's clips under a named protocol.

  python -m lamd_jax.tools.score --real REAL --fake FAKE --protocol lvdm \
    --weights i3d_kinetics400.safetensors --out report.json
  python -m lamd_jax.tools.score --real REAL --fake FAKE --protocol random_small_16f
  python -m lamd_jax.tools.score --fake FAKE --protocol clip_b32 --captions texts.txt \
    --weights clip_b32_image.safetensors --text-weights clip_b32_text.safetensors \
    --vocabulary merges.txt
  python -m lamd_jax.tools.score --real TRUE --fake COPIES --protocol pairs_lpips \
    --weights lpips_vgg16.safetensors
  python -m lamd_jax.tools.score --captions true.json --fake captioner.json \
    --protocol cater_precision_mage
  python -m lamd_jax.tools.score --selftest [--weights i3d_kinetics400.safetensors]

REAL and FAKE are folders of videos (mp4, ...), of image folders (png, ...) or of npz
files, or one npz file: uint8 [N,T,H,W,3] under arr_0, as LVDM's published samples are.
For protocols whose network lives elsewhere they are npz files of features [N,D], for
fvmd_* of tracks [N,T,20,20,2], which tools.tracks writes of the procedural world.
cater_precision_* take a captioner's file as FAKE, or clips of the procedural world,
which a tracker describes. For nearest_training the reals are the training videos.

Beside each score stand its protocol and hash, the distance of real clips to real clips
at the same number, trivial baselines and a bootstrap interval; where a protocol has no
such row, a note says why. What networks found is kept (--cache). Fewer clips than
the protocol asks for is an error; --set reals=256 scores them under another name.
Writes report.json and, beside it, report.html with a plot.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
import dataclasses
import json
import pathlib
import sys
from typing import Any

from lamd_jax import errors
from lamd_jax import media
from lamd_jax.errors import ConfigError
from lamd_jax.errors import DataError
from lamd_jax.errors import InputError
from lamd_jax.evaluation import protocol as protocol_lib
from lamd_jax.evaluation.protocol import Protocol
from lamd_jax.tools import paths
from lamd_jax.tools import score_clipwise
from lamd_jax.tools import score_page
from lamd_jax.tools import score_run
from lamd_jax.tools import score_selftest
from lamd_jax.training import compile_cache


_BOOL = {"true": True, "1": True, "false": False, "0": False}


def changes(texts: Sequence[str], preset: Protocol) -> dict[str, Any]:
  """Reads --set FIELD=VALUE, in the type that the preset's field has."""
  found, fields = {}, dataclasses.asdict(preset)
  for text in texts:
    key, equals, value = text.partition("=")
    if not equals:
      raise ConfigError(f"--set {text}: FIELD=VALUE is due")
    if key not in fields:
      preset.changed({key: value})  # says which fields there are
    kind = type(fields[key])
    try:
      found[key] = _BOOL[value.lower()] if kind is bool else kind(value)
    except (KeyError, ValueError) as error:
      raise ConfigError(f"--set {text}: {key} is of type {kind.__name__}") from error
    if kind in (int, float) and not 0 <= found[key] < 1e8:
      raise ConfigError(f"--set {text}: must lie between 0 and 1e8")
  return found


def report(protocol: Protocol, options: argparse.Namespace) -> dict[str, Any]:
  """Returns the report as JSON holds it; `options` are those of `--help`.

  Raises:
    InputError: clips, weights or flags are wrong; nothing was written.
  """
  if protocol.extractor in score_clipwise.PARTS:
    return score_clipwise.report(protocol, options)
  for flag in ("captions", "text_weights", "vocabulary"):
    if vars(options)[flag]:
      name = flag.replace("_", "-")
      raise ConfigError(f"--{name}: protocol {protocol.name} takes no captions")
  return score_run.report(protocol, options)


def run(options: argparse.Namespace) -> dict[str, Any]:
  """Scores, prints and writes the report; nothing is written before all is known."""
  preset = protocol_lib.find(options.protocol)
  protocol = preset.changed(changes(options.set, preset))
  if options.out and options.out.suffix != ".json":
    raise ConfigError(f"--out={options.out}: the name must end in .json")
  compile_cache.enable()
  found = report(protocol, options)
  for line in score_page.lines(found):
    print(line)
  if options.out:
    write(found, options.out)
  return found


def write(found: dict[str, Any], out: pathlib.Path) -> None:
  """Writes a report as JSON and, beside it, as a page; each whole or not at all."""
  page = out.with_suffix(".html")
  try:
    media.write_text(page, score_page.html(found))
    media.write_text(out, json.dumps(found, indent=2) + "\n")
  except OSError as error:
    raise DataError(f"{out} cannot be written ({error.strerror})") from error
  print(f"report   {out}\npage     {page}")


class _Parser(argparse.ArgumentParser):
  """Says what is wrong on one line, without the usage before it."""

  def error(self, message: str) -> None:
    self.exit(ConfigError.exit_code, f"{message}; see {self.prog} --help\n")


def _parser() -> argparse.ArgumentParser:
  parser = _Parser(
    prog="python -m lamd_jax.tools.score",
    description=__doc__,
    formatter_class=argparse.RawDescriptionHelpFormatter,
    epilog="protocols: " + ", ".join(protocol_lib.PRESETS),
  )
  add = parser.add_argument
  add("--real", default="", metavar="PATH", help="real clips")
  add("--fake", default="", metavar="PATH", help="generated clips")
  add("--protocol", default="", metavar="NAME")
  add("--weights", default="", metavar="SAFETENSORS", help="of the protocol's network")
  add("--captions", default="", metavar="FILE", help="of the fakes: .txt or .json")
  add("--text-weights", default="", metavar="SAFETENSORS", help="CLIP's text tower")
  add("--vocabulary", default="", metavar="FILE", help="CLIP's merges.txt")
  add("--out", type=paths.path, metavar="JSON")
  add(
    "--set", action="append", default=[], metavar="FIELD=VALUE",
    help="another value of a field of the protocol, which renames the score",
  )  # fmt: skip
  add("--made-by", default="not stated", help="of the fakes: EMA or raw, sampler, steps")
  add("--batch", type=int, default=8, help="clips at once")
  add("--resamples", type=int, default=100, help="bootstrap draws")
  add("--seed", type=int, default=0, help="of clip sampling and bootstrap")
  add("--cache", default="", metavar="DIR", help="of features; default: the user's; off")
  add("--paired", action="store_true", help="PSNR and SSIM too, clip by clip in order")
  add("--selftest", action="store_true", help="known numbers, as far as weights allow")
  add("--samples", default="", metavar="NPZ", help="LVDM's sky samples, for --selftest")
  return parser


def main(arguments: Sequence[str] | None = None) -> int:
  """Returns the exit code: 2 wrong call, 3 wrong clips, 4 wrong weights."""
  options = _parser().parse_args(arguments)

  def command() -> int:
    if options.selftest:
      return score_selftest.run(options.weights, options.samples, options.real)
    if options.batch < 1 or options.resamples < 0:
      raise ConfigError("--batch must be 1 or more, --resamples 0 or more")
    if not 0 <= options.seed < 2**32:
      raise ConfigError(f"--seed={options.seed}: must lie between 0 and {2**32 - 1}")
    run(options)
    return 0

  return errors.exit_code(command)


if __name__ == "__main__":
  sys.exit(main())
