# SPDX-License-Identifier: Apache-2.0
"""LaMD: latent motion diffusion (Hu, Chen, Luo, arXiv 2304.11603).

An image is made to move: its content is kept, and a diffusion model over one small map
draws a motion for it. The autoencoder takes clips apart into content and motion
(section 3.1 of the paper), the generator learns motion given content and, as it may be,
a caption or a class (3.2). No code of the paper was released; where it is silent the
docstrings say what we chose. How the two are trained is in `lamd_stages.py`.

Raw z_m is what the bottleneck gives, normalised z_m what the decoder reads, and the
latent that diffuses is `latent_scale * (normalised + latent_shift)`.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from lamd_jax import rng
from lamd_jax import types
from lamd_jax.diffusion import guidance as guidance_lib
from lamd_jax.diffusion import process as process_lib
from lamd_jax.diffusion.process import Denoiser
from lamd_jax.networks import motion_autoencoder
from lamd_jax.nn import latent_norm
from lamd_jax.systems import distill_stage
from lamd_jax.systems import lamd_blocks
from lamd_jax.systems import pixels
from lamd_jax.systems import sampling
from lamd_jax.systems import text as text_lib
from lamd_jax.systems.lamd_stages import MotionAutoencoderStage
from lamd_jax.systems.lamd_stages import MotionDiffusionStage
from lamd_jax.training import stage as stage_lib

Tree = stage_lib.Tree
Content = motion_autoencoder.Content
AUTOENCODER, GENERATOR = "motion_autoencoder", "motion_diffusion"


class LaMD:
  """The networks of one config, its stages in order, and how to sample from them.

  Args:
    config: the run's config (`lamd_jax.config.defaults()` lists the keys).
    dtype: compute dtype of the networks; parameters stay float32.
  """

  animates_images = True

  def __init__(self, config: Any, dtype: Any = jnp.float32):
    self.config = config
    motion, text, data = config.model.motion, config.model.text, config.data
    sizes = dict(motion.autoencoder)
    self.autoencoder = motion_autoencoder.MotionAutoencoder(
      frames=data.frames, **sizes, remat=config.train.remat, dtype=dtype
    )
    self.normalize = latent_norm.NORMALIZE[motion.normalization]
    self.text = text_lib.Text(config, dtype, GENERATOR)
    self.process = process_lib.from_config(config.diffusion)
    # The null class is the last row of its tables.
    classes = motion.num_classes + 1 if motion.num_classes else 0
    self.unet = lamd_blocks.unet(
      dict(config.model.denoiser), motion.autoencoder.latent_channels,
      num_classes=classes, remat=config.train.remat,
      cudnn=config.train.cudnn_attention, dtype=dtype,
    )  # fmt: skip
    joined = motion.content_cond in ("concat", "both")
    self.conditioner = lamd_blocks.Conditioner(
      concat_channels=motion.concat_channels if joined else 0,
      context_width=text.width if text.encoder != "none" else motion.context_width,
      attends_content=motion.content_cond in ("crossattn", "both"),
      content_pool=motion.content_pool,
      num_classes=classes,
      dtype=dtype,
    )
    halved = len(motion.autoencoder.encoder_widths) - 1
    side = data.size // (motion.autoencoder.patch * 2**halved)
    self.latent_shape = (1, side, side, motion.autoencoder.latent_channels)

  @property
  def generates_with(self) -> tuple[str, ...]:
    """Stages that sampling needs, of those that this config trains."""
    names = (GENERATOR, distill_stage.NAME)
    return (AUTOENCODER, *(name for name in names if name in self.config.stages))

  def stages(self) -> list[stage_lib.Stage]:
    """Returns the stages in training order."""
    generator = MotionDiffusionStage(self)
    distill = distill_stage.DistillStage(generator, self.process, self.config)
    return [MotionAutoencoderStage(self), generator, distill]

  def denoiser(self, params: Tree) -> Denoiser:
    return lambda z, t, conditions: self.unet.apply({"params": params}, z, t, conditions)

  def to_latent(self, extras: Tree, raw: jax.Array) -> jax.Array:
    """Raw z_m [B,1,h,w,c] to the latent that diffuses, by the stored statistics."""
    of = latent_norm.Moments(extras["latent_mean"], extras["latent_variance"])
    normalized = self.normalize(raw, of)
    return extras["latent_scale"] * (normalized + extras["latent_shift"])

  def content(self, weights: stage_lib.Frozen, image: jax.Array) -> Content:
    """Returns the content maps of images [B,1,H,W,3] uint8, finest first."""
    params = weights[AUTOENCODER]["params"]["generator"]
    image = pixels.to_float(image)
    return self.autoencoder.apply({"params": params}, image, method="content")

  def motion(self, weights: stage_lib.Frozen, video: jax.Array) -> jax.Array:
    """Returns the latents [B,1,h,w,c] of the motion of clips [B,T,H,W,3] uint8.

    The posterior's mean. Decoded with another image it is motion transfer.
    """
    params = weights[AUTOENCODER]["params"]["generator"]
    mean, _ = self.autoencoder.apply(
      {"params": params}, pixels.to_float(video), method="encode"
    )
    return self.to_latent(weights[AUTOENCODER]["extras"], mean)

  def decode_float(
    self, weights: stage_lib.Frozen, z: jax.Array, content: Content
  ) -> jax.Array:
    """Latents [B,1,h,w,c] and content to clips [B,T,H,W,3] float, about [-1,1]."""
    params = weights[AUTOENCODER]["params"]["generator"]
    extras = weights[AUTOENCODER]["extras"]
    normalized = z / extras["latent_scale"] - extras["latent_shift"]
    return self.autoencoder.apply(
      {"params": params}, normalized, content, method="decode"
    )

  def decode(
    self, weights: stage_lib.Frozen, z: jax.Array, prompt: types.Prompt
  ) -> jax.Array:
    """Lets the prompt's images move as latents [B,1,h,w,c] say: [B,T,H,W,3] uint8.

    Frame 0 is the decoder's; `with_first_frame` puts the image there.
    """
    content = self.content(weights, prompt.image)
    return pixels.to_uint8(self.decode_float(weights, z, content))

  def reconstruct(self, weights: stage_lib.Frozen, video: jax.Array) -> jax.Array:
    """Encodes (posterior mean) and decodes clips [B,T,H,W,3] uint8."""
    prompt = types.Prompt(image=video[:, :1])
    return self.decode(weights, self.motion(weights, video), prompt)

  def conditions(
    self,
    weights: stage_lib.Frozen,
    f_x0: jax.Array,
    tokens: jax.Array | None,
    label: jax.Array | None,
  ) -> types.Conditions:
    """What the network is told: content f_x0 [B,1,h,w,D], captions, classes."""
    text = self.text.encode(weights, tokens)
    params = weights[GENERATOR]["params"]["conditioner"]
    return self.conditioner.apply({"params": params}, f_x0, label, text)

  def null_label(self, index: jax.Array) -> jax.Array | None:
    """The class [B] that stands for none; None in a model without classes."""
    classes = self.config.model.motion.num_classes
    return jnp.full(index.shape, classes, jnp.int32) if classes else None

  def null(
    self, weights: stage_lib.Frozen, f_x0: jax.Array
  ) -> guidance_lib.Null | None:
    """Leaves of conditions the content [B,1,h,w,D] alone; None if that is all anyway."""
    none = self.null_label(f_x0[:, 0, 0, 0, 0])
    if self.text.network is None and none is None:
      return None
    empty = None
    if self.text.network is not None:
      shape = (f_x0.shape[0], len(self.text.empty))
      empty = jnp.broadcast_to(jnp.asarray(self.text.empty), shape)
    without = self.conditions(weights, f_x0, empty, none)
    return lambda c: without

  def sample_latents(
    self,
    weights: stage_lib.Frozen,
    streams: rng.Streams,
    index: jax.Array,
    prompt: types.Prompt,
    settings: sampling.SamplerSettings,
    frames: int,
  ) -> jax.Array:
    """Runs one chain per entry of `index` [B]; returns latents [B,1,h,w,c].

    Entry i depends on the streams, on index[i] and row i of the prompt alone. Guidance
    drops caption and class and keeps the content. `frames` is 0 or the trained length.
    """
    del frames  # the decoder makes one length
    return self._chain(weights, streams, index, prompt, settings, False)

  def denoising_states(
    self,
    weights: stage_lib.Frozen,
    streams: rng.Streams,
    index: jax.Array,
    prompt: types.Prompt,
    settings: sampling.SamplerSettings,
  ) -> jax.Array:
    """Every state of the chain, [S+1,B,1,h,w,c]: pure noise first, the result last.

    Decoded they are the paper's strip from random motion to the final clip.
    """
    start = streams.normal("start", index, self.latent_shape)
    states = self._chain(weights, streams, index, prompt, settings, True)
    return jnp.concatenate([start[None], states])

  def _chain(
    self,
    weights: stage_lib.Frozen,
    streams: rng.Streams,
    index: jax.Array,
    prompt: types.Prompt,
    settings: sampling.SamplerSettings,
    return_states: bool,
  ) -> jax.Array:
    f_x0 = self.content(weights, prompt.image)[-1]
    none = self.null_label(index)
    given = self.conditions(
      weights, f_x0, prompt.tokens, none if prompt.label is None else prompt.label
    )
    network = distill_stage.network(weights, GENERATOR, settings)
    denoise = self.denoiser(network["denoiser"])
    if null := self.null(weights, f_x0):
      denoise = guidance_lib.classifier_free(denoise, null, settings.guidance)
    return sampling.chain(
      denoise, self.process, settings, streams, index, self.latent_shape, given, None,
      return_states=return_states,
    )  # fmt: skip

  def random_latents(self, streams: rng.Streams, index: jax.Array) -> jax.Array:
    """Standard normal latents: the baseline a trained denoiser must beat."""
    return streams.normal("random_latents", index, self.latent_shape)


def with_first_frame(clips: jax.Array, image: jax.Array) -> jax.Array:
  """Puts images [B,1,H,W,3] in place of the first frames of clips [B,T,H,W,3].

  The decoder rebuilds the first frame too; who scores a clip from its true first frame
  on (the protocol of BAIR) wants that one.
  """
  return jnp.concatenate([image, clips[:, 1:]], axis=1)
