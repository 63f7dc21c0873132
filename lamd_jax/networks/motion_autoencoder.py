# SPDX-License-Identifier: Apache-2.0
"""LaMD's autoencoder, which takes motion and content apart (arXiv 2304.11603).

Content is what a 2-D encoder sees in the first frame: maps at several scales. Motion is
one small map z_m without a time axis, which a 3-D encoder makes of the whole clip. A 3-D
decoder makes the clip of both. 16x64x64 pixels become a motion map of 16x16x3.

The paper names the parts and few sizes; what it leaves open is our choice. All
convolutions pad with zeros, in time too: with repeated frames the decoder, which starts
from one frame, could never tell frames apart (`nn/video_residual.py`). Not to be confused
with `video_autoencoder`, whose latents keep time and hold appearance as well.
"""

from __future__ import annotations

from typing import Any

import chex
from flax import linen as nn
import jax
import jax.numpy as jnp

from lamd_jax.errors import ConfigError
from lamd_jax.nn import remat
from lamd_jax.nn.image_residual import ImageAttention, ImageResBlock
from lamd_jax.nn.layers import Conv, Dense, GroupNorm
from lamd_jax.nn.resample import nearest_up
from lamd_jax.nn.video_residual import EPSILON, DoubleTime, VideoResBlock
from lamd_jax.ops import axes

LOG_VARIANCE_RANGE = (-30.0, 20.0)
Content = tuple[jax.Array, ...]


def halvings(frames: int, scales: int) -> list[tuple[int, int]]:
  """Returns the strides (time, space) from a clip to its motion map.

  Space is halved in the first stages, scales - 1 times; time in all of them until one
  frame is left. A length that is no power of two counts as the next one.
  """
  time = (frames - 1).bit_length()
  return [
    (1 + (i < time), 1 + (i < scales - 1)) for i in range(max(time, scales - 1))
  ]


