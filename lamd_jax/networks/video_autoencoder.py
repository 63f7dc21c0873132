# SPDX-License-Identifier: Apache-2.0
"""LVDM's 3-D autoencoder: compresses a clip in time and space (arXiv 2211.13221, 3.1).

16x256x256 pixels become 4x32x32 latents at the paper's factors (4, 8, 8). All
convolutions repeat the border, in time too, so that a clip of any length may be
encoded. Not to be confused with the per-frame `image_autoencoder`.
"""

from __future__ import annotations

from typing import Any

import chex
from flax import linen as nn
import jax
from jax.ad_checkpoint import checkpoint_name
import jax.numpy as jnp

from lamd_jax.errors import ConfigError
from lamd_jax.nn import remat
from lamd_jax.nn.layers import Dense, GroupNorm
from lamd_jax.nn.same_pad_conv import SamePadConv, SamePadConvTranspose
from lamd_jax.ops import axes

Triple = tuple[int, int, int]
LOG_VARIANCE_RANGE = (-30.0, 20.0)
_CLIP = ("batch", "frames", "whole", "whole", "whole")
_EPSILON = 1e-6  # of the norms, against 1e-5 in the UNet


def strides(downsample: Triple) -> list[Triple]:
  """Splits factors, powers of two, into strides of 1 and 2: early levels first.

  (4, 8, 8) gives (2,2,2), (2,2,2), (1,2,2). The decoder walks the same list from
  its start, as the release does, so frames are doubled in its first levels.
  """
  if any(f < 1 or f & (f - 1) for f in downsample) or max(downsample) < 2:
    raise ConfigError(
      f"model.autoencoder.downsample is {tuple(downsample)}; use powers of two, at"
      " least one above 1"
    )
  levels = max(downsample).bit_length() - 1
  return [tuple(1 + (2**i < f) for f in downsample) for i in range(levels)]


class SamePadResBlock(nn.Module):
  """x + conv(SiLU(norm(conv(SiLU(norm(x)))))); channels stay."""

  groups: int
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    h = x
    for i in range(2):
      h = nn.silu(GroupNorm(self.groups, _EPSILON, name=f"norm_{i}")(h))
      h = SamePadConv(x.shape[-1], dtype=self.dtype, name=f"conv_{i}")(h)
      h = checkpoint_name(h, "conv")
    return x + h


class VideoEncoder(nn.Module):
  """[B,T,H,W,3] -> [B,t,h,w,features], level i having channels * 2^(i+1)."""

  channels: int
  downsample: Triple
  features: int
  groups: int
  remat: str
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    call = remat.caller(self.remat)
    x = SamePadConv(self.channels, dtype=self.dtype, name="conv_in")(x)
    for i, stride in enumerate(strides(self.downsample)):
      width = self.channels * 2 ** (i + 1)
      down = SamePadConv(
        width, (4, 4, 4), stride, dtype=self.dtype, name=f"down_{i}"
      )
      x = call(SamePadResBlock(self.groups, self.dtype, name=f"res_{i}"), down(x))
    x = nn.silu(GroupNorm(self.groups, _EPSILON, name="norm_out")(x))
    return SamePadConv(self.features, dtype=self.dtype, name="conv_out")(x)


class VideoDecoder(nn.Module):
  """[B,t,h,w,latent] -> [B,T,H,W,2*channels], the features before the last layer."""

  channels: int
  downsample: Triple
  groups: int
  remat: str
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, z: jax.Array) -> jax.Array:
    call = remat.caller(self.remat)
    x, levels = z, strides(self.downsample)
    for i, stride in enumerate(levels):
      width = self.channels * 2 ** (len(levels) - i)
      x = SamePadConvTranspose(width, stride, dtype=self.dtype, name=f"up_{i}")(x)
      for j in range(2):
        x = call(SamePadResBlock(self.groups, self.dtype, name=f"res_{i}_{j}"), x)
    return x


class VideoAutoencoder(nn.Module):
  """Clips [B,T,H,W,3] in [-1,1] <-> a Gaussian over latents [B,t,h,w,latent].

  T, H, W must be multiples of `downsample`, and channels * 2 one of `groups`.
  """

  channels: int
  downsample: Triple  # t, h, w; powers of two
  latent_channels: int
  groups: int  # of the norms
  remat: str = "none"  # of blocks: none | full | names, see nn/remat.py
  dtype: Any = jnp.float32

  def setup(self):
    if 2 * self.channels % self.groups:
      raise ConfigError(
        f"model.autoencoder.channels is {self.channels} and groups {self.groups};"
        " 2 * channels must be a multiple of groups"
      )
    sizes = (self.channels, tuple(self.downsample))
    how = (self.groups, self.remat, self.dtype)
    moments = 2 * self.latent_channels
    self.encoder = VideoEncoder(*sizes, moments, *how)
    self.quant_conv = Dense(moments, dtype=self.dtype)
    self.post_quant_conv = Dense(self.latent_channels, dtype=self.dtype)
    self.decoder = VideoDecoder(*sizes, *how)
    self.conv_out = SamePadConv(3, dtype=self.dtype)

  def encode(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns the posterior of clips.

    Args:
      x: [B,T,H,W,3] float in [-1,1].

    Returns:
      mean and log-variance, [B,t,h,w,latent] float32, the latter in [-30,20].
    """
    chex.assert_rank(x, 5)
    if any(n % f for n, f in zip(x.shape[1:4], self.downsample)):
      raise ConfigError(
        f"a clip of {x.shape[1:4]} (frames, height, width) cannot be reduced by"
        f" {tuple(self.downsample)}; take multiples"
      )
    x = axes.constrain(x, *_CLIP)
    moments = self.quant_conv(self.encoder(x)).astype(jnp.float32)
    mean, log_variance = jnp.split(moments, 2, axis=-1)
    return mean, jnp.clip(log_variance, *LOG_VARIANCE_RANGE)

  def decode(self, z: jax.Array) -> jax.Array:
    """Returns clips [B,T,H,W,3] float32, not clipped, of latents [B,t,h,w,latent]."""
    return self.output(self.decode_features(z))

  def decode_features(self, z: jax.Array) -> jax.Array:
    """Returns what `output` makes a clip of, [B,T,H,W,2*channels]."""
    return self.decoder(self.post_quant_conv(axes.constrain(z, *_CLIP)))

  def output(self, features: jax.Array) -> jax.Array:
    """The last layer alone, where the adversarial weight is measured."""
    return self.conv_out(features).astype(jnp.float32)

  def __call__(self, x: jax.Array) -> jax.Array:
    return self.decode(self.encode(x)[0])
