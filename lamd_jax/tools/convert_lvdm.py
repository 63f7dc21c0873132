# SPDX-License-Identifier: Apache-2.0
"""LVDM's checkpoints as run directories; a part of tools.convert.

  python -m lamd_jax.tools.convert lvdm short_sky.ckpt --out runs/short_sky
  python -m lamd_jax.main --workdir=runs/short_sky --mode=sample

The directory holds what training would have left: config.json, a finished folder per
stage, and convert.json, which says what was read. Without the diffusion model (ae_*)
it is the start of training one.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
import contextlib
from importlib import metadata
import json
import os
import pathlib
import shutil
from typing import Any, NamedTuple

from ml_collections import ConfigDict
import numpy as np

from lamd_jax import command_line
from lamd_jax import run_folder
from lamd_jax.errors import ConfigError
from lamd_jax.errors import WeightsError
from lamd_jax.interchange import clip_text
from lamd_jax.interchange import keys
from lamd_jax.interchange import lvdm_checkpoint as parts
from lamd_jax.interchange import safetensors_file
from lamd_jax.interchange import torch_zip
from lamd_jax.systems.registry import SYSTEMS
from lamd_jax.tools import conversion
from lamd_jax.tools import paths
from lamd_jax.training import checkpoints

RECORD = "convert.json"
CLIP_FILE = "clip_text.safetensors"
MERGES_FILE = "bpe_merges.txt"
_LICENCE = "LVDM: code MIT; weights of research data sets"
_WHERE_MERGES = (
  "bpe_simple_vocab_16e6.txt.gz of OpenAI's CLIP repository, or merges.txt of"
  " openai/clip-vit-large-patch14 on Hugging Face"
)


class Latents(NamedTuple):
  """z = scale * (z_raw + shift). No checkpoint stores the two numbers."""

  scale: float
  shift: float


class Preset(NamedTuple):
  """A published file, and what is not written in it."""

  config: str
  latents: Latents
  source: conversion.Source


# From the released configurations, and the sizes and hashes on the authors' page.
_SKY = ("configs/lvdm_sky.py", Latents(0.33422927, 1.4606637))
_TAICHI = ("configs/lvdm_taichi.py", Latents(0.175733933, 0.03291025))
_WEBVID = ("configs/lvdm_webvid.py", Latents(0.18215, 0.0))
_of = lambda start, size: conversion.Source(_LICENCE, start, size)
PRESETS = {
  "ae_sky": Preset(*_SKY, _of("c22c4495", 147_781_521)),
  "ae_taichi": Preset(*_TAICHI, _of("627bb74e", 147_781_521)),
  "short_sky": Preset(*_SKY, _of("2ea27980", 4_469_623_195)),
  "short_taichi": Preset(*_TAICHI, _of("4eed58a2", 4_469_623_195)),
  "t2v": Preset(*_WEBVID, _of("88706517", 4_663_057_434)),
}


def networks(config: ConfigDict) -> parts.Networks:
  """Returns the shapes of a config's networks; computes nothing."""
  system = SYSTEMS[config.system](config)
  stages = {stage.name: stage for stage in system.stages()}
  autoencoder, extras = stages["autoencoder"].init(None)
  denoiser, _ = stages["diffusion"].init(None)
  settings, critic = config.model.discriminator, None
  released = (settings.kind, settings.layers, settings.norm) == ("frame", 3, "batch")
  if "discriminator" in autoencoder and released:
    critic = {
      "params": autoencoder["discriminator"], "batch_stats": extras["batch_stats"]
    }  # fmt: skip
  has_clip = config.model.text.encoder == "clip"
  return parts.Networks(
    denoiser=denoiser["denoiser"],
    autoencoder=autoencoder["generator"],
    kind=config.model.first_stage,
    critic=critic,
    text=clip_text.shapes(system.text.network) if has_clip else None,
    steps=config.diffusion.steps,
  )


