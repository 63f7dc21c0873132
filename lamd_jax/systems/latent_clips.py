# SPDX-License-Identifier: Apache-2.0
"""Between clips and latents: the autoencoder of systems that diffuse all of a clip."""

from __future__ import annotations

from typing import Any

from flax import linen as nn
import jax

from lamd_jax import rng
from lamd_jax import types
from lamd_jax.networks import image_autoencoder
from lamd_jax.networks import video_autoencoder
from lamd_jax.systems import pixels
from lamd_jax.training import stage as stage_lib

Tree = stage_lib.Tree


def first_stage(config: Any, dtype: Any) -> tuple[nn.Module, tuple[int, int, int], int]:
  """Returns the autoencoder, its factors (t,h,w) and its latent channels."""
  model, how = config.model, dict(remat=config.train.remat, dtype=dtype)
  if model.first_stage == "image":
    settings = model.image_autoencoder
    factor = 2 ** (len(settings.channel_mult) - 1)
    network = image_autoencoder.ImageAutoencoder(**dict(settings), **how)
    return network, (1, factor, factor), settings.latent_channels
  settings = model.autoencoder
  network = video_autoencoder.VideoAutoencoder(**dict(settings), **how)
  return network, tuple(settings.downsample), settings.latent_channels


class LatentClips:
  """The autoencoder of a config, its latents' shape, and what is done with both.

  Raw latents are what the autoencoder gives, diffusion latents what is diffused:
  `latent_scale * (raw + latent_shift)`, as measured after the autoencoder's training.
  """

  def __init__(self, config: Any, dtype: Any):
    """Args:
    config: the run's config.
    dtype: of the computation; parameters stay float32.
    """
    self.config = config
    self.autoencoder, self.downsample, channels = first_stage(config, dtype)
    factors, size = self.downsample, config.data.size
    self.latent_shape = (
      config.data.frames // factors[0],
      size // factors[1],
      size // factors[2],
      channels,
    )

  def encode(self, params: Tree, video: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns mean and log-variance [B,t,h,w,c] of clips [B,T,H,W,3] in [-1,1]."""
    return self.autoencoder.apply({"params": params}, video, method="encode")

  def to_latent(self, weights: stage_lib.Frozen, raw: jax.Array) -> jax.Array:
    """Raw latents to those that are diffused."""
    extras = weights["autoencoder"]["extras"]
    return extras["latent_scale"] * (raw + extras["latent_shift"])

  def reconstruct(self, weights: stage_lib.Frozen, video: jax.Array) -> jax.Array:
    """Encodes (posterior mean) and decodes clips [B,T,H,W,3] uint8."""
    params = weights["autoencoder"]["params"]["generator"]
    mean, _ = self.encode(params, pixels.to_float(video))
    decoded = self.autoencoder.apply({"params": params}, mean, method="decode")
    return pixels.to_uint8(decoded)

  def decode_float(self, weights: stage_lib.Frozen, z: jax.Array) -> jax.Array:
    """Decodes diffusion latents [B,t,h,w,c] to clips [B,T,H,W,3] float, about [-1,1]."""
    params = weights["autoencoder"]["params"]["generator"]
    extras = weights["autoencoder"]["extras"]
    raw = z / extras["latent_scale"] - extras["latent_shift"]
    return self.autoencoder.apply({"params": params}, raw, method="decode")

  def decode(
    self, weights: stage_lib.Frozen, z: jax.Array, prompt: types.Prompt
  ) -> jax.Array:
    """Decodes diffusion latents [B,t,h,w,c] to clips [B,T,H,W,3] uint8."""
    del prompt  # a latent holds all of its clip
    return pixels.to_uint8(self.decode_float(weights, z))

  def random_latents(self, streams: rng.Streams, index: jax.Array) -> jax.Array:
    """Standard normal latents: the baseline a trained denoiser must beat."""
    return streams.normal("random_latents", index, self.latent_shape)
