# SPDX-License-Identifier: Apache-2.0
"""LaMD's two stages (Hu, Chen, Luo, arXiv 2304.11603).

What a clip meets on its way is written, step by step, in the autoencoder's `forward`,
and in the generator's `show` with `DenoiserStage.forward`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np

from lamd_jax import rng
from lamd_jax import types
from lamd_jax.diffusion.process import Denoiser
from lamd_jax.nn import initializers
from lamd_jax.nn import latent_norm
from lamd_jax.systems import autoencoder_loss
from lamd_jax.systems import autoencoder_stage
from lamd_jax.systems import pixels
from lamd_jax.systems.diffusion_stage import DenoiserStage
from lamd_jax.systems.diffusion_stage import Shown
from lamd_jax.systems.sampling import SamplerSettings
from lamd_jax.training import stage as stage_lib

if TYPE_CHECKING:
  from lamd_jax.systems.lamd import LaMD

Tree = stage_lib.Tree
_ACTIVE = 0.01  # variance of the posterior's mean from which on a channel says something


class MotionAutoencoderStage(autoencoder_stage.AutoencoderStage):
  """Trains the autoencoder to rebuild clips from their first frame and their motion.

  L1 + LPIPS + beta KL + d g (section 3.1 of the paper). Unlike in LVDM's and latent
  diffusion's stage, L1 and LPIPS are means over pixels; what the KL is a mean or sum of
  is `loss.kl_reduction`, since beta says nothing without it.

  `extras` holds, beside the critic's: `latent_mean` and `latent_variance` [d], the
  running statistics of z_m; `latent_shift` and `latent_scale`, measured by `finish`;
  and `kl_integral`, the state of the controller of beta.
  """

  name = "motion_autoencoder"

  def __init__(self, system: LaMD):
    super().__init__(system.autoencoder, system.config)
    self.frames = system.config.data.frames
    self._system = system
    self._motion = system.config.model.motion

  def init(self, seed: int | None) -> tuple[dict[str, Tree], Tree]:
    params, extras = super().init(seed)
    channels = self._motion.autoencoder.latent_channels
    return params, {
      **extras,
      "latent_mean": np.zeros(channels, np.float32),
      "latent_variance": np.ones(channels, np.float32),
      "kl_integral": np.zeros((), np.float32),
    }

  def forward(
    self,
    params: dict[str, Tree],
    extras: Tree,
    frozen: stage_lib.Frozen,
    batch: types.VideoBatch,
    streams: rng.Streams,
    variant: str,
  ) -> stage_lib.StageOutput:
    loss, generator = self._config.loss, params["generator"]
    x = pixels.to_float(batch.video)
    # 1. Motion: a draw from the posterior, normalised by the batch's own statistics.
    mean, log_variance = self._apply(generator, x, "encode")
    noise = streams.normal("posterior", batch.index, mean.shape[1:])
    raw = mean + jnp.exp(0.5 * log_variance) * noise
    now = latent_norm.moments(raw)
    z = self._system.normalize(raw, now)
    # 2. Content of the first frame, and the clip of both.
    content = self._apply(generator, x[:, :1], "content")
    features = self._decode_features(generator, z, content)
    r = self._apply(generator, features, "output")
    # 3. Distance, a mean over pixels.
    nll, cotangent = jax.value_and_grad(self._distance(x, frozen, batch.index, streams))(
      jax.lax.stop_gradient(r)
    )
    # 4. KL of the posterior before normalisation, and beta.
    kl = autoencoder_loss.kl_per_clip(mean, log_variance)
    beta, extras = self._beta(kl, extras)
    divisor = autoencoder_loss.kl_divisor(loss.kl_reduction, mean, x)
    weighted = beta * kl / divisor
    metrics = {
      "nll": nll, "kl_nats": kl, "kl_per_element": kl / mean[0].size, "beta": beta,
      "active_channels": (mean.var((0, 1, 2, 3)) > _ACTIVE).sum(),
      "psnr": autoencoder_stage.psnr(x, r),
    }  # fmt: skip
    # 5. Running statistics, for whoever sees no batch.
    before = latent_norm.Moments(extras["latent_mean"], extras["latent_variance"])
    after = latent_norm.running(before, now, self._motion.momentum)
    extras = {**extras, "latent_mean": after.mean, "latent_variance": after.variance}
    # 6. The critic, and the losses of both.
    return self._output(
      params, extras, x, features, r, nll, cotangent, weighted, metrics, streams.step
    )

  def _decode_features(self, params: Tree, z: jax.Array, content: Tree) -> jax.Array:
    return self._network.apply({"params": params}, z, content, method="decode_features")

  def _distance(
    self,
    x: jax.Array,
    frozen: stage_lib.Frozen,
    index: jax.Array,
    streams: rng.Streams,
  ):
    """r -> L1 + LPIPS, means over pixels and frames; LPIPS of all frames or of some."""
    measure, count = self._perceptual(frozen), self._config.loss.perceptual_frames
    time, size = x.shape[1], x[0, 0].size
    if measure is not None and 0 < count < time:
      # Equally spaced from a start of each clip's own.
      start = streams.integers("perceptual", index, time)
      places = (start[:, None] + np.arange(count) * time // count) % time
      pick = lambda clips: jnp.take_along_axis(
        clips, places[:, :, None, None, None], axis=1
      )
      whole = measure
      measure = lambda a, b: whole(pick(a), pick(b)) * (time / count)
    nll = autoencoder_loss.negative_log_likelihood(x, self._config.loss, measure)
    return lambda r: nll(r) / size

  def _beta(self, kl: jax.Array, extras: Tree) -> tuple[jax.Array, Tree]:
    """Returns this step's beta, and the extras with the controller's new state."""
    loss = self._config.loss
    if loss.beta_mode == "fixed":
      return jnp.float32(loss.kl_weight), extras
    beta, integral = autoencoder_loss.controlled_beta(
      jax.lax.stop_gradient(kl), extras["kl_integral"], loss.kl_target
    )
    return beta, {**extras, "kl_integral": integral}

  def preview(
    self,
    params: dict[str, Tree],
    extras: Tree,
    frozen: stage_lib.Frozen,
    batch: types.VideoBatch,
    streams: rng.Streams,
  ) -> dict[str, jax.Array]:
    """Rebuilt clips, and each image moving as the next clip does."""
    system, video = self._system, batch.video
    weights = {self.name: {"params": params, "extras": extras}}
    z, prompt = system.motion(weights, video), types.Prompt(image=video[:, :1])
    rebuilt = system.decode(weights, z, prompt)
    difference = jnp.abs(rebuilt.astype(jnp.int32) - video.astype(jnp.int32))
    return {
      "input": video,
      "reconstruction": rebuilt,
      "difference": difference.astype(jnp.uint8),
      "motion_of_the_next": system.decode(weights, jnp.roll(z, -1, axis=0), prompt),
    }

  def finish(
    self,
    params: dict[str, Tree],
    extras: Tree,
    frozen: stage_lib.Frozen,
    batches: Iterator[types.VideoBatch],
  ) -> Tree:
    """Measures what makes latents of mean 0 and variance 1, with the weights to keep.

    Of normalisation "batch" these are its running statistics, measured anew: those of
    training followed weights that still moved, and not their average. Of the others
    they are shift and scale.
    """
    batchwise = self._motion.normalization == "batch"
    seen, sums = 0, (0.0, 0.0)
    kept = lambda x: np.asarray(x, np.float64)
    measure = jax.jit(self._raw_moments if batchwise else self._normalized_moments)
    for batch in batches:
      found, count = measure(params["generator"], batch), len(batch.video)
      sums = tuple(s + count * kept(m) for s, m in zip(sums, found))
      seen += count
      if seen >= self._config.train.latent_samples:
        break
    mean, square = (s / seen for s in sums)
    if batchwise:
      variance = np.maximum(square - mean**2, 1e-12)
      return {
        **extras, "latent_mean": np.float32(mean), "latent_variance": np.float32(variance)
      }  # fmt: skip
    mean, square = mean.mean(), square.mean()
    std = np.sqrt(max(square - mean**2, 1e-12))
    return {
      **extras, "latent_shift": np.float32(-mean), "latent_scale": np.float32(1 / std)
    }  # fmt: skip

  def encode_draw(self, generator: Tree, batch: types.VideoBatch) -> jax.Array:
    """A draw [B,1,h,w,c] from the posterior, the same at every call."""
    mean, log_variance = self._apply(generator, pixels.to_float(batch.video), "encode")
    streams = rng.Streams(rng.root(0), jnp.zeros((), jnp.int32))
    noise = streams.normal("finish", batch.index, mean.shape[1:])
    return mean + jnp.exp(0.5 * log_variance) * noise

  def _raw_moments(
    self, generator: Tree, batch: types.VideoBatch
  ) -> tuple[jax.Array, jax.Array]:
    """Mean and mean square of each channel, of draws from the posterior, exactly."""
    mean, log_variance = self._apply(generator, pixels.to_float(batch.video), "encode")
    square = jnp.square(mean) + jnp.exp(log_variance)
    return mean.mean((0, 1, 2, 3)), square.mean((0, 1, 2, 3))

  def _normalized_moments(
    self, generator: Tree, batch: types.VideoBatch
  ) -> tuple[jax.Array, jax.Array]:
    """Likewise of normalised draws, which one has to draw."""
    raw = self.encode_draw(generator, batch)
    z = self._system.normalize(raw, latent_norm.moments(raw))
    return z.mean((0, 1, 2, 3)), jnp.square(z).mean((0, 1, 2, 3))


class MotionDiffusionStage(DenoiserStage):
  """Trains the generator of motion, given the content of the first frame.

  The paper's loss is |eps - eps_theta|^2 (`diffusion.loss="l2"`). What brings content,
  class and caption into the network learns from the same loss. The autoencoder, its
  running statistics among it, is read and never changed.
  """

  name = "motion_diffusion"
  encoded_by = ("motion_autoencoder",)
  cached_as = "motion_diffusion"

  def __init__(self, system: LaMD):
    super().__init__(system.process, system.config)
    self._system = system
    self.frames = system.config.data.frames
    text = ("text_encoder",) if system.text.trained else ()
    self.groups = ("denoiser", "conditioner", *text)
    self.needs = (*self.encoded_by, *system.text.imported)
    self.averaged = self.groups if system.config.optim[self.name].ema_decay else ()

  def init(self, seed: int | None) -> tuple[dict[str, Tree], Tree]:
    system, motion = self._system, self._config.model.motion
    shape = lambda *sizes, dtype=jnp.float32: jax.ShapeDtypeStruct(sizes, dtype)
    _, height, width, _ = system.latent_shape
    sizes = motion.autoencoder
    f_x0 = shape(1, 1, height, width, sizes.content_channels * sizes.content_mult[-1])
    label = shape(1, dtype=jnp.int32) if motion.num_classes else None
    arguments = (f_x0, label, system.text.context_shape(1))
    conditioner = initializers.initialize(system.conditioner, seed, *arguments)
    told = jax.eval_shape(system.conditioner.apply, conditioner, *arguments)
    z = shape(1, *system.latent_shape)
    denoiser = initializers.initialize(system.unet, seed, z, shape(1), told)
    params = {"denoiser": denoiser["params"], "conditioner": conditioner["params"]}
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
    # 1. The clip's motion, a fresh draw from the posterior at each visit.
    posterior = self.encode(frozen, batch)
    noise = streams.normal("posterior", index, posterior.mean.shape[1:])
    raw = posterior.mean + jnp.exp(0.5 * posterior.log_variance) * noise
    z0 = system.to_latent(frozen["motion_autoencoder"]["extras"], raw)
    # 2. The content of its first frame.
    f_x0 = system.content(frozen, posterior.image)[-1]
    z0, f_x0 = jax.lax.stop_gradient((z0, f_x0))
    # 3. Caption and class, now and then dropped, so that guidance has what to subtract.
    u = streams.uniform("caption", index)
    tokens = system.text.drop(batch.tokens, u)
    label = system.null_label(index)
    if label is not None:
      dropout = self._config.model.text.dropout
      label = jnp.where(u < dropout, label, batch.label)
    weights = {**frozen, self.name: {"params": params}}
    conditions = system.conditions(weights, f_x0, tokens, label)
    null = lambda: system.null(weights, f_x0)
    return Shown(z0, index, conditions, null, extras)

  def network_of(self, params: dict[str, Tree], variant: str) -> Denoiser:
    return self._system.denoiser(params["denoiser"])

  def encode(
    self, frozen: stage_lib.Frozen, batch: stage_lib.Batch
  ) -> types.LatentBatch:
    """The posterior of z_m, and the first frame, of which content is made at each visit.

    Frames are a fraction of the size of content maps. A batch from the latent cache
    passes through as it is.
    """
    if isinstance(batch, types.LatentBatch):
      return batch
    params = frozen["motion_autoencoder"]["params"]["generator"]
    mean, log_variance = self._system.autoencoder.apply(
      {"params": params}, pixels.to_float(batch.video), method="encode"
    )
    return types.LatentBatch(
      mean, log_variance, batch.index, batch.label, batch.tokens, batch.video[:, :1]
    )

  def clips(
    self,
    params: dict[str, Tree],
    extras: Tree,
    frozen: stage_lib.Frozen,
    batch: types.VideoBatch,
    streams: rng.Streams,
    settings: SamplerSettings,
  ) -> dict[str, jax.Array]:
    """The clips, and their first frames as the model lets them move."""
    weights = {**frozen, self.name: {"params": params, "extras": extras}}
    prompt = types.Prompt(batch.tokens, batch.label, batch.video[:, :1])
    z = self._system.sample_latents(
      weights, streams, batch.index, prompt, settings, 0
    )
    return {"input": batch.video, "samples": self._system.decode(weights, z, prompt)}
