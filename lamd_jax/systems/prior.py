# SPDX-License-Identifier: Apache-2.0
"""From a caption to the embedding of a picture that it may belong to, in three tiers.

  mean_shift  the caption's own embedding, moved by the difference of the two means;
              nothing is learned but these
  regressor   a small network, by least squares: the mean of what fits
  diffusion   a denoiser of embeddings: a draw from what fits

A text embedding itself will not do: the two towers' outputs lie in regions of their own
(Liang et al., arXiv 2203.02053), and the video model has seen images' alone. Inside,
embeddings are scaled by sqrt(D), so that their mean square is 1; outside they are unit
rows.
"""

from __future__ import annotations

from collections.abc import Mapping
import math
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp

from lamd_jax import rng
from lamd_jax import types
from lamd_jax.diffusion import guidance
from lamd_jax.diffusion import process as process_lib
from lamd_jax.diffusion import schedule as schedule_lib
from lamd_jax.networks import contrastive
from lamd_jax.networks import prior as networks
from lamd_jax.nn import initializers
from lamd_jax.systems import content as content_lib
from lamd_jax.systems import sampling
from lamd_jax.training import stage as stage_lib

Tree = stage_lib.Tree
Own = Mapping[str, Tree]
STAGE = "prior"
GROUP = "prior"


class Text(NamedTuple):
  """A batch of captions, as the content encoder sees them."""

  pooled: jax.Array  # [B,D] float32, scaled
  sequence: jax.Array  # [B,L,W] float32


class Tier(Protocol):
  """One way to go from text to image.

  `own` is what the stage keeps, {"params": {group: tree}, "extras": means}.
  """

  def init(self, seed: int | None) -> Tree: ...

  def predict(
    self, own: Own, text: Text, image: jax.Array, streams: rng.Streams, index: jax.Array
  ) -> jax.Array:
    """Returns [B,D], whose squared distance to `image` [B,D] is the loss."""

  def sample(
    self, own: Own, text: Text, streams: rng.Streams, index: jax.Array
  ) -> jax.Array:
    """Returns image embeddings [B,D], scaled."""


class MeanShift:
  """text + mean(image) - mean(text), the means being the stage's."""

  def __init__(self, config: Any, content: content_lib.Content, dtype: Any):
    del config, content, dtype

  def init(self, seed: int | None) -> Tree:
    return {}

  def predict(self, own, text, image, streams, index):
    return self.sample(own, text, streams, index)

  def sample(self, own, text, streams, index):
    # Its group is empty, and a checkpoint does not bring back an empty tree.
    return text.pooled + own["extras"]["image_mean"] - own["extras"]["text_mean"]


class Regressor:
  """A network of two hidden layers on the caption's embedding."""

  def __init__(self, config: Any, content: content_lib.Content, dtype: Any):
    self._network = networks.Regressor(config.model.prior.width, dtype)
    self._text = jax.ShapeDtypeStruct((1, content.width), jnp.float32)

  def init(self, seed: int | None) -> Tree:
    return initializers.initialize(self._network, seed, self._text)["params"]

  def predict(self, own, text, image, streams, index):
    return self.sample(own, text, streams, index)

  def sample(self, own, text, streams, index):
    return self._network.apply({"params": own["params"][GROUP]}, text.pooled)


class Diffusion:
  """DALL-E 2's prior (Ramesh et al., arXiv 2204.06125, section 2.2).

  x0-prediction on the cosine schedule; captions are dropped now and then, so that
  guidance has what to subtract.
  """

  def __init__(self, config: Any, content: content_lib.Content, dtype: Any):
    self._settings = settings = config.model.prior
    betas = schedule_lib.cosine_betas(settings.levels, 0.0, 0.0)
    schedule = schedule_lib.from_betas("cosine", betas)
    self._process = process_lib.Process(schedule, "x0")
    self._network = networks.PriorTransformer(
      content.width, settings.width, settings.layers, settings.heads,
      config.data.tokens, dtype,
    )  # fmt: skip
    shape = lambda *sizes: jax.ShapeDtypeStruct(sizes, jnp.float32)
    sequence = shape(1, config.data.tokens, content.sequence_width)
    width = content.width
    self._arguments = (shape(1, width), shape(1), shape(1, width), sequence)

  def init(self, seed: int | None) -> Tree:
    return initializers.initialize(self._network, seed, *self._arguments)["params"]

  def _apply(self, own: Own, *args: Any, method: str) -> jax.Array:
    variables = {"params": own["params"][GROUP]}
    return self._network.apply(variables, *args, method=method)

  def predict(self, own, text, image, streams, index):
    levels = self._process.schedule.steps
    t = streams.integers("prior_time", index, levels).astype(jnp.float32)
    noise = streams.normal("prior_noise", index, image.shape[1:])
    z = self._process.add_noise(image, noise, t)
    keep = streams.uniform("prior_caption", index) >= self._settings.drop
    context = self._apply(own, *text, method="text")
    return self._apply(own, z, t, context, keep, method="denoise")

  def sample(self, own, text, streams, index):
    settings = self._settings

    def denoise(z: jax.Array, t: jax.Array, conditions: types.Conditions) -> jax.Array:
      keep = (conditions.keep or {}).get("context")
      return self._apply(own, z, t, conditions.context, keep, method="denoise")

    def null(conditions: types.Conditions) -> types.Conditions:
      rows = jnp.zeros(len(conditions.context), jnp.float32)
      return conditions._replace(keep={"context": rows})

    chain = sampling.SamplerSettings(
      "dpmpp_2m", settings.steps, eta=0.0, spacing="log_snr",
      guidance=settings.guidance, temporal_guidance=1.0,
    )  # fmt: skip
    # Start noise of its own: a video drawn with the same streams has other noise.
    streams = rng.Streams(streams.key("prior"), streams.step)
    return sampling.chain(
      guidance.classifier_free(denoise, null, settings.guidance),
      self._process, chain, streams, index, text.pooled.shape[1:],
      types.Conditions(context=self._apply(own, *text, method="text")), None,
    )  # fmt: skip


# Keys of model.prior.kind.
TIERS = {"mean_shift": MeanShift, "regressor": Regressor, "diffusion": Diffusion}


class Prior:
  """The tier of a config beside the content encoder it works on; holds no weights."""

  def __init__(self, config: Any, content: content_lib.Content, dtype: Any):
    self.content = content
    self.tier: Tier = TIERS[config.model.prior.kind](config, content, dtype)
    self.needs = content.needs
    self._scale = math.sqrt(content.width)

  def scaled(self, embedding: jax.Array) -> jax.Array:
    """Unit rows [B,D] to the scale that the tiers work at."""
    return self._scale * embedding

  def text(self, weights: stage_lib.Frozen, tokens: jax.Array) -> Text:
    """Tokens [B,L] int32 -> their embeddings, scaled."""
    pooled, sequence = self.content.texts(weights, tokens)
    return Text(self._scale * pooled, sequence)

  def sample_embedding(
    self,
    weights: stage_lib.Frozen,
    streams: rng.Streams,
    index: jax.Array,
    tokens: jax.Array,
  ) -> jax.Array:
    """Returns image embeddings for captions, unit rows [B,D] float32.

    Row i depends on the streams, index[i] and tokens[i] alone, not on its batch.

    Args:
      weights: of the content encoder (`needs`) and of the stage "prior".
      streams: random streams; only the diffusion draws.
      index: [B] int32, keys of the draws.
      tokens: [B,L] int32.
    """
    text = self.text(weights, tokens)
    return contrastive.unit(self.tier.sample(weights[STAGE], text, streams, index))
