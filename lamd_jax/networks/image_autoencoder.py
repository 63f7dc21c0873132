# SPDX-License-Identifier: Apache-2.0
"""The KL autoencoder of latent diffusion, frame by frame (arXiv 2112.10752).

At 128 channels, multipliers 1, 2, 4, 4 and two blocks a level it is that of Stable
Diffusion 1: 256x256 pixels become 32x32 latents. Time is not compressed; not to be
confused with the 3-D `video_autoencoder`.
"""

from __future__ import annotations

from typing import Any

import chex
from flax import linen as nn
import jax
import jax.numpy as jnp

from lamd_jax.errors import ConfigError
from lamd_jax.nn import remat
from lamd_jax.nn.image_residual import EPSILON, ImageAttention, ImageResBlock
from lamd_jax.nn.layers import Conv, Dense, GroupNorm
from lamd_jax.nn.resample import nearest_up
from lamd_jax.ops import axes

LOG_VARIANCE_RANGE = (-30.0, 20.0)


class ImageEncoder(nn.Module):
  """[N,1,H,W,3] -> [N,1,h,w,features]."""

  channels: int
  channel_mult: tuple[int, ...]
  res_blocks: int
  features: int
  groups: int
  remat: str
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    call = remat.caller(self.remat)
    x = Conv(self.channels, dtype=self.dtype, name="conv_in")(x)
    for level, mult in enumerate(self.channel_mult):
      for i in range(self.res_blocks):
        width, name = self.channels * mult, f"res_{level}_{i}"
        x = call(ImageResBlock(width, self.groups, self.dtype, name=name), x)
      if level + 1 < len(self.channel_mult):
        # Padded below and to the right only, as the released weights want it.
        down = Conv(
          x.shape[-1],
          (1, 3, 3),
          (1, 2, 2),
          ((0, 0), (0, 1), (0, 1)),
          dtype=self.dtype,
          name=f"resample_{level}",
        )
        x = down(x)
    x = _middle(x, self.groups, self.dtype, call)
    x = nn.silu(GroupNorm(self.groups, EPSILON, name="norm_out")(x))
    return Conv(self.features, dtype=self.dtype, name="conv_out")(x)


class ImageDecoder(nn.Module):
  """[N,1,h,w,latent] -> [N,1,H,W,channels], ready for the last convolution."""

  channels: int
  channel_mult: tuple[int, ...]
  res_blocks: int
  groups: int
  remat: str
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, z: jax.Array) -> jax.Array:
    call = remat.caller(self.remat)
    width = self.channels * self.channel_mult[-1]
    x = Conv(width, dtype=self.dtype, name="conv_in")(z)
    x = _middle(x, self.groups, self.dtype, call)
    for level, mult in reversed(list(enumerate(self.channel_mult))):
      for i in range(self.res_blocks + 1):
        width, name = self.channels * mult, f"res_{level}_{i}"
        x = call(ImageResBlock(width, self.groups, self.dtype, name=name), x)
      if level:
        up = Conv(x.shape[-1], dtype=self.dtype, name=f"resample_{level}")
        x = up(nearest_up(x))
    return nn.silu(GroupNorm(self.groups, EPSILON, name="norm_out")(x))


def _middle(x: jax.Array, groups: int, dtype: Any, call: Any) -> jax.Array:
  """Called inside a compact method; the blocks become children of its module."""
  x = call(ImageResBlock(x.shape[-1], groups, dtype, name="middle_res_0"), x)
  x = call(ImageAttention(groups, dtype, name="middle_attention"), x)
  return call(ImageResBlock(x.shape[-1], groups, dtype, name="middle_res_1"), x)


class ImageAutoencoder(nn.Module):
  """Clips [B,T,H,W,3] in [-1,1] <-> a Gaussian over latents [B,T,h,w,latent]."""

  channels: int
  channel_mult: tuple[int, ...]
  res_blocks: int  # a level in the encoder, one more in the decoder
  latent_channels: int
  groups: int  # of the norms
  remat: str = "none"  # of blocks: none | full | names, see nn/remat.py
  dtype: Any = jnp.float32

  def setup(self):
    if any(self.channels * mult % self.groups for mult in self.channel_mult):
      raise ConfigError(
        f"model.image_autoencoder.channels is {self.channels} and groups {self.groups};"
        f" channels * {tuple(self.channel_mult)} must be multiples of groups"
      )
    sizes = (self.channels, tuple(self.channel_mult), self.res_blocks)
    how = (self.groups, self.remat, self.dtype)
    moments = 2 * self.latent_channels
    self.encoder = ImageEncoder(*sizes, moments, *how)
    self.quant_conv = Dense(moments, dtype=self.dtype)
    self.post_quant_conv = Dense(self.latent_channels, dtype=self.dtype)
    self.decoder = ImageDecoder(*sizes, *how)
    self.conv_out = Conv(3, dtype=self.dtype)

  def encode(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns the posterior of clips.

    Args:
      x: [B,T,H,W,3] float in [-1,1]; H and W multiples of 2^(levels-1).

    Returns:
      mean and log-variance, [B,T,h,w,latent] float32, the latter in [-30,20].
    """
    chex.assert_rank(x, 5)
    factor = 2 ** (len(self.channel_mult) - 1)
    if any(n % factor for n in x.shape[2:4]):
      raise ConfigError(
        f"frames of {x.shape[2:4]} (height, width) cannot be reduced by {factor};"
        " take multiples"
      )
    moments = self.quant_conv(self.encoder(_apart(x))).astype(jnp.float32)
    moments = _together(moments, x)
    mean, log_variance = jnp.split(moments, 2, axis=-1)
    return mean, jnp.clip(log_variance, *LOG_VARIANCE_RANGE)

  def decode(self, z: jax.Array) -> jax.Array:
    """Returns clips [B,T,H,W,3] float32, not clipped, of latents [B,T,h,w,latent]."""
    return self.output(self.decode_features(z))

  def decode_features(self, z: jax.Array) -> jax.Array:
    """Returns what `output` makes a clip of, [B,T,H,W,channels]."""
    h = self.decoder(self.post_quant_conv(_apart(z)))
    return _together(h, z)

  def output(self, features: jax.Array) -> jax.Array:
    """The last layer alone, where the adversarial weight is measured."""
    return self.conv_out(features).astype(jnp.float32)

  def __call__(self, x: jax.Array) -> jax.Array:
    return self.decode(self.encode(x)[0])


def _apart(x: jax.Array) -> jax.Array:
  """[B,T,...] -> [B*T,1,...]: every frame a clip of its own."""
  return axes.fold(x)[:, None]


def _together(y: jax.Array, like: jax.Array) -> jax.Array:
  """[B*T,1,...] -> [B,T,...], with the B and T of `like`."""
  return axes.unfold(y[:, 0], *like.shape[:2])
