# SPDX-License-Identifier: Apache-2.0
"""The systems by name, and what a system must offer. A config says which one it is."""

from __future__ import annotations

from typing import Any, Protocol

import jax

from lamd_jax import rng
from lamd_jax import types
from lamd_jax.systems import gen1
from lamd_jax.systems import lamd
from lamd_jax.systems import lvdm
from lamd_jax.systems import sampling
from lamd_jax.training import stage as stage_lib


class System(Protocol):
  """The networks of one config, with what trains them and what makes clips of them.

  The methods on arrays are pure and traceable; `weights` are those of the finished
  stages and of imported networks. A latent is whatever the system diffuses, rows first.
  Long video (`lvdm_long`) and motion transfer (`LaMD.motion`) are of one system alone.
  """

  config: Any
  latent_shape: tuple[int, ...]  # T,h,w,c of a clip's latent
  generates_with: tuple[str, ...]  # stages that sampling needs
  animates_images: bool  # prompts have an image, which is what moves

  def stages(self) -> list[stage_lib.Stage]:
    """Returns the stages in training order."""

  def sample_latents(
    self,
    weights: stage_lib.Frozen,
    streams: rng.Streams,
    index: jax.Array,
    prompt: types.Prompt,
    settings: sampling.SamplerSettings,
    frames: int,
  ) -> jax.Array:
    """Returns latents of clips `index` [B]; entry i depends on row i alone.

    `frames` is the length of a clip, 0 as trained; it and `settings` are static.
    """

  def decode(
    self, weights: stage_lib.Frozen, z: jax.Array, prompt: types.Prompt
  ) -> jax.Array:
    """Returns clips [B,T,H,W,3] uint8 of latents made with the same prompt."""

  def reconstruct(self, weights: stage_lib.Frozen, video: jax.Array) -> jax.Array:
    """Encodes and decodes clips [B,T,H,W,3] uint8, without noise."""

  def random_latents(self, streams: rng.Streams, index: jax.Array) -> jax.Array:
    """Latents that no denoiser has seen: the baseline one must beat."""


SYSTEMS = {"lvdm": lvdm.LVDM, "lamd": lamd.LaMD, "gen1": gen1.Gen1}
