# SPDX-License-Identifier: Apache-2.0
"""Networks that a run takes from elsewhere: how each is loaded, and what it looks like."""

from __future__ import annotations

from collections.abc import Callable, Mapping
import pathlib
from typing import Any

from etils import epath
import jax
import jax.numpy as jnp
from ml_collections import ConfigDict
import numpy as np

from lamd_jax.errors import WeightsError
from lamd_jax.interchange import clip_image
from lamd_jax.interchange import clip_text
from lamd_jax.interchange import dpt
from lamd_jax.interchange import keys
from lamd_jax.interchange import lvdm_autoencoder
from lamd_jax.interchange import perceptual
from lamd_jax.interchange import safetensors_file
from lamd_jax.interchange import sd_unet
from lamd_jax.networks import clip_text as clip_text_network
from lamd_jax.networks import perceptual as perceptual_network
from lamd_jax.networks.dpt import DPT_LARGE
from lamd_jax.nn import initializers
from lamd_jax.systems import content as content_lib
from lamd_jax.systems import gen1
from lamd_jax.systems import gen1_stages
from lamd_jax.systems import latent_clips
from lamd_jax.systems import text as text_lib

Tree = Mapping[str, Any]


def find(path: str, workdir: epath.Path) -> str:
  """Returns `path` below the workdir if there is such a file, else `path`.

  A converted checkpoint brings its files along and names them so.
  """
  if not path:
    return ""
  beside = workdir / path
  return str(beside) if beside.exists() else str(pathlib.Path(path).expanduser())


def names(config: ConfigDict) -> tuple[str, ...]:
  """Returns what sampling and training on latents import."""
  own = () if not config.model.autoencoder_weights else ("autoencoder",)
  if config.system != "gen1":
    return (*own, *text_lib.Text(config, jnp.float32, "").imported)
  content = ()
  if config.model.content.encoder == "clip":
    content = ("clip_image", *(("clip_text",) if "prior" in config.stages else ()))
  depth = (gen1.DEPTH,) if config.data.depth == "estimated" else ()
  return (*own, *content, *depth)


def _autoencoder(config: ConfigDict, workdir: epath.Path) -> Tree:
  path = find(config.model.autoencoder_weights, workdir)
  if not pathlib.Path(path).is_file():
    raise WeightsError(how_to_get_autoencoder(path))
  expected = _autoencoder_shapes(config)
  rules = lvdm_autoencoder.image_rules(expected)
  try:
    params = keys.to_params(safetensors_file.read(path), rules, expected)
  except WeightsError as error:
    raise WeightsError(f"{path}: {error}") from error
  extras = {
    "latent_shift": np.float32(config.model.latent_shift),
    "latent_scale": np.float32(config.model.latent_scale),
  }
  return {"params": {"generator": params}, "extras": extras}


def _autoencoder_shapes(config: ConfigDict) -> Tree:
  network, _, _ = latent_clips.first_stage(config, jnp.float32)
  size = config.data.size
  video = jax.ShapeDtypeStruct((1, 1, size, size, 3), jnp.float32)
  return initializers.shapes(network, video)["params"]


def how_to_get_autoencoder(path: str) -> str:
  return (
    f"{path or 'the autoencoder'} does not exist or is no file; it is made by python -m"
    " lamd_jax.tools.convert sd-vae FILE --out sd_vae.safetensors, from the autoencoder"
    " of Stable Diffusion 1 (stabilityai/sd-vae-ft-mse on Hugging Face)"
  )


def _clip_text_network(config: ConfigDict) -> clip_text_network.ClipText:
  if config.system == "gen1":
    return content_lib.CLIP[config.model.content.network][1]
  return text_lib.Text(config, jnp.float32, "").network


def _clip_text(config: ConfigDict, workdir: epath.Path) -> Tree:
  path = config.model.text.weights
  if config.system == "gen1":
    path = config.model.content.text_weights
  return {"params": clip_text.load(find(path, workdir), _clip_text_network(config))}


def _clip_image(config: ConfigDict, workdir: epath.Path) -> Tree:
  path = find(config.model.content.image_weights, workdir)
  network = content_lib.CLIP[config.model.content.network][0]
  return {"params": clip_image.load(path, network)}


def _depth(config: ConfigDict, workdir: epath.Path) -> Tree:
  path = find(config.model.structure.depth_weights, workdir)
  return {"params": dpt.load(path, DPT_LARGE)}


def _image_denoiser(config: ConfigDict, workdir: epath.Path) -> Tree:
  path = find(config.model.denoiser_weights, workdir)
  stage = gen1_stages.Gen1Stage(gen1.Gen1(config), "image")
  initial = stage.init(config.seed)[0]["denoiser"]
  return {"params": {"denoiser": sd_unet.load(path, initial)}, "extras": {}}


def _perceptual(config: ConfigDict, workdir: epath.Path) -> Tree:
  return {"params": perceptual.load(find(config.model.perceptual.weights, workdir))}


def _scalars() -> Tree:
  return dict.fromkeys(
    ("latent_shift", "latent_scale"), jax.ShapeDtypeStruct((), jnp.float32)
  )


# Name in `frozen` -> its weights, {"params": tree} and perhaps "extras".
LOAD: dict[str, Callable[[ConfigDict, epath.Path], Tree]] = {
  "autoencoder": _autoencoder,
  "clip_text": _clip_text,
  "clip_image": _clip_image,
  gen1.DEPTH: _depth,
  gen1_stages.IMPORTED: _image_denoiser,
  "perceptual": _perceptual,
}

# Name in `frozen` -> the shapes of the same.
SHAPES: dict[str, Callable[[ConfigDict], Tree]] = {
  "autoencoder": lambda config: {
    "params": {"generator": _autoencoder_shapes(config)}, "extras": _scalars()
  },
  "clip_text": lambda config: {
    "params": clip_text.shapes(_clip_text_network(config))
  },
  "clip_image": lambda config: {
    "params": clip_image.shapes(content_lib.CLIP[config.model.content.network][0])
  },
  gen1.DEPTH: lambda config: {"params": dpt.shapes(DPT_LARGE)},
  "perceptual": lambda config: {"params": perceptual_network.shapes()},
}  # fmt: skip


def is_imported(name: str, config: ConfigDict) -> bool:
  """Whether weights of this name come from a file and not from an earlier stage."""
  return name in ("perceptual", gen1_stages.IMPORTED, *names(config))
