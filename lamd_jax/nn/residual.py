# SPDX-License-Identifier: Apache-2.0
"""The residual block of latent-diffusion UNets."""

from __future__ import annotations

from typing import Any

from flax import linen as nn
import jax
from jax.ad_checkpoint import checkpoint_name
import jax.numpy as jnp

from lamd_jax.nn import resample
from lamd_jax.nn.layers import Conv, Dense, GroupNorm
from lamd_jax.ops import axes

# Between the two convolutions; time may be cut, channels may.
_HIDDEN = ("batch", "frames", "whole", "whole", "channels")
_RESAMPLE = {"up": resample.nearest_up, "down": resample.average_down}


class ResBlock(nn.Module):
  """norm, SiLU, conv, embedding, norm, SiLU, conv, plus the input.

  Only with a temporal kernel above 1 do frames see each other, and through the
  norms' statistics, which are over the whole clip. The second convolution starts at
  zero, so the block starts as its skip path. Convolution outputs carry the name
  "conv", for rematerialisation by name.
  """

  features: int
  resample: str | None  # up | down: of height and width by two; None: keep
  temporal_kernel: int  # frames that a convolution sees
  scale_shift_norm: bool  # the embedding scales and shifts; else it is added
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array, emb: jax.Array, mode: str) -> jax.Array:
    """Applies the block.

    Args:
      x: [B,T,H,W,C].
      emb: [B,D], or [B,T,D] with a vector per frame.
      mode: unused here; there is no separate temporal part to bypass.

    Returns:
      [B,T,H',W',features].
    """
    kernel = (self.temporal_kernel, 3, 3)
    h = nn.silu(GroupNorm(name="norm_0")(x))
    if self.resample is not None:
      h, x = _RESAMPLE[self.resample](h), _RESAMPLE[self.resample](x)
    h = Conv(self.features, kernel, dtype=self.dtype, name="conv_0")(h)
    h = axes.constrain(checkpoint_name(h, "conv"), *_HIDDEN)

    width = 2 * self.features if self.scale_shift_norm else self.features
    emb = Dense(width, dtype=self.dtype, name="embedding")(nn.silu(emb))
    emb = emb.reshape(emb.shape[0], -1, 1, 1, width)  # a T of 1 broadcasts
    norm = GroupNorm(name="norm_1")
    if self.scale_shift_norm:
      scale, shift = jnp.split(emb, 2, axis=-1)
      h = norm(h) * (1 + scale) + shift
    else:
      h = norm(h + emb)
    h = Conv(
      self.features, kernel, zero_init=True, dtype=self.dtype, name="conv_1"
    )(nn.silu(h))
    h = checkpoint_name(h, "conv")

    if x.shape[-1] != self.features:
      # A pointwise convolution, as the matrix product that it is.
      x = Dense(self.features, dtype=self.dtype, name="skip")(x)
    return x + h