def to_patches(x: jax.Array, side: int) -> jax.Array:
  """Squares of pixels to channels: [B,T,H,W,C] -> [B,T,H/side,W/side,side*side*C]."""
  b, t, h, w, c = x.shape
  x = x.reshape(b, t, h // side, side, w // side, side, c).transpose(0, 1, 2, 4, 3, 5, 6)
  return x.reshape(b, t, h // side, w // side, side * side * c)


def from_patches(x: jax.Array, side: int) -> jax.Array:
  """The inverse of `to_patches`."""
  b, t, h, w, c = x.shape
  x = x.reshape(b, t, h, w, side, side, -1).transpose(0, 1, 2, 4, 3, 5, 6)
  return x.reshape(b, t, h * side, w * side, c // side**2)


class ContentEncoder(nn.Module):
  """A frame [B,1,H,W,3] -> maps [B,1,H/2^i,W/2^i,channels * channel_mult[i]].

  The last one, f_x0, has the motion map's height and width; it is normalised, since the
  motion generator reads it as well.
  """

  channels: int
  channel_mult: tuple[int, ...]
  res_blocks: int
  attention: bool  # at the coarsest scale
  groups: int
  remat: str
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array) -> Content:
    maps, call = [], remat.caller(self.remat)
    x = Conv(self.channels, dtype=self.dtype, name="conv_in")(x)
    for scale, mult in enumerate(self.channel_mult):
      width = self.channels * mult
      if scale:
        down = Conv(width, stride=(1, 2, 2), dtype=self.dtype, name=f"down_{scale}")
        x = down(x)
      for i in range(self.res_blocks):
        name = f"res_{scale}_{i}"
        x = call(ImageResBlock(width, self.groups, self.dtype, name=name), x)
      maps.append(x)
    if self.attention:
      x = call(ImageAttention(self.groups, self.dtype, name="attention"), x)
    maps[-1] = GroupNorm(self.groups, EPSILON, name="norm_out")(x)
    return tuple(maps)


class MotionEncoder(nn.Module):
  """Clips [B,T,H,W,3] -> [B,1,h,w,features], h = H/2^(scales-1).

  `widths` are those of the scales, finest first; stages that halve time alone have the
  last one's.
  """

  widths: tuple[int, ...]
  features: int
  groups: int
  remat: str
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    call = remat.caller(self.remat)
    strides = halvings(x.shape[1], len(self.widths))
    missing = 2 ** (x.shape[1] - 1).bit_length() - x.shape[1]
    if missing:
      x = jnp.concatenate([x, jnp.repeat(x[:, -1:], missing, axis=1)], axis=1)
    x = Conv(self.widths[0], (3, 3, 3), dtype=self.dtype, name="conv_in")(x)
    for i, (time, space) in enumerate(strides):
      width = self.widths[min(i + 1, len(self.widths) - 1)]
      # Kernel 4 at stride 2 sees every input equally often.
      kernel = tuple(2 + s if s > 1 else 3 for s in (time, space, space))
      around = ((1, 1),) * 3
      down = Conv(
        width, kernel, (time, space, space), around, dtype=self.dtype, name=f"down_{i}"
      )
      block = VideoResBlock(width, self.groups, dtype=self.dtype, name=f"res_{i}")
      x = call(block, down(x))
    x = nn.silu(GroupNorm(self.groups, EPSILON, name="norm_out")(x))
    return Conv(self.features, dtype=self.dtype, name="conv_out")(x)


class Fusion(nn.Module):
  """Brings content f [B,1,h,w,D] into x [B,T,h,w,C] -> [B,T,h,w,C].

  concat: a pointwise map of both, joined on channels. It is computed as the sum of a map
  of each, so that content is not repeated over time. spade: content scales and shifts
  the normalised x (Park et al., arXiv 1903.07291).
  """

  kind: str  # concat | spade
  groups: int
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array, f: jax.Array) -> jax.Array:
    width = x.shape[-1]
    if self.kind == "concat":
      ours = Dense(width, dtype=self.dtype, name="of_clip")(x)
      return ours + Dense(width, use_bias=False, dtype=self.dtype, name="of_content")(f)
    hidden = nn.silu(Conv(width, dtype=self.dtype, name="hidden")(f))
    both = Conv(2 * width, zero_init=True, dtype=self.dtype, name="modulation")(hidden)
    scale, shift = jnp.split(both, 2, axis=-1)
    return GroupNorm(self.groups, EPSILON, name="norm")(x) * (1 + scale) + shift


class MotionDecoder(nn.Module):
  """(z [B,1,h,w,d], content) -> [B,T,H,W,widths[0]], ready for the last convolution.

  Mirrors the encoder: time grows alone first, then with space. Content enters at the
  motion map's scale before anything else, at each finer scale when it is reached.
  """

  frames: int  # T
  widths: tuple[int, ...]  # of the scales, finest first
  blocks: int  # a stage
  attention: bool  # once, where time is not yet there
  fusion: str
  groups: int
  remat: str
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, z: jax.Array, content: Content) -> jax.Array:
    fuse = lambda name: Fusion(self.fusion, self.groups, self.dtype, name=name)
    scale = len(self.widths) - 1
    x = Conv(self.widths[scale], dtype=self.dtype, name="conv_in")(z)
    x = fuse(f"fusion_{scale}")(x, content[scale])
    x = self._blocks(x, "bottom")
    if self.attention:
      # What moves far must take its looks along, further than convolutions see.
      attention = ImageAttention(self.groups, self.dtype, name="attention")
      x = remat.caller(self.remat)(attention, x)
    strides = halvings(self.frames, len(self.widths))
    for i, (time, space) in enumerate(reversed(strides)):
      if space == 2:
        scale -= 1
        x = Dense(self.widths[scale], dtype=self.dtype, name=f"narrow_{i}")(x)
      if time == 2:
        x = DoubleTime(self.dtype, name=f"double_{i}")(x)
      if space == 2:
        x = fuse(f"fusion_{scale}")(nearest_up(x), content[scale])
      x = self._blocks(x, f"up_{i}")
    x = x[:, : self.frames]
    return nn.silu(GroupNorm(self.groups, EPSILON, name="norm_out")(x))

  def _blocks(self, x: jax.Array, name: str) -> jax.Array:
    """Called inside the compact method; the blocks become children of this module."""
    call = remat.caller(self.remat)
    for i in range(self.blocks):
      block = VideoResBlock(
        x.shape[-1], self.groups, dtype=self.dtype, name=f"{name}_res_{i}"
      )
      x = call(block, x)
    return x


