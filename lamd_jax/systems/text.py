# SPDX-License-Identifier: Apache-2.0
"""The text side of a system: which encoder makes a caption's tokens a context.

  none   no text
  small  a transformer trained with the denoiser; needs no download
  clip   CLIP's text tower, frozen, weights from the user (LVDM's text-to-video model)
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lamd_jax.networks import clip_text
from lamd_jax.networks import text_encoder
from lamd_jax.nn import initializers
from lamd_jax.training import stage as stage_lib

CLIP = "clip_text"  # the imported weights' name in `frozen`
CLIP_VOCABULARY = 49_408
# Start, end and padding of each encoder's tokenizer, of which the empty caption is made.
_IDS = {"small": (1, 2, 0), "clip": (49_406, 49_407, 49_407)}


class Text:
  """The encoder of a config, and the empty caption that stands for no text."""

  def __init__(self, config: Any, dtype: Any, stage: str):
    """Args:
    config: the run's config.
    dtype: of the computation.
    stage: the stage that trains the encoder, if one does.
    """
    self._stage = stage
    settings, data = config.model.text, config.data
    kind = settings.encoder
    self.trained = kind == "small"
    self.imported = (CLIP,) if kind == "clip" else ()
    self._dropout = settings.dropout
    self._length, self._width = data.tokens, settings.width
    sizes = dict(
      width=settings.width, layers=settings.layers, heads=settings.heads,
      length=data.tokens, dtype=dtype,
    )  # fmt: skip
    self.network = None
    if self.trained:
      self.network = text_encoder.TextEncoder(
        data.vocabulary_size, pad=_IDS["small"][2], **sizes
      )
    if kind == "clip":
      self.network = clip_text.ClipText(CLIP_VOCABULARY, **sizes)
    self.empty = None  # [N] int32, the empty caption
    if self.network is not None:
      start, end, pad = _IDS[kind]
      self.empty = np.array([start, end, *[pad] * (data.tokens - 2)], np.int32)

  def init(self, seed: int | None) -> stage_lib.Tree:
    """Parameters of an encoder that is trained."""
    tokens = jax.ShapeDtypeStruct((1, self._length), jnp.int32)
    return initializers.initialize(self.network, seed, tokens)["params"]

  def context_shape(self, batch: int) -> jax.ShapeDtypeStruct | None:
    if self.network is None:
      return None
    shape = (batch, self._length, self._width)
    return jax.ShapeDtypeStruct(shape, jnp.float32)

  def drop(self, tokens: jax.Array | None, u: jax.Array) -> jax.Array | None:
    """Replaces captions [B,N] by the empty one where u [B] in [0,1) is low."""
    if self.network is None:
      return None
    return jnp.where((u < self._dropout)[:, None], self.empty, tokens)

  def encode(
    self, weights: stage_lib.Frozen, tokens: jax.Array | None
  ) -> jax.Array | None:
    """Returns the context [B,N,D] of tokens [B,N]; None without an encoder."""
    if self.network is None:
      return None
    if self.trained:
      params = weights[self._stage]["params"]["text_encoder"]
    else:
      params = weights[CLIP]["params"]
    return self.network.apply({"params": params}, tokens)
