# SPDX-License-Identifier: Apache-2.0
"""Makes of a trained diffusion stage one that samples in a few steps.

Consistency distillation; the equations are in diffusion/consistency.py. The stage knows
no system: what the networks are shown, and which they are, the stage that taught says.
"""

from __future__ import annotations

from collections.abc import Mapping
import copy
from typing import Any

import jax
import jax.numpy as jnp

from lamd_jax import rng
from lamd_jax import types
from lamd_jax.diffusion import consistency
from lamd_jax.diffusion import guidance as guidance_lib
from lamd_jax.diffusion import process as process_lib
from lamd_jax.systems.diffusion_stage import DenoiserStage
from lamd_jax.systems.sampling import SamplerSettings
from lamd_jax.training import stage as stage_lib

Tree = stage_lib.Tree
NAME = "distill"
SAMPLER = "consistency"  # the one that asks the student
_PREVIEW_STEPS = 4


def network(
  weights: stage_lib.Frozen, teacher: str, settings: SamplerSettings
) -> dict[str, Tree]:
  """The parameters of stage `teacher` as this sampler wants them.

  The student is the network alone: what brings words and pictures to it stays the
  teacher's.
  """
  params = weights[teacher]["params"]
  if settings.sampler != SAMPLER:
    return params
  return {**params, **weights[NAME]["params"]}


class DistillStage(stage_lib.SingleVariant):
  """Trains a copy of a stage's network to answer as all of its chain does.

  The teacher's averaged weights are the student's first ones. Guidance at the scale
  `distill.guidance` goes into the student, which is sampled without. The student's own
  moving average, of decay `optim.distill.ema_decay`, is both the network that it learns
  from (Song et al. have one with a decay of its own) and the one to sample with; with
  a decay of 0 it learns from itself as it stands (arXiv 2310.14189, section 3.2).
  """

  name = NAME
  trains_on_latents = True

  def __init__(
    self, teacher: DenoiserStage, process: process_lib.Process, config: Any
  ):
    """Args:
    teacher: the stage that is distilled.
    process: its process.
    config: the run's config.
    """
    self._teacher, self._process, self._config = copy.copy(teacher), process, config
    # Its statistics stay those that it is sampled with.
    self._teacher.measures = self._teacher.measures_depth = False
    self.groups = teacher.network
    self.averaged = self.groups if config.optim[NAME].ema_decay else ()
    self.needs = (*teacher.needs, teacher.name)
    self.starts_from = teacher.name
    self.variants = teacher.variants[:1]  # of Gen-1's two that of clips
    self.frames = teacher.frames
    self.encode, self.encoded_by = teacher.encode, teacher.encoded_by
    self.cached_as = teacher.cached_as

  def variant_at(self, step: int) -> str:
    return self.variants[0]

  def init(self, seed: int | None) -> tuple[dict[str, Tree], Tree]:
    params, _ = self._teacher.init(seed)
    return {group: params[group] for group in self.groups}, {}

  def start(
    self, params: dict[str, Tree], extras: Tree, earlier: Mapping[str, Tree]
  ) -> tuple[dict[str, Tree], Tree]:
    # A checkpoint leaves out a group without arrays.
    known = earlier["params"]
    return {group: tree and known[group] for group, tree in params.items()}, extras

  def forward(
    self,
    params: dict[str, Tree],
    extras: Tree,
    frozen: stage_lib.Frozen,
    batch: stage_lib.Batch,
    streams: rng.Streams,
    variant: str,
  ) -> stage_lib.StageOutput:
    known, settings = frozen[self._teacher.name], self._config.distill
    # 1. Latents and conditions, as the teacher was shown them.
    shown = self._teacher.show(
      known["params"], known["extras"], frozen, batch, streams, variant
    )
    # 2. Three networks: the teacher under guidance, one batched call; the student; and
    #    its average before this step.
    network_of = lambda changed: self._teacher.network_of(
      {**known["params"], **changed}, variant
    )
    teacher = network_of({})
    scale = settings.guidance or self._config.diffusion.guidance
    if scale != 1 and (null := shown.null()):
      teacher = guidance_lib.classifier_free(teacher, null, scale)
    average = frozen[self.name]["params"]
    # 3. A level, and how far the student's answer is from the average's further down.
    index, z0 = shown.index, shown.z0
    t = streams.integers("time", index, self._process.schedule.steps)
    noise = streams.normal("noise", index, z0.shape[1:])
    loss = consistency.loss(
      network_of(params), network_of(average), teacher, self._process, z0, noise,
      t.astype(jnp.float32), settings.skip, shown.conditions, settings.loss,
    ).mean()  # fmt: skip
    losses = {group: jnp.zeros((), jnp.float32) for group in self.groups}
    metrics = {"loss": loss, "latent_std": z0.std()}
    return stage_lib.StageOutput({**losses, "denoiser": loss}, extras, metrics)

  def preview(
    self,
    params: dict[str, Tree],
    extras: Tree,
    frozen: stage_lib.Frozen,
    batch: types.VideoBatch,
    streams: rng.Streams,
  ) -> dict[str, jax.Array]:
    """The teacher's clips, from the same noise, made by the student in four steps."""
    known = frozen[self._teacher.name]
    frozen = {**frozen, self.name: {"params": params, "extras": extras}}
    settings = SamplerSettings(
      SAMPLER, _PREVIEW_STEPS, eta=0.0, spacing="trailing", guidance=1.0,
      temporal_guidance=1.0,
    )  # fmt: skip
    return self._teacher.clips(
      known["params"], known["extras"], frozen, batch, streams, settings
    )
