# SPDX-License-Identifier: Apache-2.0
"""The stage that trains an autoencoder of clips, with or without a critic."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from lamd_jax import rng
from lamd_jax import types
from lamd_jax.networks import discriminators
from lamd_jax.networks import perceptual
from lamd_jax.nn import initializers
from lamd_jax.systems import autoencoder_loss
from lamd_jax.systems import pixels
from lamd_jax.training import stage as stage_lib

Tree = stage_lib.Tree


class AutoencoderStage(stage_lib.SingleVariant):
  """Trains `network` to rebuild clips through a Gaussian bottleneck.

  The generator's loss is reconstruction + LPIPS + KL + an adversarial term with an
  adaptive weight; the critic's is that of `loss.gan` (`autoencoder_loss`).

  `extras` holds the critic's batch statistics and, measured by `finish`, the shift
  and scale that give the latents mean 0 and variance 1:
  z = latent_scale * (z_raw + latent_shift).
  """

  name = "autoencoder"
  trains_on_latents = False
  encoded_by = ()
  cached_as = ""

  def __init__(self, network: nn.Module, config: Any):
    """Args:
    network: has `encode`, `decode`, `decode_features` and `output`. What judges clips
      computes in its dtype as well.
    config: the run's config. With `loss.perceptual_weight` the stage needs the frozen
      weights "perceptual", unless `model.perceptual.weights` is "none".
    """
    self._network, self._dtype = network, network.dtype
    self._config = config
    self.frames = config.model.autoencoder_frames or config.data.frames
    perceptual_term = config.loss.perceptual_weight > 0
    self.needs = ()
    if perceptual_term and config.model.perceptual.weights != "none":
      self.needs = ("perceptual",)
    critic = config.model.discriminator
    networks = {
      "frame": discriminators.FrameDiscriminator,
      "video": discriminators.VideoDiscriminator,
    }
    self._critic = None
    self.groups = ("generator",)
    if config.loss.gan_weight:
      self._critic = networks[critic.kind](
        critic.channels, critic.layers, critic.norm, self._dtype
      )
      self.groups = ("generator", "discriminator")
    self.averaged = ("generator",) if config.optim[self.name].ema_decay else ()

  def init(self, seed: int | None) -> tuple[dict[str, Tree], Tree]:
    data = self._config.data
    video = jax.ShapeDtypeStruct(
      (1, self.frames, data.size, data.size, 3), jnp.float32
    )
    params = {
      "generator": initializers.initialize(self._network, seed, video)["params"]
    }
    extras = {
      "latent_shift": np.zeros((), np.float32),
      "latent_scale": np.ones((), np.float32),
    }
    if self._critic is not None:
      # Another seed: the critic must not share numbers with the generator.
      seed = None if seed is None else seed + 1
      variables = initializers.initialize(self._critic, seed, video, train=True)
      params["discriminator"] = variables["params"]
      extras["batch_stats"] = variables.get("batch_stats", {})
    return params, extras

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
    # 1. Encode; a draw from the posterior.
    mean, log_variance = self._apply(generator, x, "encode")
    noise = streams.normal("posterior", batch.index, mean.shape[1:])
    z = mean + jnp.exp(0.5 * log_variance) * noise
    # 2. Decode, keeping what the last layer sees: the adaptive weight is measured there.
    features = self._apply(generator, z, "decode_features")
    r = self._apply(generator, features, "output")
    # 3. Distance and KL.
    nll, cotangent = jax.value_and_grad(
      autoencoder_loss.negative_log_likelihood(x, loss, self._perceptual(frozen))
    )(jax.lax.stop_gradient(r))
    kl = autoencoder_loss.kl_per_clip(mean, log_variance)
    metrics = {"nll": nll, "kl_nats": kl, "psnr": psnr(x, r)}
    # 4. The critic, and the losses of both.
    return self._output(
      params, extras, x, features, r, nll, cotangent, loss.kl_weight * kl, metrics,
      streams.step,
    )  # fmt: skip

  def _output(
    self, params: dict[str, Tree], extras: Tree, x: jax.Array, features: Tree,
    r: jax.Array, nll: jax.Array, cotangent: jax.Array, regulariser: jax.Array,
    metrics: dict[str, jax.Array], step: jax.Array,
  ) -> stage_lib.StageOutput:  # fmt: skip
    """Adds the adversarial term, if there is a critic, and joins the losses.

    `features` are what the last layer made r of, `cotangent` is the gradient of `nll`
    at r, and `regulariser` is the weighted KL.
    """
    value, losses = nll + regulariser, {}
    if self._critic is not None:
      added = self._adversarial(params, extras, x, r, step)
      weight = self._adaptive_weight(
        params["generator"], features, cotangent, added.g_gradient
      )
      cotangent += weight * added.g_gradient
      value += weight * added.g
      losses["discriminator"] = added.critic_loss
      extras = {**extras, "batch_stats": added.statistics}
      metrics |= {"g": added.g, "critic": added.critic_loss, "gan_weight": weight}
    # The value is the true loss, the gradient that of the surrogate.
    gradient = autoencoder_loss.surrogate(r, cotangent) + regulariser
    losses["generator"] = gradient + jax.lax.stop_gradient(value - gradient)
    return stage_lib.StageOutput(losses, extras, metrics)

  def _apply(self, params: Tree, x: jax.Array, method: str) -> Any:
    return self._network.apply({"params": params}, x, method=method)

  def _perceptual(self, frozen: stage_lib.Frozen) -> autoencoder_loss.Perceptual | None:
    if not self.needs:
      return None

    def distance(a: jax.Array, b: jax.Array) -> jax.Array:
      frames = lambda clip: clip.reshape(-1, *clip.shape[2:])
      weights = frozen["perceptual"]["params"]
      per_frame = perceptual.distance(weights, frames(a), frames(b), self._dtype)
      return per_frame.reshape(a.shape[:2])

    return distance

  def _adversarial(
    self, params: Tree, extras: Tree, x: jax.Array, r: jax.Array, step: jax.Array
  ) -> autoencoder_loss.Adversarial:
    def critic(weights: Tree, statistics: Tree, clips: jax.Array):
      variables = {"params": weights, "batch_stats": statistics}
      logits, updated = self._critic.apply(
        variables, clips, train=True, mutable=["batch_stats"]
      )
      return logits, updated.get("batch_stats", {})

    return jax.lax.cond(
      step >= self._config.loss.gan_start,
      lambda weights, statistics: autoencoder_loss.adversarial(
        critic, weights, statistics, x, r, self._config.loss.gan
      ),
      lambda weights, statistics: autoencoder_loss.silent(statistics, r),
      params["discriminator"],
      extras["batch_stats"],
    )

  def _adaptive_weight(
    self, params: Tree, features: jax.Array, nll: jax.Array, g: jax.Array
  ) -> jax.Array:
    """The weight of the adversarial term, from gradients at the last kernel."""
    features = jax.lax.stop_gradient(features)
    last = jax.lax.stop_gradient(params["conv_out"])
    _, pull = jax.vjp(lambda p: self._apply({"conv_out": p}, features, "output"), last)
    # The kernel alone, as the papers have it; the bias is the only other leaf.
    kernel = lambda tree: next(x for x in jax.tree.leaves(tree) if x.ndim > 1)
    return autoencoder_loss.adaptive_weight(
      kernel(pull(nll)[0]), kernel(pull(g)[0]), self._config.loss.gan_weight
    )

  def preview(
    self,
    params: dict[str, Tree],
    extras: Tree,
    frozen: stage_lib.Frozen,
    batch: types.VideoBatch,
    streams: rng.Streams,
  ) -> dict[str, jax.Array]:
    x = pixels.to_float(batch.video)
    mean, _ = self._apply(params["generator"], x, "encode")
    rebuilt = pixels.to_uint8(self._apply(params["generator"], mean, "decode"))
    difference = jnp.abs(rebuilt.astype(jnp.int32) - batch.video.astype(jnp.int32))
    return {
      "input": batch.video,
      "reconstruction": rebuilt,
      "difference": difference.astype(jnp.uint8),
    }

  def finish(
    self,
    params: dict[str, Tree],
    extras: Tree,
    frozen: stage_lib.Frozen,
    batches: Iterator[types.VideoBatch],
  ) -> Tree:
    """Measures shift and scale: z = scale * (z_raw + shift) has mean 0, variance 1."""

    @jax.jit
    def moments(generator: Tree, video: jax.Array) -> tuple[jax.Array, jax.Array]:
      mean, log_variance = self._apply(generator, pixels.to_float(video), "encode")
      # Of a draw from the posterior: its noise is part of what the denoiser meets.
      return mean.mean(), (jnp.square(mean) + jnp.exp(log_variance)).mean()

    seen, first, second = 0, 0.0, 0.0
    for batch in batches:
      m1, m2 = moments(params["generator"], batch.video)
      count = len(batch.video)
      seen += count
      first += count * float(m1)
      second += count * float(m2)
      if seen >= self._config.train.latent_samples:
        break
    mean = first / seen
    std = np.sqrt(max(second / seen - mean**2, 1e-12))
    return {
      **extras,
      "latent_shift": np.float32(-mean),
      "latent_scale": np.float32(1 / std),
    }


def psnr(x: jax.Array, r: jax.Array) -> jax.Array:
  """dB, of the whole batch; pixels in [-1,1], r clipped to it."""
  return -10 * jnp.log10(jnp.square(x - jnp.clip(r, -1, 1)).mean() / 4)