def convert_lvdm(
  source: pathlib.Path,
  out: pathlib.Path,
  config: ConfigDict,
  latents: Latents,
  entry: dict[str, Any],
  merges: pathlib.Path | None = None,
) -> None:
  """Writes a run directory, whole or not at all.

  Args:
    source: a file of torch.save: a state dict, or a training checkpoint around one.
    out: the directory; must not exist, or be empty.
    config: of the networks in the file, and of the run.
    latents: scale and shift that its diffusion model was trained with.
    entry: what the record says of the source.
    merges: byte-pair merges, for models with CLIP's text tower.

  Raises:
    ConfigError: `out` holds something, or `merges` is missing.
    WeightsError: the source is damaged or does not hold the config's networks; every
      name that is missing, unused or of a wrong shape is listed.
  """
  _check_out(out)
  expected = networks(config)
  if expected.text is not None and merges is None:
    raise ConfigError(
      f"--merges: the file has CLIP's text tower, which needs {_WHERE_MERGES}"
    )
  state = torch_zip.state_dict(source, torch_zip.TRAINING)
  try:
    tree, left = parts.to_tree(state, expected)
    _check_schedule(tree, config)
  except WeightsError as error:
    raise WeightsError(f"{source}: {error}") from error
  for part, names in keys_of(tree).items():
    print(f"{part}: {names} tensors")
  print(f"not used: {len(left)} tensors, listed in the record")
  config = config.copy_and_resolve_references()
  with config.unlocked():
    config.model.autoencoder_weights = ""  # it has a folder
    if parts.TEXT in tree:
      config.model.text.weights = CLIP_FILE
      config.data.vocabulary = MERGES_FILE
  record = {"sources": [entry], **_record(tree, left, latents)}
  with _folder(out) as folder:
    _write_text(folder, tree, merges)
    _write_stages(folder, tree, latents)
    run_folder.write(folder, config)
    text = json.dumps(record, indent=2) + "\n"
    (folder / RECORD).write_text(text, "utf-8")
  print(f"{out} can be given as --workdir")


def _check_out(out: pathlib.Path) -> None:
  if out.exists() and (not out.is_dir() or any(out.iterdir())):
    raise ConfigError(f"--out={out}: exists and is not empty; name another directory")


def keys_of(tree: keys.Params) -> dict[str, int]:
  """Returns how many tensors each part of a checkpoint's tree has."""
  return {part: len(keys.flatten(branch)) for part, branch in tree.items()}


def _record(
  tree: keys.Params, left: list[str], latents: Latents
) -> dict[str, Any]:
  average = tree.get(parts.EMA_STATE, {})
  return {
    "part": "lvdm",
    "converter": conversion.CONVERTER_VERSION,
    "lamd_jax": metadata.version("lamd_jax"),
    "latent_scale": latents.scale,
    "latent_shift": latents.shift,
    "keys": keys_of(tree),
    "ema": {name: value.item() for name, value in average.items()},
    "not_used": left,
  }


def _check_schedule(tree: keys.Params, config: ConfigDict) -> None:
  """The tables are computed anew, so they must be those the file was trained with."""
  if parts.TABLES not in tree:
    return
  theirs = tree[parts.TABLES]["alphas_cumprod"]
  ours = SYSTEMS[config.system](config).process.schedule.alpha_bar
  # Float32 tables of a float64 computation; other betas differ in the first digits.
  if not np.allclose(theirs, ours, rtol=1e-3, atol=1e-6):
    raise WeightsError(
      f"alphas_cumprod ends at {theirs[-1]:.4g}, that of the config at {ours[-1]:.4g}:"
      " give as --config the one it was trained with (diffusion.beta_start, beta_end)"
    )


def _write_stages(folder: pathlib.Path, tree: keys.Params, latents: Latents) -> None:
  kind = parts.VIDEO if parts.VIDEO in tree else parts.IMAGE
  params = {"generator": tree[kind]}
  extras: dict[str, Any] = {
    "latent_shift": np.asarray(latents.shift, np.float32),
    "latent_scale": np.asarray(latents.scale, np.float32),
  }
  if parts.CRITIC in tree:
    params["discriminator"] = tree[parts.CRITIC]["params"]
    extras["batch_stats"] = tree[parts.CRITIC]["batch_stats"]
  checkpoints.write_finished(folder / "autoencoder", params, {}, extras)
  if parts.DENOISER in tree:
    average = {"denoiser": tree[parts.EMA]} if parts.EMA in tree else {}
    denoiser = {"denoiser": tree[parts.DENOISER]}
    checkpoints.write_finished(folder / "diffusion", denoiser, average, {})


