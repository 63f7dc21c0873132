# SPDX-License-Identifier: Apache-2.0
"""Critics that judge patches: of single frames, and of clips (PatchGAN).

Isola et al. (arXiv 1611.07004), as in LVDM's and latent diffusion's releases: kernel 4,
padding 1, LeakyReLU 0.2, strides 2 in all but the last two layers. Weights start from
N(0, 0.02), norm scales from N(1, 0.02).
"""

from __future__ import annotations

from typing import Any

from flax import linen as nn
import jax
import jax.numpy as jnp

from lamd_jax.errors import ConfigError
from lamd_jax.nn import initializers
from lamd_jax.nn.layers import GroupNorm
from lamd_jax.ops import axes
from lamd_jax.ops import conv as conv_ops

_GROUPS = 32


class BatchNorm(nn.Module):
  """Batch normalisation over all axes but the last, with PyTorch's statistics.

  Momentum 0.1; the running variance is the unbiased one. Running values live in the
  collection "batch_stats", which a stage keeps in its extras.
  """

  epsilon: float = 1e-5
  momentum: float = 0.1

  @nn.compact
  def __call__(self, x: jax.Array, train: bool) -> jax.Array:
    width = (x.shape[-1],)
    scale = self.param("scale", initializers.normal(0.02, mean=1.0), width)
    bias = self.param("bias", initializers.zeros, width)
    described = lambda init: init(jax.random.key(0), width)
    mean = self.variable("batch_stats", "mean", described, initializers.zeros)
    variance = self.variable("batch_stats", "var", described, initializers.ones)
    x = x.astype(jnp.float32)
    if train:
      axes = tuple(range(x.ndim - 1))
      count = x.size // x.shape[-1]
      m, v = x.mean(axes), x.var(axes)
      if not self.is_initializing():
        keep = 1 - self.momentum
        # Statistics are no path for gradients; they are stored, not used.
        m0, v0 = jax.lax.stop_gradient((m, v))
        mean.value = keep * mean.value + self.momentum * m0
        unbiased = v0 * (count / max(count - 1, 1))
        variance.value = keep * variance.value + self.momentum * unbiased
    else:
      m, v = mean.value, variance.value
    return (x - m) * jax.lax.rsqrt(v + self.epsilon) * scale + bias


class _PatchCritic(nn.Module):
  """Layers of widths c, 2c, 4c, ..., at most 8c, then one logit a patch."""

  channels: int
  layers: int  # those with stride 2
  norm: str  # batch | group
  temporal_kernel: int
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array, train: bool) -> jax.Array:
    widths = [self.channels * min(2**i, 8) for i in range(self.layers + 1)]
    for i, width in enumerate(widths):
      stride = 2 if i < self.layers else 1
      x = self._conv(x, width, stride, f"conv_{i}", use_bias=i == 0)
      if i and self.norm == "batch":
        x = BatchNorm(name=f"norm_{i}")(x, train)
      elif i:
        x = GroupNorm(min(_GROUPS, width), name=f"norm_{i}")(x)
      x = nn.leaky_relu(x, 0.2)
    return self._conv(x, 1, 1, "conv_out", use_bias=True).astype(jnp.float32)

  def _conv(
    self, x: jax.Array, features: int, stride: int, name: str, use_bias: bool
  ) -> jax.Array:
    if min(x.shape[2:4]) < 2:
      raise ConfigError(
        f"the critic has no pixels left: {x.shape[2]}x{x.shape[3]} before {name}; use"
        f" larger frames or fewer model.discriminator.layers than {self.layers}"
      )
    temporal = self.temporal_kernel > 1
    # Short clips: time is halved only while there is enough of it.
    time_stride = stride if temporal and x.shape[1] >= 4 else 1
    kernel = (self.temporal_kernel, 4, 4)
    time_padding = (1, 1) if time_stride == 2 else ((1, 2) if temporal else (0, 0))
    return _Conv(
      features, kernel, (time_stride, stride, stride),
      (time_padding, (1, 1), (1, 1)), use_bias, self.dtype, name=name,
    )(x)  # fmt: skip


class _Conv(nn.Module):
  features: int
  kernel: tuple[int, int, int]
  stride: tuple[int, int, int]
  padding: tuple[tuple[int, int], ...]
  use_bias: bool
  dtype: Any

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    shape = (*self.kernel, x.shape[-1], self.features)
    kernel = self.param("kernel", initializers.normal(0.02), shape)
    kernel = axes.gathered(kernel.astype(self.dtype), self.name)
    y = conv_ops.conv(x.astype(self.dtype), kernel, self.stride, self.padding)
    if self.use_bias:
      # PyTorch's default: the published initialisation leaves biases alone.
      fan_in = shape[0] * shape[1] * shape[2] * shape[3]
      init = initializers.fan_in_uniform(fan_in)
      y = y + self.param("bias", init, (self.features,)).astype(self.dtype)
    return y


class FrameDiscriminator(nn.Module):
  """Judges each frame of a clip by itself (LVDM's critic).

  `__call__(x [B,T,H,W,3] in [-1,1], train) -> logits [B,T,h,w,1] float32`. Batch
  statistics are over frames of all clips.
  """

  channels: int
  layers: int
  norm: str
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array, train: bool) -> jax.Array:
    # Frames are folded into rows: group statistics must not mix frames either.
    frames = x.reshape(-1, 1, *x.shape[2:])
    logits = _PatchCritic(
      self.channels, self.layers, self.norm, 1, self.dtype, name="patches"
    )(frames, train)
    return logits.reshape(*x.shape[:2], *logits.shape[2:])


class VideoDiscriminator(nn.Module):
  """Judges patches that extend in time: kernel 4 in time as in space.

  `__call__(x [B,T,H,W,3] in [-1,1], train) -> logits [B,t,h,w,1] float32`.
  """

  channels: int
  layers: int
  norm: str
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array, train: bool) -> jax.Array:
    return _PatchCritic(
      self.channels, self.layers, self.norm, 4, self.dtype, name="patches"
    )(x, train)
