# SPDX-License-Identifier: Apache-2.0
"""The UNet skeleton: levels, skip connections, embeddings. Knows no paper.

What a system wants inside comes from outside as constructors, `res_block`,
`attention_block` and `out_norm`; see `systems/*_blocks.py` for who passes what.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import chex
from flax import linen as nn
import jax
import jax.numpy as jnp

from lamd_jax import types
from lamd_jax.nn import remat
from lamd_jax.nn.embeddings import ClassEmbedding, TimeEmbedding
from lamd_jax.nn.layers import Conv, GroupNorm
from lamd_jax.nn.resample import Downsample, Upsample
from lamd_jax.ops import axes

MODES = ("video", "image")
_DROPPABLE = ("concat", "mask", "noise_level", "label")


class UNet(nn.Module):
  """Denoising network over latent clips.

  Level l has channels * channel_mult[l] channels and works at 1/2^l of the input's
  height and width; the number of frames never changes. `res_block(features,
  resample, name=)` gives a module called as (x, emb, mode), `attention_block(name=)`
  one called as (x, context, mode). Initialise in mode "video": mode "image" bypasses
  the submodules named `temporal_*`, so would not create them.

  `remat` computes each block anew in the backward pass (nn/remat.py).
  """

  out_channels: int
  channels: int
  channel_mult: tuple[int, ...]
  res_blocks: int  # a level, on the way down; one more on the way up
  attention_downsample: tuple[int, ...]  # reductions at which attention stands
  res_block: Callable[..., nn.Module]
  attention_block: Callable[..., nn.Module]
  resblock_updown: bool  # residual blocks resample; else lone convolutions
  temporal_kernel: int  # frames that the skeleton's own convolutions see
  noise_level_classes: int  # 0: no such embedding
  num_classes: int  # 0: no such embedding
  remat: str  # none | full | names
  out_norm: Callable[..., nn.Module] = GroupNorm  # before the last convolution
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(
    self,
    z: jax.Array,
    t: jax.Array,
    conditions: types.Conditions,
    mode: str = "video",
  ) -> jax.Array:
    """Returns the raw output [B,T,h,w,out_channels] float32.

    Args:
      z: [B,T,h,w,C] float, noisy latents; h and w divisible by 2^(levels-1).
      t: [B] or [B,T] float, schedule position.
      conditions: `concat` and `mask` join z on channels in this order; embeddings of
        `noise_level` and `label` add to that of t; `context` goes to the attention
        blocks. A `keep` flag of 0 zeroes the field's channels or embedding; there
        is none for `context`, whose null tokens the caller puts in.
      mode: "video", or "image" to bypass temporal submodules.
    """
    self._check(z, t, conditions, mode)
    x = jnp.concatenate(_channels(z, conditions), axis=-1).astype(self.dtype)
    x = axes.constrain(x, "batch", "frames", "whole", "whole", "whole")
    emb = self._embed(t, conditions)
    res, attend = self._callers(emb, conditions.context, mode)
    kernel = (self.temporal_kernel, 3, 3)

    x = Conv(self.channels, kernel, dtype=self.dtype, name="in_conv")(x)
    x, skips = self._down(x, res, attend)
    x = res(x, x.shape[-1], "middle_res_0")
    x = attend(x, "middle_attention")
    x = res(x, x.shape[-1], "middle_res_1")
    x = self._up(x, skips, res, attend)

    x = nn.silu(self.out_norm(name="out_norm")(x))
    out = Conv(
      self.out_channels, kernel, zero_init=True, dtype=self.dtype, name="out_conv"
    )
    return out(x).astype(jnp.float32)

  def _down(self, x, res, attend):
    """Returns the bottom features and the skips [input, every block after it]."""
    skips = [x]
    for level, mult in enumerate(self.channel_mult):
      for _ in range(self.res_blocks):
        block = f"down_{len(skips)}"
        x = res(x, self.channels * mult, f"{block}_res")
        if 2**level in self.attention_downsample:
          x = attend(x, f"{block}_attention")
        skips.append(x)
      if level + 1 < len(self.channel_mult):
        name = f"down_{len(skips)}_resample"
        if self.resblock_updown:
          x = res(x, x.shape[-1], name, "down")
        else:
          x = Downsample(self.temporal_kernel, self.dtype, name=name)(x)
        skips.append(x)
    return x, skips

  def _up(self, x, skips, res, attend):
    block = 0
    for level, mult in reversed(list(enumerate(self.channel_mult))):
      for i in range(self.res_blocks + 1):
        x = jnp.concatenate([x, skips.pop()], axis=-1)
        x = res(x, self.channels * mult, f"up_{block}_res")
        if 2**level in self.attention_downsample:
          x = attend(x, f"up_{block}_attention")
        if level and i == self.res_blocks:
          name = f"up_{block}_resample"
          if self.resblock_updown:
            x = res(x, x.shape[-1], name, "up")
          else:
            x = Upsample(self.temporal_kernel, self.dtype, name=name)(x)
        block += 1
    return x

  def _embed(self, t: jax.Array, conditions: types.Conditions) -> jax.Array:
    """[B,4C] or, with a time per frame, [B,T,4C]."""
    emb = TimeEmbedding(self.channels, self.dtype, name="time_embedding")(t)
    for field, index, classes in (
      ("noise_level", conditions.noise_level, self.noise_level_classes),
      ("label", conditions.label, self.num_classes),
    ):
      if not classes:
        continue
      name = f"{field}_embedding"
      vector = ClassEmbedding(classes, emb.shape[-1], self.dtype, name=name)(index)
      if vector is not None:
        vector = _kept(vector, field, conditions)
        emb = emb + (vector if t.ndim == 1 else vector[:, None])
    return emb

  def _callers(self, emb: jax.Array, context: jax.Array | None, mode: str):
    """The two block constructors as functions of x, rematerialised as asked."""
    call = remat.wrap(lambda block, x, other: block(x, other, mode), self.remat)

    def res(x, features, name, resample=None):
      return call(self.res_block(features, resample, name=name), x, emb)

    def attend(x, name):
      return call(self.attention_block(name=name), x, context)

    return res, attend

  def _check(
    self, z: jax.Array, t: jax.Array, conditions: types.Conditions, mode: str
  ) -> None:
    chex.assert_rank(z, 5)
    chex.assert_shape(t, z.shape[: t.ndim] if t.ndim in (1, 2) else z.shape[:1])
    if mode not in MODES:
      raise ValueError(f"mode is {mode!r}; choose from {MODES}")
    factor = 2 ** (len(self.channel_mult) - 1)
    height, width = z.shape[2:4]
    if height % factor or width % factor:
      raise ValueError(
        f"latents of {height}x{width} do not halve {len(self.channel_mult) - 1} times;"
        f" choose a height and width divisible by {factor}"
      )
    for field, value, classes in (
      ("noise_level", conditions.noise_level, self.noise_level_classes),
      ("label", conditions.label, self.num_classes),
    ):
      if value is not None and not classes:
        raise ValueError(f"conditions.{field} is given, but this UNet embeds none")
    unknown = set(conditions.keep or ()) - set(_DROPPABLE)
    if unknown:
      raise ValueError(
        f"keep has flags {sorted(unknown)}; only {_DROPPABLE} can be dropped"
      )


def _kept(value: jax.Array, field: str, conditions: types.Conditions) -> jax.Array:
  """Zeroes the rows of `value` [B,...] whose keep flag is 0."""
  if conditions.keep is None or field not in conditions.keep:
    return value
  flags = conditions.keep[field].reshape(-1, *(1,) * (value.ndim - 1))
  return value * flags.astype(value.dtype)


def _channels(z: jax.Array, conditions: types.Conditions) -> list[jax.Array]:
  """z, concat and mask, those that are there, each with the shape of z but the last."""
  parts = [z]
  if conditions.concat is not None:
    parts.append(_kept(conditions.concat, "concat", conditions))
  if conditions.mask is not None:
    mask = _kept(conditions.mask, "mask", conditions)
    parts.append(jnp.broadcast_to(mask, (*z.shape[:-1], 1)))
  # One dtype, or concatenation would promote.
  return [p.astype(z.dtype) for p in parts]
