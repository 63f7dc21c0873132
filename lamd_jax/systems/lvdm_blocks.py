# SPDX-License-Identifier: Apache-2.0
"""LVDM's UNet: which blocks the skeleton gets (arXiv 2211.13221)."""

from __future__ import annotations

from collections.abc import Mapping
import functools
from typing import Any

import jax.numpy as jnp

from lamd_jax.networks.unet import UNet
from lamd_jax.nn.residual import ResBlock
from lamd_jax.nn.spatial_temporal_attention import SpatialTemporalAttention
from lamd_jax.nn.spatial_temporal_transformer import SpatialTemporalTransformer


def unet(
  settings: Mapping[str, Any],
  out_channels: int,
  *,
  remat: str,
  cudnn: bool = False,
  dtype: Any = jnp.float32,
) -> UNet:
  """Builds the UNet that `config.model.denoiser` describes.

  Args:
    settings: has every key of `config.model.denoiser`; the width of the context is
      read off the context.
    out_channels: channels of a latent. Those that enter are read off the input.
    remat: none | full | names, see `UNet`.
    cudnn: see `ops.attention`.
    dtype: of the computation; parameters are float32.
  """
  temporal_kernel = settings["temporal_kernel"]
  how = dict(
    heads=settings["heads"],
    temporal_length=settings["temporal_length"],
    relative_position=settings["relative_position"],
    cudnn=cudnn,
    dtype=dtype,
  )
  if settings["transformer"]:
    attention_block = functools.partial(
      SpatialTemporalTransformer,
      temporal_zero_init=settings["temporal_zero_init"],
      **how,
    )
  else:
    attention_block = functools.partial(
      SpatialTemporalAttention,
      rel_pos_key_transposed=settings["rel_pos_key_transposed"],
      **how,
    )
  return UNet(
    out_channels=out_channels,
    channels=settings["channels"],
    channel_mult=tuple(settings["channel_mult"]),
    res_blocks=settings["res_blocks"],
    attention_downsample=tuple(settings["attention_downsample"]),
    res_block=functools.partial(
      ResBlock,
      temporal_kernel=temporal_kernel,
      scale_shift_norm=settings["scale_shift_norm"],
      dtype=dtype,
    ),
    attention_block=attention_block,
    resblock_updown=settings["resblock_updown"],
    temporal_kernel=temporal_kernel,
    noise_level_classes=settings["noise_level_classes"],
    num_classes=0,
    remat=remat,
    dtype=dtype,
  )
