# SPDX-License-Identifier: Apache-2.0
"""What the stages that train a denoiser on latents have in common."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from lamd_jax import rng
from lamd_jax import types
from lamd_jax.diffusion import guidance as guidance_lib
from lamd_jax.diffusion import process as process_lib
from lamd_jax.diffusion import weighting
from lamd_jax.diffusion.process import Denoiser
from lamd_jax.systems.sampling import SamplerSettings
from lamd_jax.training import stage as stage_lib

Tree = stage_lib.Tree


class Shown(NamedTuple):
  """What a step shows the network, but for noise and its level."""

  z0: jax.Array  # [B,T,h,w,c] float32, drawn from the posterior; carries no gradient
  index: jax.Array  # [B] int32, of the rows: their noise is drawn by it
  conditions: types.Conditions
  # Makes what takes out of conditions what guidance drops; its result None: nothing is.
  null: Callable[[], guidance_lib.Null | None]
  extras: Tree  # of the stage, updated


class DenoiserStage(stage_lib.SingleVariant):
  """The step, the previews' sampler, and the parts of a stage that hold nothing.

  A subclass sets `name`, `groups`, `needs`, `averaged` and `frames`, says what the
  network is shown and which it is, and makes clips of it.
  """

  trains_on_latents = True
  measures = False  # steps take statistics of the data into the extras
  groups: tuple[str, ...]
  network: tuple[str, ...] = ("denoiser",)  # those of `groups` that denoise

  def show(
    self,
    params: dict[str, Tree],
    extras: Tree,
    frozen: stage_lib.Frozen,
    batch: stage_lib.Batch,
    streams: rng.Streams,
    variant: str,
  ) -> Shown:
    """The part of `forward` before noise; pure and traceable."""
    raise NotImplementedError

  def network_of(self, params: dict[str, Tree], variant: str) -> Denoiser:
    """The denoiser that the groups `network` are the parameters of."""
    raise NotImplementedError

  def clips(
    self,
    params: dict[str, Tree],
    extras: Tree,
    frozen: stage_lib.Frozen,
    batch: stage_lib.Batch,
    streams: rng.Streams,
    settings: SamplerSettings,
  ) -> dict[str, jax.Array]:
    """`preview` with these settings."""
    raise NotImplementedError

  def __init__(self, process: process_lib.Process, config: Any):
    self._process = process
    self._config = config

  def forward(
    self,
    params: dict[str, Tree],
    extras: Tree,
    frozen: stage_lib.Frozen,
    batch: stage_lib.Batch,
    streams: rng.Streams,
    variant: str,
  ) -> stage_lib.StageOutput:
    process = self._process
    # 1. The clip's latents, and what the network is told of the clip.
    shown = self.show(params, extras, frozen, batch, streams, variant)
    z0, index = shown.z0, shown.index
    # 2. A noise level per clip, uniform over the schedule.
    t = streams.integers("time", index, process.schedule.steps).astype(jnp.float32)
    # 3. z_t = alpha_t z_0 + sigma_t eps.
    noise = streams.normal("noise", index, z0.shape[1:])
    z = process.add_noise(z0, noise, t)
    # 4. The network's answer, and its distance from what it should say.
    raw = self.network_of(params, variant)(z, t, shown.conditions)
    target = process.target(z0, noise, t)
    output = self._output(raw, target, t, z0, shown.extras)
    losses = {group: output.losses[group] for group in self.trained(variant)}
    return output._replace(losses=losses)

  def preview(
    self,
    params: dict[str, Tree],
    extras: Tree,
    frozen: stage_lib.Frozen,
    batch: stage_lib.Batch,
    streams: rng.Streams,
  ) -> dict[str, jax.Array]:
    settings = self._preview_settings()
    return self.clips(params, extras, frozen, batch, streams, settings)

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
