# SPDX-License-Identifier: Apache-2.0
"""Content embeddings: one space for pictures and captions, behind one interface.

  small  two small towers, trained by a stage of their own (`content_stage`)
  clip   CLIP's two towers, frozen, weights from the user

Both give unit rows, whose dot products are cosines.
"""

from __future__ import annotations

from typing import Any

import chex
import jax
import jax.numpy as jnp

from lamd_jax.networks import clip_image
from lamd_jax.networks import clip_text
from lamd_jax.networks import contrastive
from lamd_jax.nn import initializers
from lamd_jax.systems import pixels
from lamd_jax.training import stage as stage_lib

STAGE = "content"  # the stage that trains the small towers
GROUP = "encoder"  # its parameter group
IMAGE, TEXT = "clip_image", "clip_text"  # the imported weights' names in `frozen`
# (image tower, text tower) by model.content.network.
CLIP = {
  "l14": (clip_image.VIT_L_14, clip_text.VIT_L_14.clone(projection=768)),
  "b32": (
    clip_image.VIT_B_32,
    clip_text.ClipText(49_408, 512, 12, 8, 77, projection=512),
  ),
}


class Content:
  """The towers of a config. It holds no weights; `weights` is a stage's `frozen`."""

  def __init__(self, config: Any, dtype: Any):
    settings, data = config.model.content, config.data
    self.trained = settings.encoder == "small"
    self.imported = () if self.trained else (IMAGE, TEXT)
    self.needs = (STAGE,) if self.trained else self.imported
    self.needs_for_images = self.needs[:1]  # what `images` reads
    if self.trained:
      self.width, self.sequence_width = settings.width, settings.text_width
      self.network = contrastive.Contrastive(
        settings.width, settings.image_channels, settings.text_width,
        settings.text_layers, settings.text_heads, data.vocabulary_size, data.tokens,
        pad=0, dtype=dtype,
      )  # fmt: skip
    else:
      image, text = CLIP[settings.network]
      self.image_network = image.clone(dtype=dtype)
      self.text_network = text.clone(dtype=dtype)
      self.width, self.sequence_width = image.projection, text.width
    self._size, self._length = data.size, data.tokens

  def init(self, seed: int | None) -> stage_lib.Tree:
    """Parameters of towers that are trained."""
    picture = jax.ShapeDtypeStruct((1, self._size, self._size, 3), jnp.float32)
    tokens = jax.ShapeDtypeStruct((1, self._length), jnp.int32)
    return initializers.initialize(self.network, seed, picture, tokens)["params"]

  def pairs(
    self, params: stage_lib.Tree, frames: jax.Array, tokens: jax.Array
  ) -> tuple[jax.Array, jax.Array, jax.Array]:
    """What the loss of towers that are trained compares; see `Contrastive`.

    Args:
      params: of `init`.
      frames: [N,H,W,3] uint8.
      tokens: [N,L] int32.
    """
    return self.network.apply({"params": params}, pixels.to_float(frames), tokens)

  def images(self, weights: stage_lib.Frozen, frames: jax.Array) -> jax.Array:
    """Frames [N,H,W,3] uint8 -> unit rows [N,width] float32.

    CLIP takes frames of any size. The small tower knows objects at the size that they
    have in frames of `data.size`, and takes those.
    """
    chex.assert_rank(frames, 4)
    if self.trained:
      params = weights[STAGE]["params"][GROUP]
      return self.network.apply(
        {"params": params}, pixels.to_float(frames), method="images"
      )
    pictures = for_clip(frames, self.image_network.size)
    params = weights[IMAGE]["params"]
    return contrastive.unit(self.image_network.apply({"params": params}, pictures))

  def texts(
    self, weights: stage_lib.Frozen, tokens: jax.Array
  ) -> tuple[jax.Array, jax.Array]:
    """Tokens [N,L] -> (unit rows [N,width], states of the tokens [N,L,sequence_width]).

    Both float32; the states are those after the last norm.
    """
    if self.trained:
      params = weights[STAGE]["params"][GROUP]
      return self.network.apply({"params": params}, tokens, method="texts")
    variables = {"params": weights[TEXT]["params"]}
    states = self.text_network.apply(variables, tokens)
    pooled = self.text_network.apply(variables, tokens, states, method="pooled")
    return contrastive.unit(pooled), states


def for_clip(frames: jax.Array, size: int) -> jax.Array:
  """Frames [N,H,W,3] uint8 -> [N,size,size,3] float32, normalised for CLIP.

  The short side to `size`, then the middle square. The resize is Pillow's bicubic as
  the originals use it: first along rows, then along columns, each pass rounded to whole
  levels. `evaluation.clip_frames.prepare` is the same on the host.
  """
  height, width = frames.shape[1:3]
  short = min(height, width)
  long = int(size * max(height, width) / short)
  new_height, new_width = (size, long) if height == short else (long, size)
  top, left = (int(round((n - size) / 2)) for n in (new_height, new_width))

  def resize(x: jax.Array, rows: int, columns: int) -> jax.Array:
    x = jax.image.resize(x, (len(x), rows, columns, 3), "cubic", precision="highest")
    return jnp.clip(jnp.round(x), 0, 255)

  x = resize(frames.astype(jnp.float32), height, new_width)
  x = resize(x, new_height, new_width)[:, top : top + size, left : left + size]
  return (x / 255 - clip_image.MEAN) / clip_image.STD


def nearest(queries: jax.Array, images: jax.Array) -> jax.Array:
  """For each query [N,D] the row of `images` [M,D] that is most like it, [N] int32."""
  return jnp.argmax(jnp.matmul(queries, images.T, precision="highest"), axis=1)
