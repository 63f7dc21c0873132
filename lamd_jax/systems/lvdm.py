# SPDX-License-Identifier: Apache-2.0
"""LVDM: latent video diffusion (He et al., arXiv 2211.13221), short video.

Two stages. The autoencoder compresses a clip in time and space (section 3.1 of the
paper); the denoiser learns the distribution of the latents (section 3.2). This file
alone knows how the parts go together; what a clip meets on its way is written, step
by step, in the `forward`s of the two stages.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from lamd_jax import rng
from lamd_jax import types
from lamd_jax.diffusion import process as process_lib
from lamd_jax.diffusion import samplers
from lamd_jax.diffusion import weighting
from lamd_jax.diffusion.samplers import grid as grid_lib
from lamd_jax.networks import unet as unet_lib
from lamd_jax.networks import video_autoencoder
from lamd_jax.nn import initializers
from lamd_jax.systems import autoencoder_stage
from lamd_jax.systems import lvdm_blocks
from lamd_jax.systems import pixels
from lamd_jax.training import stage as stage_lib

Tree = stage_lib.Tree
Denoiser = Callable[[jax.Array, jax.Array, types.Conditions], jax.Array]


@dataclasses.dataclass(frozen=True)
class SamplerSettings:
  """The knobs of a chain; static, so each combination compiles once."""

  sampler: str
  steps: int
  eta: float  # DDIM's noise: 0 deterministic, 1 as DDPM
  spacing: str  # where the chain stops: a key of grid.SPACINGS


class DiffusionStage:
  """Trains the denoiser on the latents of the frozen autoencoder.

  The loss is equation 4 of the paper in the form its code has: |eps - eps_theta|, a
  mean over all elements (`diffusion.loss="l2"` gives the paper's square).
  """

  name = "diffusion"
  groups = ("denoiser",)
  needs = ("autoencoder",)
  variants = ("video",)
  trains_on_latents = True

  def __init__(self, system: LVDM):
    self._system = system
    self._config = system.config.diffusion
    self.averaged = ("denoiser",) if system.config.optim.diffusion.ema_decay else ()

  def variant_at(self, step: int) -> str:
    return "video"

  def init(self, seed: int | None) -> tuple[dict[str, Tree], Tree]:
    system = self._system
    z = jax.ShapeDtypeStruct((1, *system.latent_shape), jnp.float32)
    t = jax.ShapeDtypeStruct((1,), jnp.float32)
    variables = initializers.initialize(system.unet, seed, z, t, types.Conditions())
    return {"denoiser": variables["params"]}, {}

  def forward(
    self,
    params: dict[str, Tree],
    extras: Tree,
    frozen: stage_lib.Frozen,
    batch: stage_lib.Batch,
    streams: rng.Streams,
    variant: str,
  ) -> stage_lib.StageOutput:
    process, index = self._system.process, batch.index
    # 1. The clip's latents, a fresh draw from the posterior at each visit.
    z0 = self._latents(frozen, batch, streams)
    # 2. A noise level per clip, uniform over the schedule.
    t = streams.integers("time", index, self._config.steps).astype(jnp.float32)
    # 3. z_t = alpha_t z_0 + sigma_t eps.
    noise = streams.normal("noise", index, z0.shape[1:])
    z = process.add_noise(z0, noise, t)
    # 4. The network's answer, and its distance from what it should say.
    raw = self._system.denoiser(params["denoiser"])(z, t, types.Conditions())
    target = process.target(z0, noise, t)
    loss = weighting.loss(
      process, raw, target, t, self._config.loss, self._config.min_snr_gamma
    ).mean()
    metrics = {"loss": loss, "latent_std": z0.std()}
    return stage_lib.StageOutput({"denoiser": loss}, extras, metrics)

  def _latents(
    self, frozen: stage_lib.Frozen, batch: stage_lib.Batch, streams: rng.Streams
  ) -> jax.Array:
    posterior = self.encode(frozen, batch)
    noise = streams.normal("posterior", batch.index, posterior.mean.shape[1:])
    raw = posterior.mean + jnp.exp(0.5 * posterior.log_variance) * noise
    extras = frozen["autoencoder"]["extras"]
    return jax.lax.stop_gradient(
      extras["latent_scale"] * (raw + extras["latent_shift"])
    )

  def encode(
    self, frozen: stage_lib.Frozen, batch: stage_lib.Batch
  ) -> types.LatentBatch:
    """Encodes pixels; a batch from the latent cache passes through as it is."""
    if isinstance(batch, types.LatentBatch):
      return batch
    mean, log_variance = self._system.encode(
      frozen["autoencoder"]["params"]["generator"], pixels.to_float(batch.video)
    )
    return types.LatentBatch(mean, log_variance, batch.index, batch.label)

  def preview(
    self,
    params: dict[str, Tree],
    extras: Tree,
    frozen: stage_lib.Frozen,
    batch: stage_lib.Batch,
    streams: rng.Streams,
  ) -> dict[str, jax.Array]:
    settings = SamplerSettings(
      "dpmpp_2m", self._system.config.train.preview_steps, eta=0.0, spacing="log_snr"
    )
    weights = {**frozen, "diffusion": {"params": params, "extras": extras}}
    z = self._system.sample_latents(weights, streams, batch.index, settings)
    return {"samples": self._system.decode(weights, z)}

  def finish(
    self,
    params: dict[str, Tree],
    extras: Tree,
    frozen: stage_lib.Frozen,
    batches: Iterator[stage_lib.Batch],
  ) -> Tree:
    return extras


class LVDM:
  """The networks of one config, its stages in order, and how to sample from them.

  Args:
    config: the run's config (`lamd_jax.config.defaults()` lists the keys).
    dtype: compute dtype of the networks; parameters stay float32.
  """

  generates_with = ("autoencoder", "diffusion")  # stages that sampling needs

  def __init__(self, config: Any, dtype: Any = jnp.float32):
    self.config = config
    model = config.model
    self.autoencoder = video_autoencoder.VideoAutoencoder(
      **dict(model.autoencoder), dtype=dtype
    )
    self.unet: unet_lib.UNet = lvdm_blocks.unet(
      dict(model.denoiser),
      out_channels=model.autoencoder.latent_channels,
      dtype=dtype,
      remat=config.train.remat,
    )
    self.process = process_lib.from_config(config.diffusion)
    factors, size = model.autoencoder.downsample, config.data.size
    self.latent_shape = (
      config.data.frames // factors[0],
      size // factors[1],
      size // factors[2],
      model.autoencoder.latent_channels,
    )

  def stages(self) -> list[stage_lib.Stage]:
    """Returns the stages in training order."""
    autoencoder = autoencoder_stage.AutoencoderStage(self.autoencoder, self.config)
    return [autoencoder, DiffusionStage(self)]

  def denoiser(self, params: Tree) -> Denoiser:
    return lambda z, t, conditions: self.unet.apply(
      {"params": params}, z, t, conditions
    )

  def encode(self, params: Tree, video: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns mean and log-variance [B,t,h,w,c] of clips [B,T,H,W,3] in [-1,1]."""
    return self.autoencoder.apply({"params": params}, video, method="encode")

  def reconstruct(self, weights: stage_lib.Frozen, video: jax.Array) -> jax.Array:
    """Encodes (posterior mean) and decodes clips [B,T,H,W,3] uint8."""
    params = weights["autoencoder"]["params"]["generator"]
    mean, _ = self.encode(params, pixels.to_float(video))
    decoded = self.autoencoder.apply({"params": params}, mean, method="decode")
    return pixels.to_uint8(decoded)

  def sample_latents(
    self,
    weights: stage_lib.Frozen,
    streams: rng.Streams,
    index: jax.Array,
    settings: SamplerSettings,
    frames: int = 0,
  ) -> jax.Array:
    """Runs one chain per entry of `index` [B]; returns latents [B,t,h,w,c].

    Entry i depends on the streams and on index[i] alone, not on its batch.
    `frames` is the length in pixels' frames; 0 takes the trained one.
    """
    time, *space = self.latent_shape
    shape = (frames // self.config.model.autoencoder.downsample[0] or time, *space)
    return samplers.SAMPLERS[settings.sampler](
      self.denoiser(weights["diffusion"]["params"]["denoiser"]),
      self.process,
      streams.normal("start", index, shape),
      types.Conditions(),
      grid=grid_lib.make(self.process, settings.steps, settings.spacing),
      noise=lambda i: rng.Streams(streams.root, i).normal("chain", index, shape),
      eta=settings.eta,
    )

  def decode(self, weights: stage_lib.Frozen, z: jax.Array) -> jax.Array:
    """Decodes diffusion latents [B,t,h,w,c] to clips [B,T,H,W,3] uint8."""
    params = weights["autoencoder"]["params"]["generator"]
    extras = weights["autoencoder"]["extras"]
    raw = z / extras["latent_scale"] - extras["latent_shift"]
    decoded = self.autoencoder.apply({"params": params}, raw, method="decode")
    return pixels.to_uint8(decoded)

  def random_latents(self, streams: rng.Streams, index: jax.Array) -> jax.Array:
    """Standard normal latents: the baseline a trained denoiser must beat."""
    return streams.normal("random_latents", index, self.latent_shape)
