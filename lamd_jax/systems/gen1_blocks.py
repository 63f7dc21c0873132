# SPDX-License-Identifier: Apache-2.0
"""Gen-1's UNet: which blocks the skeleton gets (arXiv 2302.03011).

Stable Diffusion 1's image UNet, parameter by parameter, with a temporal convolution
behind each 2-D one of its residual blocks and a temporal transformer behind each of its
transformers. The temporal layers start as nothing, so that training on video starts
from the image model exactly, and mode "image" leaves them out.
"""

from __future__ import annotations

from collections.abc import Mapping
import functools
from typing import Any

import jax.numpy as jnp

from lamd_jax.networks.unet import UNet
from lamd_jax.nn.frame_norm import FrameNorm
from lamd_jax.nn.pseudo_3d_residual import Pseudo3DResBlock
from lamd_jax.nn.pseudo_3d_transformer import Pseudo3DTransformer

# The published image UNet, whose weights can be taken over; its context is 768 wide.
STABLE_DIFFUSION_1 = dict(
  channels=320,
  channel_mult=(1, 2, 4, 4),
  res_blocks=2,
  attention_downsample=(1, 2, 4),
  heads=8,
  head_channels=0,
  scale_shift_norm=False,
  resblock_updown=False,
  temporal_layers=False,
  frame_positions=64,
  temporal_cross_attention=False,
)


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
    settings: has channels, channel_mult, res_blocks, attention_downsample, heads,
      head_channels, scale_shift_norm, resblock_updown, temporal_layers,
      frame_positions and temporal_cross_attention.
    out_channels: channels of a latent. Those that enter are read off the input.
    remat: none | full | names, see `UNet`.
    cudnn: see `ops.attention`.
    dtype: of the computation; parameters are float32.
  """
  temporal = settings["temporal_layers"]
  return UNet(
    out_channels=out_channels,
    channels=settings["channels"],
    channel_mult=tuple(settings["channel_mult"]),
    res_blocks=settings["res_blocks"],
    attention_downsample=tuple(settings["attention_downsample"]),
    res_block=functools.partial(
      Pseudo3DResBlock,
      temporal=temporal,
      scale_shift_norm=settings["scale_shift_norm"],
      dtype=dtype,
    ),
    attention_block=functools.partial(
      Pseudo3DTransformer,
      heads=settings["heads"],
      head_channels=settings["head_channels"],
      temporal=temporal,
      frame_positions=settings["frame_positions"],
      temporal_cross_attention=settings["temporal_cross_attention"],
      cudnn=cudnn,
      dtype=dtype,
    ),
    resblock_updown=settings["resblock_updown"],
    temporal_kernel=1,
    noise_level_classes=0,
    num_classes=0,
    remat=remat,
    out_norm=FrameNorm,
    dtype=dtype,
  )