class MotionAutoencoder(nn.Module):
  """Clips [B,T,H,W,3] in [-1,1] <-> (content, a Gaussian over z_m [B,1,h,w,latent]).

  The normalisation between bottleneck and decoder is no part of it: running statistics
  belong to whoever trains (`nn/latent_norm.py`).
  """

  frames: int  # T
  latent_channels: int
  patch: int  # side of the squares of pixels that are one position of the finest scale
  content_channels: int
  content_mult: tuple[int, ...]  # one a scale, finest first
  content_blocks: int  # a scale
  content_attention: bool
  content_groups: int  # of the content encoder's norms
  encoder_widths: tuple[int, ...]
  decoder_widths: tuple[int, ...]
  decoder_blocks: int
  decoder_attention: bool
  fusion: str  # concat | spade
  groups: int  # of the 3-D networks' norms
  remat: str = "none"  # of blocks: none | full | names, see nn/remat.py
  dtype: Any = jnp.float32

  def setup(self):
    self.content_encoder = ContentEncoder(
      self.content_channels, tuple(self.content_mult), self.content_blocks,
      self.content_attention, self.content_groups, self.remat, self.dtype,
    )  # fmt: skip
    self.motion_encoder = MotionEncoder(
      tuple(self.encoder_widths), 2 * self.latent_channels, self.groups, self.remat,
      self.dtype,
    )
    self.decoder = MotionDecoder(
      self.frames, tuple(self.decoder_widths), self.decoder_blocks,
      self.decoder_attention, self.fusion, self.groups, self.remat, self.dtype,
    )  # fmt: skip
    self.conv_out = Conv(3 * self.patch**2, (3, 3, 3), dtype=self.dtype)

  def content(self, image: jax.Array) -> Content:
    """Returns the content maps of first frames [B,1,H,W,3], finest first."""
    chex.assert_rank(image, 5)
    return self.content_encoder(to_patches(image, self.patch))

  def encode(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns the posterior of the motion of clips.

    Args:
      x: [B,T,H,W,3] float in [-1,1], T = `frames`.

    Returns:
      mean and log-variance, [B,1,h,w,latent] float32, the latter in [-30,20].
    """
    chex.assert_rank(x, 5)
    factor = self.patch * 2 ** (len(self.encoder_widths) - 1)
    if x.shape[1] != self.frames or x.shape[2] % factor or x.shape[3] % factor:
      raise ConfigError(
        f"a clip of {x.shape[1:4]} (frames, height, width) does not fit a motion"
        f" autoencoder of {self.frames} frames that reduces space by {factor}"
      )
    x = axes.constrain(x, "batch", "frames", "whole", "whole", "whole")
    found = self.motion_encoder(to_patches(x, self.patch)).astype(jnp.float32)
    mean, log_variance = jnp.split(found, 2, axis=-1)
    return mean, jnp.clip(log_variance, *LOG_VARIANCE_RANGE)

  def decode(self, z: jax.Array, content: Content) -> jax.Array:
    """Returns clips [B,T,H,W,3] float32, not clipped, of normalised z [B,1,h,w,c]."""
    return self.output(self.decode_features(z, content))

  def decode_features(self, z: jax.Array, content: Content) -> jax.Array:
    """Returns what `output` makes a clip of, [B,T,H/patch,W/patch,decoder_widths[0]]."""
    return self.decoder(z, content)

  def output(self, features: jax.Array) -> jax.Array:
    """The last layer alone, where the adversarial weight is measured."""
    return from_patches(self.conv_out(features).astype(jnp.float32), self.patch)

  def __call__(self, x: jax.Array) -> jax.Array:
    return self.decode(self.encode(x)[0], self.content(x[:, :1]))
