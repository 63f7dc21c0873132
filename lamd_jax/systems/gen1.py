# SPDX-License-Identifier: Apache-2.0
"""Gen-1: structure- and content-guided video (Esser et al., arXiv 2302.03011).

A clip's structure s is its depth, its content c an image embedding; the model draws
clips from p(x | s, c) (section 3 of the paper). Training takes both from one clip. An
edit takes s from the clip to be edited and c from a picture or, through a prior, from
words. Neither code nor weights were released; where the paper is silent the docstrings
say what we chose. How the stages are trained is in `gen1_stages.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lamd_jax import rng
from lamd_jax import types
from lamd_jax.diffusion import guidance as guidance_lib
from lamd_jax.diffusion import process as process_lib
from lamd_jax.diffusion.process import Denoiser
from lamd_jax.networks.dpt import DPT_LARGE
from lamd_jax.nn import content_tokens
from lamd_jax.nn import depth_moments
from lamd_jax.nn import latent_norm
from lamd_jax.ops import blur_pyramid
from lamd_jax.ops import depth as depth_lib
from lamd_jax.systems import autoencoder_stage
from lamd_jax.systems import content as content_lib
from lamd_jax.systems import content_stage
from lamd_jax.systems import distill_stage
from lamd_jax.systems import gen1_blocks
from lamd_jax.systems import latent_clips
from lamd_jax.systems import parameter_groups
from lamd_jax.systems import pixels
from lamd_jax.systems import prior as prior_lib
from lamd_jax.systems import prior_stage
from lamd_jax.systems import sampling
from lamd_jax.systems.gen1_stages import DEPTH
from lamd_jax.systems.gen1_stages import DIFFUSERS
from lamd_jax.systems.gen1_stages import Gen1Stage
from lamd_jax.systems.gen1_stages import LEVEL_CHANNELS
from lamd_jax.systems.gen1_stages import STRUCTURED
from lamd_jax.training import stage as stage_lib

Tree = stage_lib.Tree


class Gen1(latent_clips.LatentClips):
  """The networks of one config, its stages in order, and how to sample from them.

  Args:
    config: the run's config (`lamd_jax.config.defaults()` lists the keys).
    dtype: compute dtype of the networks; parameters stay float32.
  """

  animates_images = False

  def __init__(self, config: Any, dtype: Any = jnp.float32):
    super().__init__(config, dtype)
    self._dtype = dtype
    model = config.model
    self.process = process_lib.from_config(config.diffusion)
    self.content = content_lib.Content(config, dtype)
    self.prior = prior_lib.Prior(config, self.content, dtype)
    self.unet = gen1_blocks.unet(
      dict(model.denoiser), self.latent_shape[-1], remat=config.train.remat,
      cudnn=config.train.cudnn_attention, dtype=dtype,
    )  # fmt: skip
    self.estimates_depth = config.data.depth == "estimated"
    self.projector = content_tokens.ContentTokens(
      model.content.tokens, model.content.context_width, dtype
    )

  @property
  def diffuser(self) -> str:
    """The stage that clips are drawn from: the last of a config's diffusion stages."""
    trained = [name for name in DIFFUSERS if name in self.config.stages]
    return trained[-1] if trained else ""

  @property
  def structured(self) -> bool:
    """Whether clips are drawn for a given depth."""
    return self.diffuser in STRUCTURED

  @property
  def generates_with(self) -> tuple[str, ...]:
    """Stages that sampling needs, of those that this config trains."""
    content = (content_lib.STAGE,) if self.content.trained else ()
    prior = (prior_lib.STAGE,) if prior_lib.STAGE in self.config.stages else ()
    diffuser = (self.diffuser,) if self.diffuser else ()
    distill = (distill_stage.NAME,) if distill_stage.NAME in self.config.stages else ()
    return ("autoencoder", *content, *diffuser, *prior, *distill)

  def stages(self) -> list[stage_lib.Stage]:
    """Returns the stages in training order."""
    autoencoder = autoencoder_stage.AutoencoderStage(self.autoencoder, self.config)
    content = []
    if self.content.trained:
      content = [content_stage.ContentStage(self.content, self.config)]
    diffusers = [Gen1Stage(self, name) for name in DIFFUSERS]
    prior = prior_stage.PriorStage(self.prior, self.config, diffusers[0])
    # A config without any has no such stage either, and asks for its shape alone.
    teacher = diffusers[DIFFUSERS.index(self.diffuser or DIFFUSERS[-1])]
    distill = distill_stage.DistillStage(teacher, self.process, self.config)
    return [autoencoder, *content, *diffusers, prior, distill]

  def denoiser(self, params: Mapping[str, Tree], mode: str) -> Denoiser:
    """The network on groups "denoiser" and "temporal"; mode "image" needs no latter."""
    whole = params["denoiser"]
    if mode == "video":
      # Without temporal layers the group is empty, and not in a checkpoint.
      whole = parameter_groups.merge(whole, params.get("temporal", {}))
    return lambda z, t, conditions: self.unet.apply(
      {"params": whole}, z, t, conditions, mode
    )

  def tokens(
    self, params: Mapping[str, Tree], extras: Tree, embedding: jax.Array, keep: jax.Array
  ) -> jax.Array:
    """The context [B,N,D'] of unit rows `embedding` [B,D]; null where `keep` [B] is not.

    Embeddings are normalised channel by channel with the data's statistics, since those
    of CLIP have a mean far from 0 and a few channels that outweigh the rest.
    """
    of = latent_norm.Moments(
      extras["embedding_mean"], extras["embedding_variance"]
    )
    normal = latent_norm.NORMALIZE["batch"](embedding, of)
    return self.projector.apply({"params": params["projector"]}, normal, keep)

  def depth(self, weights: stage_lib.Frozen, video: jax.Array) -> jax.Array:
    """Estimates the depth of clips [B,T,H,W,3] uint8, [B,T,H,W,1] uint8, near is white.

    Monocular, frame by frame (section 3.3), put on one scale a clip.
    """
    return depth_lib.normalise(self.inverse_depth(weights, video))

  def inverse_depth(self, weights: stage_lib.Frozen, video: jax.Array) -> jax.Array:
    """The same before it is put on a scale, [B,T,H,W] float, frame by frame."""
    height, width = video.shape[2:4]
    frames = depth_lib.prepare(
      video.reshape(-1, height, width, 3), DPT_LARGE.size, 2 * DPT_LARGE.patch
    )
    params = weights[DEPTH]["params"]
    found = DPT_LARGE.clone(dtype=self._dtype).apply({"params": params}, frames)
    return depth_lib.restore(found, height, width).reshape(video.shape[:-1])

  def depth_latents(
    self, weights: stage_lib.Frozen, depth: jax.Array, level: jax.Array
  ) -> jax.Array:
    """Latents [B,T,h,w,c] of depth [B,T,H,W,1] uint8, near is white.

    Depth goes through the autoencoder of the pixels, as a grey picture, once it is
    degraded to `level` [B] int32, t_s in [0, model.structure.levels] (section 3.3 of
    the paper).
    """
    levels = self.config.model.structure.levels
    grey = blur_pyramid.degrade(pixels.to_float(depth), level, levels)
    params = weights["autoencoder"]["params"]["generator"]
    mean, _ = self.encode(params, jnp.repeat(grey, 3, axis=-1))
    return self.to_latent(weights, mean)

  def structure(self, z: jax.Array, level: jax.Array, extras: Tree) -> jax.Array:
    """What joins the noisy latents on channels: [B,T,h,w,c+LEVEL_CHANNELS].

    Args:
      z: what `depth_latents` gave.
      level: [B] int32, told by a few more channels.
      extras: of the stage, with statistics of z where it is standardised.
    """
    if self.config.model.structure.standardise:
      z = depth_moments.standardise(z, extras)
    levels = self.config.model.structure.levels
    angle = level[:, None] * np.pi * np.array([0.5, 0.25]) / levels
    told = jnp.concatenate([jnp.cos(angle), jnp.sin(angle)], axis=-1)
    told = jnp.broadcast_to(
      told[:, None, None, None].astype(z.dtype), (*z.shape[:-1], LEVEL_CHANNELS)
    )
    return jax.lax.stop_gradient(jnp.concatenate([z, told], axis=-1))

  def embedding(
    self,
    weights: stage_lib.Frozen,
    streams: rng.Streams,
    index: jax.Array,
    prompt: types.Prompt,
  ) -> jax.Array:
    """Content of a prompt, unit rows [B,D]: of its picture, or of its words."""
    if prompt.image is not None:
      return self.content.images(weights, prompt.image[:, 0])
    return self.prior.sample_embedding(weights, streams, index, prompt.tokens)

  def conditions(
    self,
    name: str,
    weights: stage_lib.Frozen,
    embedding: jax.Array,
    prompt: types.Prompt,
  ) -> tuple[types.Conditions, types.Conditions]:
    """What the network of stage `name` is told, with the content and without.

    Both have the prompt's structure, if the stage knows any. `embedding` is [B,D].
    """
    params, extras = weights[name]["params"], weights[name]["extras"]
    ones = jnp.ones(embedding.shape[:1], bool)
    told = types.Conditions(context=self.tokens(params, extras, embedding, ones))
    if name in STRUCTURED:
      z = self.depth_latents(weights, prompt.depth, prompt.structure_level)
      concat = self.structure(z, prompt.structure_level, extras)
      told = told._replace(concat=concat)
    return told, told._replace(context=self.tokens(params, extras, embedding, ~ones))

  def guided(
    self,
    name: str,
    weights: stage_lib.Frozen,
    null: types.Conditions,
    settings: sampling.SamplerSettings,
  ) -> Denoiser:
    """The network of stage `name` under the paper's guidance (section 3.3)."""
    params = distill_stage.network(weights, name, settings)
    image = self.denoiser(params, "image")
    return guidance_lib.three_term(
      image if name == "image" else self.denoiser(params, "video"),
      image,
      lambda c: c._replace(context=null.context),
      settings.guidance,
      settings.temporal_guidance,
    )

  def sample_latents(
    self,
    weights: stage_lib.Frozen,
    streams: rng.Streams,
    index: jax.Array,
    prompt: types.Prompt,
    settings: sampling.SamplerSettings,
    frames: int,
  ) -> jax.Array:
    """Runs `draw` on the last of the trained stages; see there."""
    return self.draw(
      self.diffuser, weights, streams, index, prompt, settings, frames
    )

  def draw(
    self,
    name: str,
    weights: stage_lib.Frozen,
    streams: rng.Streams,
    index: jax.Array,
    prompt: types.Prompt,
    settings: sampling.SamplerSettings,
    frames: int,
  ) -> jax.Array:
    """Runs one chain per entry of `index` [B]; returns latents [B,T,h,w,c].

    Entry i depends on the streams, index[i] and row i of the prompt alone, not on its
    batch. Guidance drops the content and never the structure (section 3.3).

    Args:
      name: the stage to draw from.
      weights: of the finished stages.
      streams: random streams.
      index: [B] int32.
      prompt: an image or tokens say what the clip looks like; of a model with structure
        `depth` and `structure_level` say what is where.
      settings: of the chain; static.
      frames: the length, 0: that of the depth, or as trained; static.
    """
    embedding = self.embedding(weights, streams, index, prompt)
    conditions, null = self.conditions(name, weights, embedding, prompt)
    if conditions.concat is not None:
      frames = conditions.concat.shape[1]
    denoise = self.guided(name, weights, null, settings)
    shape = (frames or self.latent_shape[0], *self.latent_shape[1:])
    return sampling.chain(
      denoise, self.process, settings, streams, index, shape, conditions, None
    )
