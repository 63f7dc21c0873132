# SPDX-License-Identifier: Apache-2.0
"""Gen-1's diffusion stages (Esser et al., arXiv 2302.03011, section 3.4).

  image             the image model learns to follow image embeddings
  video             temporal layers join in; image and video steps in turn
  structure         depth joins in, as it is
  structure_levels  depth degraded to a random level

Each goes on from the one before. What a clip meets on its way is written, step by
step, in `show` with `DenoiserStage.forward`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np

from lamd_jax import rng
from lamd_jax import types
from lamd_jax.diffusion import guidance as guidance_lib
from lamd_jax.diffusion.process import Denoiser
from lamd_jax.nn import depth_moments
from lamd_jax.nn import initializers
from lamd_jax.nn import latent_norm
from lamd_jax.systems import parameter_groups
from lamd_jax.systems import pixels
from lamd_jax.systems.diffusion_stage import DenoiserStage
from lamd_jax.systems.diffusion_stage import Shown
from lamd_jax.systems.sampling import SamplerSettings
from lamd_jax.training import stage as stage_lib

if TYPE_CHECKING:
  from lamd_jax.systems.gen1 import Gen1

Tree = stage_lib.Tree
STRUCTURED = ("structure", "structure_levels")
DIFFUSERS = ("image", "video", *STRUCTURED)
LEVEL_CHANNELS = 4  # that tell the network the structure's level
# Imported networks' names in `frozen`.
IMPORTED, DEPTH = "image_denoiser", "depth"


class Gen1Stage(DenoiserStage):
  """Trains one network in four stages, which are the same but for what takes part.

  Steps are of images or of clips; which, a coin decides that is a function of seed and
  step. An image step takes the frames of its clips as pictures of their own, leaves the
  temporal layers out of the network, and their parameters, averages and optimizer
  alone. Structure is given to both, since guidance asks the image model for it too.

  `extras` holds `embedding_mean` and `embedding_variance` [D], running statistics of
  the content embeddings, which the first of the stages takes and the others keep; with
  model.structure.standardise also those of depth latents (`nn/depth_moments.py`), which
  the first stage of structure takes.
  """

  encoded_by: tuple[str, ...]
  cached_as = "gen1"

  def __init__(self, system: Gen1, name: str):
    super().__init__(system.process, system.config)
    self._system = system
    self.name = name
    self.frames = system.config.data.frames
    before = DIFFUSERS[: DIFFUSERS.index(name)]
    before = [stage for stage in before if stage in system.config.stages]
    imported = IMPORTED if system.config.model.denoiser_weights else ""
    self.starts_from = before[-1] if before else imported
    self.measures = not before
    first = name in STRUCTURED and not set(before) & set(STRUCTURED)
    self.measures_depth = first and system.config.model.structure.standardise
    still = name == "image"
    self.variants = ("image",) if still else ("video", "image")
    self.groups = ("denoiser", "projector", *(() if still else ("temporal",)))
    self.network = ("denoiser",) if still else ("denoiser", "temporal")
    depth = (DEPTH,) if system.estimates_depth else ()
    self.needs = self.encoded_by = (
      "autoencoder", *system.content.needs_for_images, *depth
    )  # fmt: skip
    self.averaged = self.groups if system.config.optim[name].ema_decay else ()

  def variant_at(self, step: int) -> str:
    if self.name == "image":
      return "image"
    key = np.array([self._config.seed, step], np.uint64)
    coin = np.random.Generator(np.random.Philox(key=key)).random()
    return "image" if coin < self._config.joint.image_share else "video"

  def trained(self, variant: str) -> tuple[str, ...]:
    return ("denoiser", "projector") if variant == "image" else self.groups

  def init(self, seed: int | None) -> tuple[dict[str, Tree], Tree]:
    system, model = self._system, self._config.model
    shape = lambda *sizes: jax.ShapeDtypeStruct(sizes, jnp.float32)
    concat = None
    if self.name in STRUCTURED:
      channels = system.latent_shape[-1] + LEVEL_CHANNELS
      concat = shape(1, *system.latent_shape[:-1], channels)
    content = model.content
    told = types.Conditions(shape(1, content.tokens, content.context_width), concat)
    arguments = (shape(1, *system.latent_shape), shape(1), told)
    whole = initializers.initialize(system.unet, seed, *arguments)["params"]
    spatial, temporal = parameter_groups.split(whole)
    width = system.content.width
    keep = jax.ShapeDtypeStruct((1,), bool)
    projector = initializers.initialize(system.projector, seed, shape(1, width), keep)
    params = {
      "denoiser": spatial, "temporal": temporal, "projector": projector["params"]
    }  # fmt: skip
    extras = {
      "embedding_mean": np.zeros(width, np.float32),
      # That of unit rows, were all channels alike.
      "embedding_variance": np.full(width, 1 / width, np.float32),
      "embedding_count": np.zeros((), np.float32),
    }
    if self.name in STRUCTURED and model.structure.standardise:
      extras |= depth_moments.initial(system.latent_shape[1:])
    return {name: params[name] for name in params if name in self.groups}, extras

  def start(
    self, params: dict[str, Tree], extras: Tree, earlier: Mapping[str, Tree]
  ) -> tuple[dict[str, Tree], Tree]:
    """Takes over all groups that the earlier stage has; new input channels begin at 0."""
    taken = {**params, **earlier["params"]}
    fresh = params["denoiser"]["in_conv"]["kernel"]
    known = np.asarray(taken["denoiser"]["in_conv"]["kernel"])
    if known.shape != fresh.shape:
      more = [(0, n - k) for n, k in zip(fresh.shape, known.shape, strict=True)]
      first = {**taken["denoiser"]["in_conv"], "kernel": np.pad(known, more)}
      taken["denoiser"] = {**taken["denoiser"], "in_conv": first}
    return {group: taken[group] for group in params}, {**extras, **earlier["extras"]}

  def show(
    self,
    params: dict[str, Tree],
    extras: Tree,
    frozen: stage_lib.Frozen,
    batch: stage_lib.Batch,
    streams: rng.Streams,
    variant: str,
  ) -> Shown:
    system, index = self._system, batch.index
    # 1. Latents of the frames, a fresh draw from the posterior at each visit.
    known = self.encode(frozen, batch)
    noise = streams.normal("posterior", index, known.mean.shape[1:])
    raw = known.mean + jnp.exp(0.5 * known.log_variance) * noise
    z0 = jax.lax.stop_gradient(system.to_latent(frozen, raw))
    # 2. The structure: depth, degraded to a level a clip.
    concat, extras = self._structure(frozen, known, extras, streams)
    # 3. The content: the embedding of one random frame, or of a picture itself.
    embedding, extras = self._content(known, extras, streams, variant)
    # 4. An image step takes the clips apart. All that follows is by row.
    if variant == "image":
      count = z0.shape[1]
      index = (index[:, None] * count + jnp.arange(count)).reshape(-1)
      apart = lambda x: x.reshape(-1, 1, *x.shape[2:])
      z0, concat = jax.tree.map(apart, (z0, concat))
    # 5. Content is dropped now and then, so that guidance has what to subtract.
    keep = streams.uniform("content", index) >= self._config.model.content.dropout
    tokens = lambda kept: system.tokens(params, extras, embedding, kept)
    conditions = types.Conditions(context=tokens(keep), concat=concat)

    def null() -> guidance_lib.Null:
      without = tokens(jnp.zeros_like(keep))
      return lambda c: c._replace(context=without)

    return Shown(z0, index, conditions, null, extras)

  def network_of(self, params: dict[str, Tree], variant: str) -> Denoiser:
    return self._system.denoiser(params, variant)

  def _structure(
    self,
    frozen: stage_lib.Frozen,
    known: types.LatentBatch,
    extras: Tree,
    streams: rng.Streams,
  ) -> tuple[jax.Array | None, Tree]:
    if self.name not in STRUCTURED:
      return None, extras
    model = self._config.model
    level = jnp.zeros_like(known.index)
    if self.name == "structure_levels":
      level = streams.integers("structure_level", known.index, model.structure.levels + 1)
    z = self._system.depth_latents(frozen, known.depth, level)
    if self.measures_depth:
      extras = depth_moments.measured(extras, z, model.content.momentum)
    return self._system.structure(z, level, extras), extras

  def _content(
    self, known: types.LatentBatch, extras: Tree, streams: rng.Streams, variant: str
  ) -> tuple[jax.Array, Tree]:
    """Returns unit rows, one a clip or one a frame, and the extras."""
    if self.measures:
      old = latent_norm.Moments(extras["embedding_mean"], extras["embedding_variance"])
      now = latent_norm.moments(known.embedding)
      seen = extras["embedding_count"] + 1
      share = latent_norm.share(seen, self._config.model.content.momentum)
      new = latent_norm.running(old, now, share)
      extras = {
        **extras, "embedding_mean": new.mean, "embedding_variance": new.variance,
        "embedding_count": seen,
      }  # fmt: skip
    if variant == "image":
      return known.embedding.reshape(-1, known.embedding.shape[-1]), extras
    frames = known.embedding.shape[1]
    frame = streams.integers("content_frame", known.index, frames)
    chosen = jnp.take_along_axis(known.embedding, frame[:, None, None], axis=1)
    return chosen[:, 0], extras

  def encode(
    self, frozen: stage_lib.Frozen, batch: stage_lib.Batch
  ) -> types.LatentBatch:
    """Posterior and content embedding of every frame, and the depth as it came.

    Depth is encoded at each visit, since its level is drawn anew. A batch from the
    latent cache passes through as it is.
    """
    if isinstance(batch, types.LatentBatch):
      return batch
    system, video = self._system, batch.video
    params = frozen["autoencoder"]["params"]["generator"]
    mean, log_variance = system.encode(params, pixels.to_float(video))
    embedding = system.content.images(frozen, video.reshape(-1, *video.shape[2:]))
    depth = system.depth(frozen, video) if system.estimates_depth else batch.depth
    return types.LatentBatch(
      mean, log_variance, batch.index, batch.label, batch.tokens,
      depth=depth, embedding=embedding.reshape(*video.shape[:2], -1),
    )  # fmt: skip

  def clips(
    self,
    params: dict[str, Tree],
    extras: Tree,
    frozen: stage_lib.Frozen,
    batch: types.VideoBatch,
    streams: rng.Streams,
    settings: SamplerSettings,
  ) -> dict[str, jax.Array]:
    """Clips as the model draws them for the content of the next clip's first frame."""
    system = self._system
    weights = {**frozen, self.name: {"params": params, "extras": extras}}
    prompt = types.Prompt(
      image=jnp.roll(batch.video[:, :1], -1, axis=0),
      depth=self.encode(frozen, batch).depth,
      structure_level=jnp.zeros_like(batch.index),
    )
    z = system.draw(
      self.name, weights, streams, batch.index, prompt, settings, 0
    )
    return {"input": batch.video, "samples": system.decode(weights, z, prompt)}