def _write_text(
  folder: pathlib.Path, tree: keys.Params, merges: pathlib.Path | None
) -> None:
  if parts.TEXT not in tree or merges is None:
    return
  state = clip_text.to_state(tree[parts.TEXT])
  safetensors_file.write(folder / CLIP_FILE, state, {"part": "clip_vit_l_14_text"})
  try:
    shutil.copyfile(merges, folder / MERGES_FILE)
  except OSError as error:
    raise ConfigError(
      f"--merges={merges}: cannot be read ({error.strerror}); it is {_WHERE_MERGES}"
    ) from error


@contextlib.contextmanager
def _folder(out: pathlib.Path) -> Iterator[pathlib.Path]:
  """A folder beside `out` that gets its name once the body is through."""
  partial = out.absolute().with_name(f".{out.name}.{os.getpid()}.part")
  try:
    partial.mkdir(parents=True)
    yield partial
    os.replace(partial, out)
  except OSError as error:
    raise WeightsError(f"{out} cannot be written ({error.strerror})") from error
  finally:
    shutil.rmtree(partial, ignore_errors=True)


def _identify(options: argparse.Namespace) -> tuple[Preset | None, dict[str, Any]]:
  """Returns the preset that is named or recognised, and the source's entry."""
  unknown = conversion.Source(_LICENCE)
  entry = conversion.check_source(options.checkpoint, unknown, True)
  is_that = lambda source: (
    entry["sha256"].startswith(source.sha256_start) and entry["bytes"] == source.bytes
  )
  found = [name for name, preset in PRESETS.items() if is_that(preset.source)]
  name = options.preset or "".join(found)
  if not options.any_file and (not found or name not in found):
    listed = [f"{n} {p.source.sha256_start}" for n, p in PRESETS.items()]
    raise WeightsError(
      f"{options.checkpoint} has SHA-256 {entry['sha256']}, {entry['bytes']} bytes, and"
      f" is not {options.preset or 'a published file'} ({', '.join(listed)}): fetch it"
      " again, or say --any-file if it is your own"
    )
  published = {"preset": name or None, "as_published": name in found}
  return PRESETS.get(name), {**entry, **published}


def _latents(options: argparse.Namespace, preset: Preset | None) -> Latents:
  given = (options.scale, options.shift)
  if None not in given:
    return Latents(*given)
  if preset is None or given != (None, None):
    known = ", ".join(
      f"{name} {p.latents.scale} {p.latents.shift}" for name, p in PRESETS.items()
    )
    raise ConfigError(
      "--scale and --shift: checkpoints do not store them; give both as in the training"
      f" configuration (scale_factor, shift_factor), or a --preset ({known})"
    )
  return preset.latents


def _run(options: argparse.Namespace) -> None:
  _check_out(options.out)  # before gigabytes are hashed
  preset, entry = _identify(options)
  latents = _latents(options, preset)
  spec = options.config or (preset.config if preset else "")
  if not spec:
    raise ConfigError("--config: name one that describes the networks in the file")
  config = command_line.load_config(spec)
  convert_lvdm(
    options.checkpoint, options.out, config, latents, entry, options.merges
  )


def _add_arguments(parser: argparse.ArgumentParser) -> None:
  parser.add_argument("checkpoint", type=paths.path, metavar="CKPT")
  parser.add_argument("--out", type=paths.path, required=True, metavar="DIR")
  parser.add_argument("--preset", choices=PRESETS, help="default: by its SHA-256")
  parser.add_argument(
    "--config", metavar="FILE[:VARIANT]", help="default: that of the preset"
  )
  parser.add_argument("--scale", type=float, help="of latents, for your own files")
  parser.add_argument("--shift", type=float, help="likewise")
  parser.add_argument(
    "--merges", type=paths.path, metavar="FILE", help="byte-pair merges, for t2v"
  )
  conversion.add_any_file(parser)


PART = conversion.Part(
  "LVDM's checkpoints, as run directories", _add_arguments, _run
)
