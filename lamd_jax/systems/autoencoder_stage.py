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


class AutoencoderStage:
  """Trains `network` to rebuild clips through a Gaussian bottleneck.

  The generator's loss is reconstruction + LPIPS + KL + an adversarial term with an
  adaptive weight; the critic's is the hinge loss (`autoencoder_loss`).

  `extras` holds the critic's batch statistics and, measured by `finish`, the shift
  and scale that give the latents mean 0 and variance 1:
  z = latent_scale * (z_raw + latent_shift).
  """

  name = "autoencoder"
  needs = ()
  variants = ("video",)

  def __init__(self, network: nn.Module, config: Any, perceptual_params: Tree | None):
    """Args:
    network: has `encode`, `decode`, `decode_features` and `output`.
    config: the run's config.
    perceptual_params: LPIPS weights; None trains without the term.
    """
    self._network = network
    self._config = config
    self._perceptual = perceptual_params
    critic = config.model.discriminator
    networks = {
      "frame": discriminators.FrameDiscriminator,
      "video": discriminators.VideoDiscriminator,
    }
    self._critic = None
    self.groups = ("generator",)
    if config.loss.gan_weight:
      self._critic = networks[critic.kind](critic.channels, critic.layers, critic.norm)
      self.groups = ("generator", "discriminator")
    self.averaged = ("generator",) if config.optim.autoencoder.ema_decay else ()

  def variant_at(self, step: int) -> str:
    return "video"

  def init(self, seed: int | None) -> tuple[dict[str, Tree], Tree]:
    data = self._config.data
    video = jax.ShapeDtypeStruct(
      (1, data.frames, data.size, data.size, 3), jnp.float32
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
      variables = initializers.initialize(self._critic, seed + 1, video, train=True)
      params["discriminator"] = variables["params"]
      extras["batch_stats"] = variables.get("batch_stats", {})
    return params, extras
