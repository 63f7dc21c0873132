# SPDX-License-Identifier: Apache-2.0
"""LVDM: latent video diffusion (He et al., arXiv 2211.13221).

The autoencoder compresses a clip in time and space (section 3.1 of the paper), the
denoiser learns the distribution of the latents (3.2), two conditional ones make long
videos of them (3.3, `lvdm_long.py`). Here is how the parts go together and how a clip
is sampled; how they are trained is in `autoencoder_stage.py` and `lvdm_stages.py`.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from lamd_jax import rng
from lamd_jax import types
from lamd_jax.diffusion import constraints
from lamd_jax.diffusion import guidance as guidance_lib
from lamd_jax.diffusion import process as process_lib
from lamd_jax.diffusion.process import Denoiser
from lamd_jax.networks import unet as unet_lib
from lamd_jax.systems import autoencoder_stage
from lamd_jax.systems import distill_stage
from lamd_jax.systems import latent_clips
from lamd_jax.systems import lvdm_blocks
from lamd_jax.systems import sampling
from lamd_jax.systems import text as text_lib
from lamd_jax.systems.lvdm_stages import ConditionalStage
from lamd_jax.systems.lvdm_stages import DiffusionStage
from lamd_jax.training import stage as stage_lib

Tree = stage_lib.Tree
CONDITIONAL = ("prediction", "interpolation")


class LVDM(latent_clips.LatentClips):
  """The networks of one config, its stages in order, and how to sample from them.

  Args:
    config: the run's config (`lamd_jax.config.defaults()` lists the keys).
    dtype: compute dtype of the networks; parameters stay float32.
  """

  animates_images = False

  def __init__(self, config: Any, dtype: Any = jnp.float32):
    super().__init__(config, dtype)
    self.text = text_lib.Text(config, dtype, "diffusion")
    self.process = process_lib.from_config(config.diffusion)
    settings = dict(config.model.denoiser)
    changes = {"diffusion": {}}
    for name in CONDITIONAL:
      clip = config[name]
      # The release's embedding has one row more than there are levels.
      classes = clip.noise_levels + 1
      changes[name] = dict(temporal_length=clip.latents, noise_level_classes=classes)
    self.unets: dict[str, unet_lib.UNet] = {
      name: lvdm_blocks.unet(
        {**settings, **changed}, self.latent_shape[-1], dtype=dtype,
        remat=config.train.remat, cudnn=config.train.cudnn_attention,
      )  # fmt: skip
      for name, changed in changes.items()
    }

  @property
  def generates_with(self) -> tuple[str, ...]:
    """Stages that sampling needs, of those that this config trains."""
    names = ("diffusion", *CONDITIONAL, distill_stage.NAME)
    trained = [name for name in names if name in self.config.stages]
    return ("autoencoder", *trained)

  def stages(self) -> list[stage_lib.Stage]:
    """Returns the stages in training order."""
    autoencoder = autoencoder_stage.AutoencoderStage(self.autoencoder, self.config)
    diffusion = DiffusionStage(self)
    conditional = [ConditionalStage(self, name) for name in CONDITIONAL]
    distill = distill_stage.DistillStage(diffusion, self.process, self.config)
    return [autoencoder, diffusion, *conditional, distill]

  def denoiser(self, stage: str, params: Tree) -> Denoiser:
    unet = self.unets[stage]
    return lambda z, t, conditions: unet.apply({"params": params}, z, t, conditions)

  def sample_latents(
    self,
    weights: stage_lib.Frozen,
    streams: rng.Streams,
    index: jax.Array,
    prompt: types.Prompt,
    settings: sampling.SamplerSettings,
    frames: int,
  ) -> jax.Array:
    """Runs one chain per entry of `index` [B]; returns latents [B,t,h,w,c].

    Entry i depends on the streams and on index[i] alone, not on its batch. Of the
    prompt the captions are read, None without text. `frames` is the length in pixels'
    frames; 0 takes the trained one. A run without the stage of short clips lets its
    frame-by-frame conditional one make a clip of which nothing is known.
    """
    time = frames // self.downsample[0] or self.latent_shape[0]
    if "diffusion" not in weights:
      return self._unconditional(weights, streams, index, settings)[:, :time]
    network = distill_stage.network(weights, "diffusion", settings)
    denoise = self.denoiser("diffusion", network["denoiser"])
    conditions = types.Conditions(context=self.text.encode(weights, prompt.tokens))
    if null := self.null(weights):
      denoise = guidance_lib.classifier_free(denoise, null, settings.guidance)
    shape = (time, *self.latent_shape[1:])
    return sampling.chain(
      denoise, self.process, settings, streams, index, shape, conditions, None
    )

  def null(self, weights: stage_lib.Frozen) -> guidance_lib.Null | None:
    """Puts the empty caption into conditions; None without text."""
    if self.text.network is None:
      return None
    empty = self.text.encode(weights, jnp.asarray(self.text.empty)[None])
    return lambda c: c._replace(context=jnp.broadcast_to(empty, c.context.shape))

  def dense_stage(self) -> str:
    """The conditional stage of consecutive frames; "" if the config has none."""
    dense = [
      name
      for name in CONDITIONAL
      if name in self.config.stages and self.config[name].sparse == 1
    ]
    return dense[0] if dense else ""

  def _unconditional(
    self,
    weights: stage_lib.Frozen,
    streams: rng.Streams,
    index: jax.Array,
    settings: sampling.SamplerSettings,
  ) -> jax.Array:
    name = self.dense_stage()
    shape = (index.shape[0], self.config[name].latents, *self.latent_shape[1:])
    return self.conditional_clip(
      name, weights, streams, index, jnp.zeros((*shape[:2], 1, 1, 1)),
      jnp.zeros(shape), settings, noise_level=0, null="unconditional",
    )  # fmt: skip

  def conditional_clip(
    self,
    stage: str,
    weights: stage_lib.Frozen,
    streams: rng.Streams,
    index: jax.Array,
    mask: jax.Array,
    known: jax.Array,
    settings: sampling.SamplerSettings,
    *,
    noise_level: int,
    null: str,
  ) -> jax.Array:
    """Latents [B,T,h,w,c] around known frames, which come out clean.

    The known frames, `known` [B,T,h,w,c] where `mask` [B,T,1,1,1] is 1, are noised to
    `noise_level` once and held there at every step. Guidance goes away from a clip of
    which nothing is known. If `null` is "released", the released code's form, the
    network is told so by a zero mask and no noise-level embedding, but the frames stay
    where they are; if "unconditional", they are absent: their places hold the clip's
    own noisy frames, and the embedding is there, as it always was in training.
    """
    shape = known.shape[1:]
    level = jnp.full(index.shape, noise_level)
    noise = streams.normal("perturbation", index, shape)
    noisy = self.process.add_noise(known, noise, level.astype(jnp.float32))
    hold = constraints.known_frames(mask, noisy)
    released = null == "released"
    conditions = types.Conditions(mask=mask, noise_level=level)
    if released:
      # Nothing known, no embedding: what the released code calls unconditional.
      told = mask.max(axis=(1, 2, 3, 4))
      conditions = conditions._replace(keep={"noise_level": told})

    def nothing(c: types.Conditions) -> types.Conditions:
      off = jnp.zeros_like(level, jnp.float32)
      keep = {"mask": off, "noise_level": off} if released else {"mask": off}
      return c._replace(keep=keep)

    denoise = self.denoiser(stage, weights[stage]["params"]["denoiser"])
    guidance = settings.guidance
    if guidance == 1 or released:
      denoise = guidance_lib.classifier_free(denoise, nothing, guidance)
    else:
      denoise = guidance_lib.free_of_known(denoise, nothing, guidance, mask, hold)
      hold = None
    z = sampling.chain(
      denoise, self.process, settings, streams, index, shape, conditions, hold
    )
    return jnp.where(mask != 0, known, z)
