# SPDX-License-Identifier: Apache-2.0
"""How systems run a chain: the settings, and one call with the streams' noise."""

from __future__ import annotations

from collections.abc import Callable
import dataclasses
from typing import Any

import jax
from jax.experimental import io_callback
from jax.sharding import PartitionSpec
import numpy as np

from lamd_jax import rng
from lamd_jax import types
from lamd_jax.diffusion import constraints
from lamd_jax.diffusion import process as process_lib
from lamd_jax.diffusion import samplers
from lamd_jax.diffusion.samplers import chain as chain_lib
from lamd_jax.diffusion.samplers import grid as grid_lib


@dataclasses.dataclass(frozen=True)
class SamplerSettings:
  """The knobs of a chain; static, so each combination compiles once."""

  sampler: str
  steps: int
  eta: float  # DDIM's noise: 0 deterministic, 1 as DDPM
  spacing: str  # where the chain stops: a key of grid.SPACINGS
  guidance: float  # classifier-free guidance; 1: off
  temporal_guidance: float  # Gen-1's, between its image and its video model; 1: off
  # Called on the host with (position, states) before each network call; None: off.
  watch: Callable[[Any, Any], None] | None = None


def chain(
  denoise: chain_lib.Denoiser,
  process: process_lib.Process,
  settings: SamplerSettings,
  streams: rng.Streams,
  index: jax.Array,
  shape: tuple[int, ...],
  conditions: types.Conditions,
  constraint: constraints.Constraint | None,
  return_states: bool = False,
) -> jax.Array:
  """Runs one chain per entry of `index` [B]; returns z0 [B, *shape], or with
  `return_states` the states after each step, [S, B, *shape].

  Entry i depends on the streams and on index[i] alone, not on its batch. `denoise` is
  guided already; `settings.guidance` is for who calls.
  """
  return samplers.SAMPLERS[settings.sampler](
    watched(denoise, settings.watch),
    process,
    streams.normal("start", index, shape),
    conditions,
    grid=grid_lib.make(process, settings.steps, settings.spacing),
    noise=lambda i: rng.Streams(streams.root, i).normal("chain", index, shape),
    eta=settings.eta,
    constraint=constraint,
    return_states=return_states,
  )


def watched(
  denoise: chain_lib.Denoiser, watch: Callable[[Any, Any], None] | None
) -> chain_lib.Denoiser:
  """Tells `watch` of each call; without one `denoise` is returned as it is."""
  if watch is None:
    return denoise

  def tell(position: Any, states: Any) -> np.ndarray:
    watch(position, states)
    return np.zeros((), states.dtype)

  def call(z: jax.Array, t: jax.Array, conditions: types.Conditions) -> jax.Array:
    # Ordered callbacks run on one device alone. Here the call waits for the answer
    # instead, and the next step for the call.
    told = z
    if not jax.sharding.get_abstract_mesh().empty:
      told = jax.lax.with_sharding_constraint(z, PartitionSpec())  # from all devices
    answer = io_callback(tell, jax.ShapeDtypeStruct((), z.dtype), t[0], told)
    return denoise(z + answer, t, conditions)

  return call
