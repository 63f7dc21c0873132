# SPDX-License-Identifier: Apache-2.0
"""Edits of held-out clips at the points of Gen-1's report, each made once.

Structure comes from clip i, content from another clip: from its first frame, or through
the prior from the caption that says what is in it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict
import numpy as np

from lamd_jax import api
from lamd_jax import rng
from lamd_jax import types
from lamd_jax.errors import ConfigError
from lamd_jax.errors import WeightsError
from lamd_jax.systems import content as content_lib
from lamd_jax.systems import distill_stage
from lamd_jax.systems import gen1
from lamd_jax.systems import prior
from lamd_jax.systems import sampling
from lamd_jax.training import precision

LEVELS = (0, 3, 5, 7)
TEMPORAL_GUIDANCE = (0.5, 1.0, 1.5)
GUIDANCE = (1.0, 4.0, 8.0)
_FRAMES = 64  # that a device embeds at once


class Point(NamedTuple):
  """How an edit is made. All but the level is static: each point compiles once."""

  content: str  # image | text
  structure_level: int
  temporal_guidance: float
  guidance: float
  frame_by_frame: bool = False  # by the image model, which knows of no other frame


class Sources(NamedTuple):
  """What clips are edited from, row i for clip i."""

  images: np.ndarray  # [N,1,H,W,3] uint8
  tokens: np.ndarray | None  # [N,L] int32; None: there are no captions, or no prior
  depth: np.ndarray | None  # [N,T,H,W,1] uint8; None: the model knows no structure


class FrameByFrame(gen1.Gen1):
  """The image model alone on every frame: the baseline without temporal layers."""

  def denoiser(self, params: Mapping[str, Any], mode: str) -> gen1.Denoiser:
    del mode
    return super().denoiser(params, "image")


def sweeps(
  model: api.Model, evaluation: ConfigDict, text: bool
) -> dict[str, list[Point]]:
  """The curves: knob -> points. Each varies one knob, the others stay at `--eval.*`.

  The level is swept with content from words where there are any, as the paper's prompt
  consistency is about words; the other knobs with content from pictures, so that what
  the prior gets wrong is not in the way.
  """
  highest = model.config.model.structure.levels
  base = base_point(model, evaluation)
  told = base._replace(content="text") if text else base
  levels = [level for level in LEVELS if level <= highest]
  return {
    **({"structure_level": [told._replace(structure_level=n) for n in levels]}
       if model.system.structured else {}),
    "temporal_guidance": [
      base._replace(temporal_guidance=w) for w in TEMPORAL_GUIDANCE
    ],
    "guidance": [base._replace(guidance=w) for w in GUIDANCE],
  }  # fmt: skip


def base_point(model: api.Model, evaluation: ConfigDict) -> Point:
  return Point(
    "image", evaluation.structure_level, evaluation.temporal_guidance,
    evaluation.guidance or model.config.diffusion.guidance,
  )  # fmt: skip


def has_prior(model: api.Model) -> bool:
  return prior.STAGE in model.weights


def check(model: api.Model, evaluation: ConfigDict) -> None:
  """Raises WeightsError if a stage that edits need is missing, ConfigError of steps."""
  steps, levels = evaluation.edit_steps, model.config.diffusion.steps
  if steps > levels:
    raise ConfigError(
      f"--eval.edit_steps={steps}: more than the diffusion.steps={levels} of the run"
    )
  for stage in model.system.generates_with:
    optional = (prior.STAGE, distill_stage.NAME)
    if stage not in model.weights and stage not in optional:
      raise WeightsError(f"the stage {stage} of this run is not trained to its end")


class Editor:
  """Makes the edits of a point, and embeds frames and captions."""

  def __init__(self, model: api.Model, evaluation: ConfigDict, sources: Sources):
    self._model, self._evaluation, self._sources = model, evaluation, sources
    dtype = precision.compute_dtype(model.config.train.compute)
    alone = FrameByFrame(model.config, dtype)
    self._sample = {
      False: jax.jit(model.system.sample_latents, static_argnums=(4, 5)),
      True: jax.jit(alone.sample_latents, static_argnums=(4, 5)),
    }
    # What scores computes in full precision, whatever made the edits.
    judge = content_lib.Content(model.config, jnp.float32)
    highest = jax.default_matmul_precision("highest")
    self._embed = highest(jax.jit(judge.images))
    self._embed_texts = highest(jax.jit(lambda w, x: judge.texts(w, x)[0]))
    self._made: dict[Point, np.ndarray] = {}

  def edit(self, point: Point) -> np.ndarray:
    """Returns clips [N,T,H,W,3] uint8. Noise is the same at all points."""
    if point not in self._made:
      self._made[point] = self._run(point)
    return self._made[point]

  def _run(self, point: Point) -> np.ndarray:
    evaluation = self._evaluation
    settings = sampling.SamplerSettings(
      evaluation.sampler, evaluation.edit_steps, evaluation.eta, evaluation.spacing,
      point.guidance, point.temporal_guidance,
    )  # fmt: skip
    streams = rng.Streams(rng.root(evaluation.seed), jnp.zeros((), jnp.int32))
    sample, devices = self._sample[point.frame_by_frame], self._model.devices
    count, chunk = len(self._sources.images), 4
    batch = devices.at_once(count, evaluation.batch)
    done = []
    for start in range(0, count, batch):
      # The last batch is filled up, so that one compiled program serves all.
      index = np.arange(start, start + batch, dtype=np.int32)
      prompt = self._prompt(point, np.minimum(index, count - 1))
      with devices.placed((index, prompt)) as (weights, rows):
        latents = sample(weights, streams, *rows, settings, 0)
      done.append(self._model.decode(latents, chunk, prompt))
    return np.concatenate(done)[:count]

  def _prompt(self, point: Point, rows: np.ndarray) -> types.Prompt:
    sources = self._sources
    told = {"image": sources.images[rows]}
    if point.content == "text":
      told = {"tokens": sources.tokens[rows]}
    if sources.depth is not None:
      level = np.full(rows.shape, point.structure_level, np.int32)
      told.update(depth=sources.depth[rows], structure_level=level)
    return types.Prompt(**told)

  def embed(self, clips: np.ndarray) -> np.ndarray:
    """Frames of clips [N,T,H,W,3] uint8 as the content encoder sees them, [N,T,D]."""
    frames = clips.reshape(-1, *clips.shape[2:])
    found = self._model.devices.in_chunks(self._embed, frames, _FRAMES)
    return found.reshape(*clips.shape[:2], -1)

  def embed_texts(self, tokens: np.ndarray) -> np.ndarray:
    """Captions [N,L] int32 as the content encoder sees them, [N,D]."""
    return np.asarray(self._embed_texts(self._model.weights, tokens))

  def embed_by_prior(self, tokens: np.ndarray) -> np.ndarray:
    """What the prior makes of captions [N,L] int32, [N,D]."""
    streams = rng.Streams(rng.root(self._evaluation.seed), jnp.zeros((), jnp.int32))
    draw = jax.jit(self._model.system.prior.sample_embedding)
    index = np.arange(len(tokens), dtype=np.int32)
    return np.asarray(draw(self._model.weights, streams, index, tokens))


def tokens(
  tokenize: Callable[[str], np.ndarray] | None, texts: Sequence[str]
) -> np.ndarray | None:
  """Captions as token ids [N,L]; None without a tokenizer, or where one is empty."""
  if tokenize is None or not all(text.strip() for text in texts):
    return None
  return np.stack([tokenize(text) for text in texts])
