# SPDX-License-Identifier: Apache-2.0
"""What the stages that train a denoiser on latents have in common."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from lamd_jax.diffusion import process as process_lib
from lamd_jax.diffusion import weighting
from lamd_jax.systems.sampling import SamplerSettings
from lamd_jax.training import stage as stage_lib

Tree = stage_lib.Tree


class DenoiserStage(stage_lib.SingleVariant):
  """The loss, the previews' sampler, and the parts of a stage that hold nothing.

  A subclass sets `name`, `groups`, `needs`, `averaged` and `frames`.
  """

  trains_on_latents = True
  measures = False  # steps take statistics of the data into the extras
  groups: tuple[str, ...]

  def __init__(self, process: process_lib.Process, config: Any):
    self._process = process
    self._config = config

  def _output(
    self, raw: jax.Array, target: jax.Array, t: jax.Array, z0: jax.Array, extras: Tree
  ) -> stage_lib.StageOutput:
    settings = self._config.diffusion
    loss = weighting.loss(
      self._process, raw, target, t, settings.loss, settings.min_snr_gamma
    ).mean()
    # The gradient is that of the sum, so the encoders have their share of it.
    losses = {group: jnp.zeros((), jnp.float32) for group in self.groups}
    metrics = {"loss": loss, "latent_std": z0.std()}
    return stage_lib.StageOutput({**losses, "denoiser": loss}, extras, metrics)

  def _preview_settings(self) -> SamplerSettings:
    return SamplerSettings(
      "dpmpp_2m", self._config.train.preview_steps, eta=0.0, spacing="log_snr",
      guidance=self._config.diffusion.guidance, temporal_guidance=1.0,
    )  # fmt: skip
