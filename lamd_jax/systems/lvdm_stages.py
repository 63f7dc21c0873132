# SPDX-License-Identifier: Apache-2.0
"""LVDM's stages on the frozen autoencoder (He et al., arXiv 2211.13221).

What a clip meets on its way is written, step by step, in `DiffusionStage.show` with
`DenoiserStage.forward`, and in `ConditionalStage.forward`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np

from lamd_jax import rng
from lamd_jax import types
from lamd_jax.diffusion.process import Denoiser
from lamd_jax.nn import initializers
from lamd_jax.systems import pixels
from lamd_jax.systems.diffusion_stage import DenoiserStage
from lamd_jax.systems.diffusion_stage import Shown
from lamd_jax.systems.sampling import SamplerSettings
from lamd_jax.training import stage as stage_lib

if TYPE_CHECKING:
  from lamd_jax.systems.lvdm import LVDM

Tree = stage_lib.Tree


class DiffusionStage(DenoiserStage):
  """Trains the denoiser of short clips, with text if the config has an encoder.

  The loss is equation 4 of the paper in the form its code has: |eps - eps_theta|, a
  mean over all elements (`diffusion.loss="l2"` gives the paper's square). A text
  encoder that is trained learns from the same loss.
  """

  name = "diffusion"
  cached_as = "diffusion"
  encoded_by = ("autoencoder",)

  def __init__(self, system: LVDM):
    super().__init__(system.process, system.config)
    self._system = system
    self.frames = system.config.data.frames
    text = system.text
    self.groups = ("denoiser", "text_encoder") if text.trained else ("denoiser",)
    self.needs = ("autoencoder", *text.imported)
    self.averaged = self.groups if system.config.optim.diffusion.ema_decay else ()

  def init(self, seed: int | None) -> tuple[dict[str, Tree], Tree]:
    system = self._system
    z = jax.ShapeDtypeStruct((1, *system.latent_shape), jnp.float32)
    t = jax.ShapeDtypeStruct((1,), jnp.float32)
    conditions = types.Conditions(context=system.text.context_shape(1))
    unet = system.unets[self.name]
    params = {"denoiser": initializers.initialize(unet, seed, z, t, conditions)["params"]}
    if system.text.trained:
      params["text_encoder"] = system.text.init(seed)
    return params, {}

  def show(
    self,
    params: dict[str, Tree],
    extras: Tree,
    frozen: stage_lib.Frozen,
    batch: stage_lib.Batch,
    streams: rng.Streams,
    variant: str,
  ) -> Shown:
    system, index = self._system, batch.index
    # 1. The clip's latents, a fresh draw from the posterior at each visit.
    z0 = self._latents(frozen, batch, streams)
    # 2. The caption, now and then dropped, so that guidance has what to subtract.
    tokens = system.text.drop(batch.tokens, streams.uniform("caption", index))
    weights = {**frozen, self.name: {"params": params}}
    conditions = types.Conditions(context=system.text.encode(weights, tokens))
    return Shown(z0, index, conditions, lambda: system.null(weights), extras)

  def network_of(self, params: dict[str, Tree], variant: str) -> Denoiser:
    return self._system.denoiser(self.name, params["denoiser"])

  def _latents(
    self, frozen: stage_lib.Frozen, batch: stage_lib.Batch, streams: rng.Streams
  ) -> jax.Array:
    posterior = self.encode(frozen, batch)
    noise = streams.normal("posterior", batch.index, posterior.mean.shape[1:])
    raw = posterior.mean + jnp.exp(0.5 * posterior.log_variance) * noise
    return jax.lax.stop_gradient(self._system.to_latent(frozen, raw))

  def encode(
    self, frozen: stage_lib.Frozen, batch: stage_lib.Batch
  ) -> types.LatentBatch:
    """Encodes pixels; a batch from the latent cache passes through as it is."""
    if isinstance(batch, types.LatentBatch):
      return batch
    mean, log_variance = self._system.encode(
      frozen["autoencoder"]["params"]["generator"], pixels.to_float(batch.video)
    )
    return types.LatentBatch(mean, log_variance, batch.index, batch.label, batch.tokens)

  def clips(
    self,
    params: dict[str, Tree],
    extras: Tree,
    frozen: stage_lib.Frozen,
    batch: stage_lib.Batch,
    streams: rng.Streams,
    settings: SamplerSettings,
  ) -> dict[str, jax.Array]:
    weights = {**frozen, self.name: {"params": params, "extras": extras}}
    prompt = types.Prompt(tokens=batch.tokens)
    z = self._system.sample_latents(
      weights, streams, batch.index, prompt, settings, 0
    )
    return {"samples": self._system.decode(weights, z, prompt)}


class ConditionalStage(DiffusionStage):
  """Trains one network to predict, to interpolate and to generate freely.

  Section 3.3 of the paper. A mask channel tells which frames of the clip are known;
  these are noised to a level s of their own, low and told to the network (conditional
  latent perturbation): at sampling they are frames the model made, not perfect ones.
  As in the authors' code the known frames count in the loss, with the noise that they
  have. `sparse` takes every n-th latent: keyframes of a long video.
  """

  def __init__(self, system: LVDM, name: str):
    super().__init__(system)
    self.name = self.cached_as = name
    self._settings = settings = system.config[name]
    span = (settings.latents - 1) * settings.sparse + 1
    self.frames = span * system.downsample[0]
    self.groups = ("denoiser",)
    self.needs = ("autoencoder",)
    self.averaged = self.groups if system.config.optim[name].ema_decay else ()

  def init(self, seed: int | None) -> tuple[dict[str, Tree], Tree]:
    system, latents = self._system, self._settings.latents
    shape = lambda *sizes, dtype=jnp.float32: jax.ShapeDtypeStruct(sizes, dtype)
    conditions = types.Conditions(
      mask=shape(1, latents, 1, 1, 1), noise_level=shape(1, dtype=jnp.int32)
    )
    z = shape(1, latents, *system.latent_shape[1:])
    unet = system.unets[self.name]
    variables = initializers.initialize(unet, seed, z, shape(1), conditions)
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
    # 1. Latents, and which of them are known.
    z0 = self._latents(frozen, batch, streams)
    mask = self._known(streams.uniform("task", index))
    # 2. Levels: s of the known frames, t of the others. Unconditional clips are told
    #    an s too, without effect on them.
    s = streams.integers("noise_level", index, self._settings.noise_levels)
    t = streams.integers("time", index, process.schedule.steps).astype(jnp.float32)
    levels = jnp.where(mask[..., 0, 0, 0] != 0, s[:, None].astype(jnp.float32), t[:, None])
    # 3. Noise, as much as each frame's level says.
    noise = streams.normal("noise", index, z0.shape[1:])
    z = process.add_noise(z0, noise, levels)
    # 4. The network is told t, s and the mask.
    conditions = types.Conditions(mask=mask, noise_level=s)
    raw = self._system.denoiser(self.name, params["denoiser"])(z, t, conditions)
    return self._output(raw, process.target(z0, noise, levels), levels, z0, extras)

  def _known(self, u: jax.Array) -> jax.Array:
    """Masks [B,T,1,1,1] of the tasks that u [B] in [0,1) picks."""
    settings = self._settings
    place = np.arange(settings.latents)
    first = place < settings.known
    ends = (place == 0) | (place == settings.latents - 1)
    predict = u < settings.p_prediction
    between = ~predict & (u < settings.p_prediction + settings.p_interpolation)
    mask = predict[:, None] & first | between[:, None] & ends
    return mask[..., None, None, None].astype(jnp.float32)

  def encode(
    self, frozen: stage_lib.Frozen, batch: stage_lib.Batch
  ) -> types.LatentBatch:
    found = super().encode(frozen, batch)
    if isinstance(batch, types.LatentBatch):
      return found  # the cache holds what this function returned
    sparse = self._settings.sparse
    return found._replace(
      mean=found.mean[:, ::sparse], log_variance=found.log_variance[:, ::sparse]
    )

  def clips(
    self,
    params: dict[str, Tree],
    extras: Tree,
    frozen: stage_lib.Frozen,
    batch: stage_lib.Batch,
    streams: rng.Streams,
    settings: SamplerSettings,
  ) -> dict[str, jax.Array]:
    """Goes on from the clips' first frames, or fills in between their ends."""
    system, own = self._system, self._settings
    weights = {**frozen, self.name: {"params": params, "extras": extras}}
    z0 = self._latents(frozen, batch, streams)
    predicts = own.p_prediction >= own.p_interpolation
    task = 0.0 if predicts else own.p_prediction
    z = system.conditional_clip(
      self.name, weights, streams, batch.index,
      self._known(jnp.full(batch.index.shape, task)), z0,
      settings, noise_level=0, null="released",
    )  # fmt: skip
    if own.sparse == 1:
      return {"samples": system.decode(weights, z, types.Prompt())}
    # Keyframes stand alone: each is decoded as a clip of its own.
    apart = z.reshape(-1, 1, *z.shape[2:])
    alone = system.decode(weights, apart, types.Prompt())
    return {"keyframes": alone[:, 0].reshape(*z.shape[:2], *alone.shape[2:])}
