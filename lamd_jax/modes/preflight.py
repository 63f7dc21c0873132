# SPDX-License-Identifier: Apache-2.0
"""What a run needs from its user, looked for before anything is compiled."""

from __future__ import annotations

from collections.abc import Sequence
import pathlib

from etils import epath
from ml_collections import ConfigDict

from lamd_jax.data import layouts
from lamd_jax.data import pipeline
from lamd_jax.errors import ConfigError
from lamd_jax.errors import DataError
from lamd_jax.errors import WeightsError
from lamd_jax.interchange import clip_text
from lamd_jax.interchange import perceptual
from lamd_jax.modes import imported

_LOOKED_AT = 256  # clips among which a caption is looked for
_READ_TEXT = ("diffusion", "motion_diffusion")  # stages, where there is a text encoder
_LEARN_TEXT = ("content", "prior")  # of Gen-1


def _missing_data(config: ConfigDict) -> str:
  data = config.data
  if data.source == "procedural":
    return ""
  if data.source == "tfds":
    return "" if data.name else "data: --config.data.name=NAME of a TFDS data set"
  if data.root and pathlib.Path(data.root).expanduser().is_dir():
    return ""
  found = f"{data.root} is no folder" if data.root else "no folder named"
  return (
    f"data: {found}; say --config.data.root=DIR, with this tree:\n"
    f"{layouts.expected_tree(data.source)}"
  )


def _missing_autoencoder(config: ConfigDict, workdir: epath.Path) -> str:
  path = config.model.autoencoder_weights
  ours = "autoencoder" in config.stages or (workdir / "autoencoder").exists()
  if config.system not in ("lvdm", "gen1") or ours:
    return ""
  if path and pathlib.Path(imported.find(path, workdir)).is_file():
    return ""
  key = "" if path else "--config.model.autoencoder_weights=FILE: "
  return f"weights: {key}{imported.how_to_get_autoencoder(path)}"


def _missing_text(config: ConfigDict, workdir: epath.Path) -> str:
  text, data = config.model.text, config.data
  reads_text = set(_READ_TEXT) & set(config.stages)
  if text.encoder != "clip" or not reads_text:
    return ""
  lines = []
  path = imported.find(text.weights, workdir)
  if not pathlib.Path(path).is_file():
    key = "" if text.weights else "--config.model.text.weights=FILE: "
    lines.append(f"weights: {key}{clip_text.how_to_get(path or 'the text tower')}")
  path = imported.find(data.vocabulary, workdir)
  if not pathlib.Path(path).is_file():
    lines.append(
      f"vocabulary: --config.data.vocabulary={data.vocabulary or 'FILE'} is no file;"
      " merges.txt of openai/clip-vit-large-patch14 on Hugging Face, or"
      " bpe_simple_vocab_16e6.txt.gz of the openai/CLIP repository"
    )
  return "\n".join(lines)


def _missing_gen1(config: ConfigDict, workdir: epath.Path) -> str:
  """Names the files that Gen-1's frozen networks and its start come from."""
  if config.system != "gen1":
    return ""
  model, convert = config.model, "python -m lamd_jax.tools.convert"
  wanted = []
  if config.data.depth == "estimated":
    wanted.append(("structure.depth_weights", model.structure.depth_weights, "depth"))
  if model.content.encoder == "clip":
    wanted.append(("content.image_weights", model.content.image_weights, "clip-image"))
  if model.content.encoder == "clip" and "prior" in config.stages:
    wanted.append(("content.text_weights", model.content.text_weights, "clip"))
  if model.denoiser_weights:
    wanted.append(("denoiser_weights", model.denoiser_weights, "sd-unet"))
  return "\n".join(
    f"weights: --config.model.{key}={path or 'FILE'} is no file; it is made by {convert}"
    f" {part}"
    for key, path, part in wanted
    if not pathlib.Path(imported.find(path, workdir)).is_file()
  )


def _missing_perceptual(config: ConfigDict) -> str:
  path = config.model.perceptual.weights
  trained = {"autoencoder", "motion_autoencoder"} & set(config.stages)
  unused = not config.loss.perceptual_weight or not trained
  if unused or path == "none" or (path and pathlib.Path(path).expanduser().is_file()):
    return ""
  return f"weights: {perceptual.how_to_get(path)}"


def check_told(config: ConfigDict, data: ConfigDict, stages: Sequence[str]) -> None:
  """Raises DataError if the clips of `data` lack what `stages` are told of them."""
  where = f"--config.data.root={data.root}" if data.root else f"data.source={data.source}"
  told = _READ_TEXT if config.model.text.encoder != "none" else ()
  if config.system == "gen1":
    told = _LEARN_TEXT
  if set(told) & set(stages):
    if not any(pipeline.captions(data, data.split, _LOOKED_AT, config.seed)):
      raise DataError(
        f"{where}: its videos have no captions, and this run follows text; put clip.txt"
        " beside clip.mp4, or a csv with columns path,text"
      )
  classes = config.model.motion.num_classes if config.system == "lamd" else 0
  if classes and "motion_diffusion" in stages:
    rows = pipeline.check(data, data.split)
    labels = pipeline.labels(data, data.split, rows, config.seed)
    if labels is None or labels.max() >= classes:
      found = "none" if labels is None else f"0 to {labels.max()}"
      raise DataError(
        f"{where}: this run knows classes 0 to {classes - 1}, its videos are of {found};"
        " see --config.model.motion.num_classes"
      )


def check_latent_cache(config: ConfigDict, workdir: epath.Path) -> None:
  """Raises ConfigError if latents are to be cached where nothing can be mapped."""
  if config.train.latent_cache and "://" in str(workdir):
    raise ConfigError(
      f"train.latent_cache: --workdir={workdir} is not a local folder, and the cache is"
      " memory-mapped: say --config.train.latent_cache=false, or name a folder"
    )


def check_inputs(config: ConfigDict, workdir: epath.Path) -> None:
  """Raises one error that names everything missing: data (3) before weights (4)."""
  data = _missing_data(config)
  weights = [
    _missing_perceptual(config),
    _missing_autoencoder(config, workdir),
    _missing_text(config, workdir),
    _missing_gen1(config, workdir),
  ]
  weights = [line for line in weights if line]
  if not data and not weights:
    return
  lines = ["this run lacks", *filter(None, (data, *weights))]
  if config.variant != "demo":
    lines.append(
      f"without data or weights: --config=configs/{config.name}.py:demo"
    )
  raise (DataError if data else WeightsError)("\n".join(lines))
