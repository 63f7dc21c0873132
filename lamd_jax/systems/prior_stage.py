# SPDX-License-Identifier: Apache-2.0
"""Trains the prior from captions to image embeddings, on frozen content embeddings."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lamd_jax import rng
from lamd_jax import types
from lamd_jax.networks import contrastive
from lamd_jax.systems import content as content_lib
from lamd_jax.systems import prior as prior_lib
from lamd_jax.training import stage as stage_lib

Tree = stage_lib.Tree


class PriorStage(stage_lib.SingleVariant):
  """Squared error of the tier's answer, a mean over the embedding's entries.

  `extras` holds the running means of image and text embeddings, [D] float32 and scaled,
  over `batches` micro-batches: all that the mean shift learns. Its group has no
  parameters, and `optim.prior.steps` is how many batches it looks at.
  """

  name = prior_lib.STAGE
  groups = (prior_lib.GROUP,)
  trains_on_latents = True

  def __init__(self, prior: prior_lib.Prior, config: Any, like: stage_lib.Stage):
    """Args:
    prior: the tier, with the content encoder.
    config: the run's config.
    like: a stage whose `encode` gives each frame's embedding, and whose latent cache
      serves this one too.
    """
    self._prior = prior
    self.encode, self.cached_as = like.encode, like.cached_as
    self.encoded_by = like.encoded_by
    self.needs = tuple(dict.fromkeys((*like.encoded_by, *prior.needs)))
    self.frames = config.data.frames
    learns = config.model.prior.kind != "mean_shift"
    average = learns and config.optim[self.name].ema_decay
    self.averaged = self.groups if average else ()

  def init(self, seed: int | None) -> tuple[dict[str, Tree], Tree]:
    mean = lambda: np.zeros(self._prior.content.width, np.float32)
    extras = {
      "image_mean": mean(), "text_mean": mean(), "batches": np.zeros((), np.int32)
    }  # fmt: skip
    return {prior_lib.GROUP: self._prior.tier.init(seed)}, extras

  def forward(
    self,
    params: dict[str, Tree],
    extras: Tree,
    frozen: stage_lib.Frozen,
    batch: stage_lib.Batch,
    streams: rng.Streams,
    variant: str,
  ) -> stage_lib.StageOutput:
    # 1. The embeddings of a random frame, as the video model is shown, and the caption.
    known = self.encode(frozen, batch).embedding
    frame = streams.integers("frame", batch.index, known.shape[1])
    chosen = jnp.take_along_axis(known, frame[:, None, None], axis=1)[:, 0]
    image = self._prior.scaled(chosen)
    text = self._prior.text(frozen, batch.tokens)
    # 2. Their running means, this batch included.
    count = extras["batches"] + 1
    step = lambda mean, x: mean + (x.mean(0) - mean) / count
    extras = {
      "image_mean": step(extras["image_mean"], image),
      "text_mean": step(extras["text_mean"], text.pooled),
      "batches": count,
    }
    # 3. What the tier says, and how far off it is.
    own = {"params": params, "extras": extras}
    answer = self._prior.tier.predict(own, text, image, streams, batch.index)
    loss = jnp.square(answer - image).mean()
    cosine = (contrastive.unit(answer) * contrastive.unit(image)).sum(-1).mean()
    metrics = {"loss": loss, "cosine": cosine}
    return stage_lib.StageOutput({prior_lib.GROUP: loss}, extras, metrics)

  def preview(
    self,
    params: dict[str, Tree],
    extras: Tree,
    frozen: stage_lib.Frozen,
    batch: types.VideoBatch,
    streams: rng.Streams,
  ) -> dict[str, jax.Array]:
    """Beside each clip the one whose middle frame the prior's answer is most like."""
    weights = {**frozen, self.name: {"params": params, "extras": extras}}
    answer = self._prior.sample_embedding(weights, streams, batch.index, batch.tokens)
    middle = batch.video[:, batch.video.shape[1] // 2]
    images = self._prior.content.images(weights, middle)
    return {
      "input": batch.video,
      "found": batch.video[content_lib.nearest(answer, images)],
    }
