# SPDX-License-Identifier: Apache-2.0
"""Published weights to the safetensors files that runs read.

  python -m lamd_jax.tools.convert lpips --vgg vgg16-397923af.pth --lins vgg.pth \
    --out lpips_vgg16.safetensors
  python -m lamd_jax.tools.convert lvdm short_sky.ckpt --out runs/short_sky
  python -m lamd_jax.tools.convert export runs/short_sky --stage diffusion \
    --out diffusion.safetensors
  python -m lamd_jax.tools.convert sd-vae vae.safetensors --out sd_vae.safetensors
  python -m lamd_jax.tools.convert sd-unet v1-5-pruned.ckpt --out sd_unet.safetensors
  python -m lamd_jax.tools.convert clip --source model.safetensors \
    --out clip_vit_l_14_text.safetensors
  python -m lamd_jax.tools.convert clip-image --source model.safetensors \
    --network b32 --out clip_vit_b_32_image.safetensors
  python -m lamd_jax.tools.convert i3d --source i3d_pretrained_400.pt \
    --out i3d_kinetics400.safetensors
  python -m lamd_jax.tools.convert c3d --source conv3d_deepnetA_ucf.npz \
    --mean mean2.npz --out c3d_ucf101.safetensors
  python -m lamd_jax.tools.convert depth --source dpt_large_384.pt \
    --out dpt_large.safetensors

Needs no torch and runs nothing that stands in the sources. Beside the output a record
OUT.json says what was read, by SHA-256, and which tensor became which; `convert lvdm`
leaves OUT/convert.json.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
import pathlib
import sys

import numpy as np

from lamd_jax import errors
from lamd_jax.errors import ConfigError
from lamd_jax.errors import WeightsError
from lamd_jax.interchange import perceptual
from lamd_jax.interchange import torch_zip
from lamd_jax.tools import conversion
from lamd_jax.tools import convert_c3d
from lamd_jax.tools import convert_clip
from lamd_jax.tools import convert_clip_image
from lamd_jax.tools import convert_depth
from lamd_jax.tools import convert_export
from lamd_jax.tools import convert_i3d
from lamd_jax.tools import convert_lvdm
from lamd_jax.tools import convert_sd_unet
from lamd_jax.tools import convert_sd_vae
from lamd_jax.tools import paths

# torchvision names its files by the start of their SHA-256. Of the lpips file only the
# size is on record.
VGG = conversion.Source(
  "VGG16 weights: torchvision, trained on ImageNet", sha256_start="397923af"
)
LINS = conversion.Source("linear layers: lpips 0.1, BSD-2-Clause", bytes=7289)


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
  conversion.check_out(out)
  check = lambda path, source: conversion.check_source(path, source, any_file)
  entries = [check(vgg, VGG), check(lins, LINS)]
  rules = perceptual.rules()
  of_lins = {rule.source for rule in rules if rule.path[0] == "lins"}
  of_vgg = {rule.source for rule in rules} - of_lins
  vgg_state, lins_state = torch_zip.state_dict(vgg), torch_zip.state_dict(lins)
  conversion.check_names(vgg, vgg_state, of_vgg, perceptual.IGNORED)
  conversion.check_names(lins, lins_state, of_lins)
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
  conversion.write(out, state, "lpips_vgg16_v0.1", record)
  # What a run will do with it, now and not in its first minute.
  perceptual.load(out)


def _add_lpips(parser: argparse.ArgumentParser) -> None:
  parser.add_argument("--vgg", type=paths.path, required=True, metavar="PTH")
  parser.add_argument("--lins", type=paths.path, required=True, metavar="PTH")
  conversion.add_out(parser)
  conversion.add_any_file(parser)


def _run_lpips(options: argparse.Namespace) -> None:
  convert_lpips(options.vgg, options.lins, options.out, options.any_file)


# One row per subcommand; a part lives in a file of its own, tools/convert_PART.py.
PARTS = {
  "lpips": conversion.Part(
    "VGG16 and LPIPS, for the perceptual loss", _add_lpips, _run_lpips
  ),
  "clip": convert_clip.PART,
  "clip-image": convert_clip_image.PART,
  "i3d": convert_i3d.PART,
  "c3d": convert_c3d.PART,
  "depth": convert_depth.PART,
  "lvdm": convert_lvdm.PART,
  "sd-vae": convert_sd_vae.PART,
  "sd-unet": convert_sd_unet.PART,
  "export": convert_export.PART,
}


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
  for name, part in PARTS.items():
    part.add_arguments(parts.add_parser(name, help=part.help))
  options = parser.parse_args(arguments)
  return errors.exit_code(lambda: PARTS[options.part].run(options))


if __name__ == "__main__":
  sys.exit(main())
