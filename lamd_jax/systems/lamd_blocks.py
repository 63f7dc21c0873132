# SPDX-License-Identifier: Apache-2.0
"""LaMD's motion generator: which blocks the skeleton gets (arXiv 2304.11603).

A motion map is a clip with T=1, so nothing here is temporal: with residual blocks that
add the embedding and SD-1's transformer the skeleton is latent diffusion's image UNet.
The paper says a 2-D UNet with cross-attention and, elsewhere, 340M parameters. 224
channels, multipliers 1, 2, 3, 4 and attention at the first three levels have 339.8M at a
context of 768; that these are the paper's is our inference.
"""

from __future__ import annotations

from collections.abc import Mapping
import functools
from typing import Any

from flax import linen as nn
import jax
import jax.numpy as jnp

from lamd_jax import types
from lamd_jax.networks.unet import UNet
from lamd_jax.nn.embeddings import ClassEmbedding
from lamd_jax.nn.layers import Dense
from lamd_jax.nn.residual import ResBlock
from lamd_jax.nn.spatial_transformer import SpatialTransformer


def unet(
  settings: Mapping[str, Any],
  out_channels: int,
  *,
  num_classes: int,
  remat: str,
  cudnn: bool = False,
  dtype: Any = jnp.float32,
) -> UNet:
  """Builds the UNet that `config.model.denoiser` describes.

  Args:
    settings: has channels, channel_mult, res_blocks, attention_downsample, heads,
      head_channels, scale_shift_norm and resblock_updown.
    out_channels: channels of a motion map. Those that enter are read off the input.
    num_classes: rows of the class embedding, the null class among them; 0: none.
    remat: none | full | names, see `UNet`.
    cudnn: see `ops.attention`.
    dtype: of the computation; parameters are float32.
  """
  return UNet(
    out_channels=out_channels,
    channels=settings["channels"],
    channel_mult=tuple(settings["channel_mult"]),
    res_blocks=settings["res_blocks"],
    attention_downsample=tuple(settings["attention_downsample"]),
    res_block=functools.partial(
      ResBlock,
      temporal_kernel=1,
      scale_shift_norm=settings["scale_shift_norm"],
      dtype=dtype,
    ),
    attention_block=functools.partial(
      SpatialTransformer,
      heads=settings["heads"],
      head_channels=settings["head_channels"],
      cudnn=cudnn,
      dtype=dtype,
    ),
    resblock_updown=settings["resblock_updown"],
    temporal_kernel=1,
    noise_level_classes=0,
    num_classes=num_classes,
    remat=remat,
    dtype=dtype,
  )


class Conditioner(nn.Module):
  """Content and class as the UNet takes them; text has an encoder of its own.

  The paper lets content enter by cross-attention; it lies on the motion map's grid, so
  that joining it on channels is as natural. Which one is an open question of the paper.
  """

  concat_channels: int  # of the content that is joined to z; 0: not joined
  context_width: int  # D of the tokens
  attends_content: bool  # content is attended to
  content_pool: int  # side of the squares averaged to one token
  num_classes: int  # rows of the class table; 0: no classes
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(
    self, content: jax.Array, label: jax.Array | None, text: jax.Array | None
  ) -> types.Conditions:
    """Returns the conditions of a batch.

    Args:
      content: [B,1,h,w,D'] float, f_x0.
      label: [B] int32, the last row of the table being the null class.
      text: [B,N,context_width] float, encoded captions.
    """
    dense = lambda width, name: Dense(width, dtype=self.dtype, name=name)
    concat, tokens = None, []
    if self.concat_channels:
      concat = dense(self.concat_channels, "joined")(content)
    if self.attends_content:
      b, _, h, w, c = content.shape
      side = self.content_pool
      pooled = content.reshape(b, h // side, side, w // side, side, c).mean((2, 4))
      tokens.append(dense(self.context_width, "attended")(pooled.reshape(b, -1, c)))
    if self.num_classes:
      table = ClassEmbedding(
        self.num_classes, self.context_width, self.dtype, name="class_token"
      )
      tokens.append(table(label)[:, None])
    if text is not None:
      tokens.append(text)
    context = None
    if tokens:
      context = jnp.concatenate([x.astype(jnp.float32) for x in tokens], axis=1)
    return types.Conditions(
      context=context, concat=concat, label=label if self.num_classes else None
    )
