# SPDX-License-Identifier: Apache-2.0
"""Trains the small content encoder on frames and their captions."""

from __future__ import annotations

from typing import Any

import chex
import jax
import jax.numpy as jnp

from lamd_jax import rng
from lamd_jax import types
from lamd_jax.systems import content as content_lib
from lamd_jax.training import stage as stage_lib

Tree = stage_lib.Tree


class ContentStage(stage_lib.SingleVariant):
  """CLIP's loss (Radford et al., arXiv 2103.00020, figure 3) on one frame a clip.

  With accumulation the pairs that are told apart are those of a micro-batch.
  """

  name = content_lib.STAGE
  groups = (content_lib.GROUP,)
  needs = ()
  trains_on_latents = False
  encoded_by = ()
  cached_as = ""

  def __init__(self, content: content_lib.Content, config: Any):
    self._content = content
    self.frames = config.model.content.frames or config.data.frames
    self.averaged = self.groups if config.optim[self.name].ema_decay else ()

  def init(self, seed: int | None) -> tuple[dict[str, Tree], Tree]:
    return {content_lib.GROUP: self._content.init(seed)}, {}

  def forward(
    self,
    params: dict[str, Tree],
    extras: Tree,
    frozen: stage_lib.Frozen,
    batch: types.VideoBatch,
    streams: rng.Streams,
    variant: str,
  ) -> stage_lib.StageOutput:
    # 1. One random frame of each clip, and its caption.
    frames = random_frames(batch, streams)
    images, texts, scale = self._content.pairs(
      params[content_lib.GROUP], frames, batch.tokens
    )
    # 2. All cosines, and which of them are right.
    logits = scale * jnp.matmul(images, texts.T, precision="highest")
    right = same_caption(batch.tokens)
    # 3. Each frame finds its caption and each caption its frame.
    loss = 0.5 * (cross_entropy(logits, right) + cross_entropy(logits.T, right)).mean()
    metrics = {
      "loss": loss,
      "image_to_text": accuracy(logits, right),
      "text_to_image": accuracy(logits.T, right),
      "logit_scale": scale,
    }
    return stage_lib.StageOutput({content_lib.GROUP: loss}, extras, metrics)

  def preview(
    self,
    params: dict[str, Tree],
    extras: Tree,
    frozen: stage_lib.Frozen,
    batch: types.VideoBatch,
    streams: rng.Streams,
  ) -> dict[str, jax.Array]:
    """Beside each clip the one whose middle frame its caption finds."""
    weights = {**frozen, self.name: {"params": params, "extras": extras}}
    images = self._content.images(weights, batch.video[:, batch.video.shape[1] // 2])
    texts, _ = self._content.texts(weights, batch.tokens)
    found = batch.video[content_lib.nearest(texts, images)]
    return {"input": batch.video, "found": found}


def random_frames(batch: types.VideoBatch, streams: rng.Streams) -> jax.Array:
  """One frame of each clip, [B,H,W,3] uint8, another one at each visit."""
  chosen = streams.integers("frame", batch.index, batch.video.shape[1])
  return jnp.take_along_axis(batch.video, chosen[:, None, None, None, None], 1)[:, 0]


def same_caption(tokens: jax.Array) -> jax.Array:
  """Whether rows i and j of tokens [B,L] say the same, [B,B] bool."""
  return (tokens[:, None] == tokens[None]).all(-1)


def cross_entropy(logits: jax.Array, right: jax.Array) -> jax.Array:
  """Cross-entropy of each row with equal shares for all that is right, [B] float32.

  Clips with equal captions are no mistakes for each other; InfoNCE with one right
  answer a row would push them apart.
  """
  chex.assert_equal_shape([logits, right])
  log_p = jax.nn.log_softmax(logits.astype(jnp.float32), axis=1)
  share = right / right.sum(1, keepdims=True)
  return -(share * log_p).sum(1)


def accuracy(logits: jax.Array, right: jax.Array) -> jax.Array:
  """Share of rows whose largest logit is right, [] float32."""
  found = jnp.take_along_axis(right, jnp.argmax(logits, 1)[:, None], 1)
  return found.mean(dtype=jnp.float32)
