# SPDX-License-Identifier: Apache-2.0
"""The residual block of an image UNet that was given a sense of time."""

from __future__ import annotations

from typing import Any

from flax import linen as nn
import jax
from jax.ad_checkpoint import checkpoint_name
import jax.numpy as jnp

from lamd_jax.nn import resample
from lamd_jax.nn.frame_norm import FrameNorm
from lamd_jax.nn.layers import Conv, Dense
from lamd_jax.nn.temporal_convolution import TemporalConvolution
from lamd_jax.ops import axes

# Between the two convolutions; time may be cut, channels may.
_HIDDEN = ("batch", "frames", "whole", "whole", "channels")
_RESAMPLE = {"up": resample.nearest_up, "down": resample.average_down}


class Pseudo3DResBlock(nn.Module):
  """`nn.residual.ResBlock` frame by frame, a temporal convolution after each 2-D one.

  Unlike there the norms' statistics are of each frame, so that a frame of a clip is
  what the image model makes of it. The pointwise map of the skip has no temporal
  convolution behind it. Starts as its skip path.
  """

  features: int
  resample: str | None  # up | down: of height and width by two; None: keep
  temporal: bool  # with temporal convolutions
  scale_shift_norm: bool  # the embedding scales and shifts; else it is added
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array, emb: jax.Array, mode: str) -> jax.Array:
    """Applies the block.

    Args:
      x: [B,T,H,W,C].
      emb: [B,D], or [B,T,D] with a vector per frame.
      mode: "image" leaves the temporal convolutions out.

    Returns:
      [B,T,H',W',features].
    """
    h = nn.silu(FrameNorm(name="norm_0")(x))
    if self.resample is not None:
      h, x = _RESAMPLE[self.resample](h), _RESAMPLE[self.resample](x)
    h = axes.constrain(self._conv(h, 0, mode), *_HIDDEN)

    width = 2 * self.features if self.scale_shift_norm else self.features
    emb = Dense(width, dtype=self.dtype, name="embedding")(nn.silu(emb))
    emb = emb.reshape(emb.shape[0], -1, 1, 1, width)  # a T of 1 broadcasts
    norm = FrameNorm(name="norm_1")
    if self.scale_shift_norm:
      scale, shift = jnp.split(emb, 2, axis=-1)
      h = norm(h) * (1 + scale) + shift
    else:
      h = norm(h + emb)
    h = self._conv(nn.silu(h), 1, mode)

    if x.shape[-1] != self.features:
      x = Dense(self.features, dtype=self.dtype, name="skip")(x)
    return x + h

  def _conv(self, x: jax.Array, index: int, mode: str) -> jax.Array:
    zero_init = index == 1  # the block's last
    conv = Conv(
      self.features, zero_init=zero_init, dtype=self.dtype, name=f"conv_{index}"
    )
    h = checkpoint_name(conv(x), "conv")
    if self.temporal and mode == "video":
      h = TemporalConvolution(self.dtype, name=f"temporal_conv_{index}")(h)
    return h
