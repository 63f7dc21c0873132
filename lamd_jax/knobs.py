# SPDX-License-Identifier: Apache-2.0
"""The knobs of `generate` and `edit`: checked, and what chains are told of them."""

from __future__ import annotations

from collections.abc import Mapping
import os
from typing import Any

import jax.numpy as jnp
from ml_collections import ConfigDict

from lamd_jax import config as config_lib
from lamd_jax import rng
from lamd_jax import sample_checks
from lamd_jax.errors import ConfigError
from lamd_jax.errors import WeightsError
from lamd_jax.systems import gen1_edit
from lamd_jax.systems import sampling


def settings(
  config: ConfigDict, trained: Mapping[str, Any], knobs: Mapping[str, Any]
) -> ConfigDict:
  """Returns `config.sample_defaults` with `knobs` in their places.

  Args:
    config: of the run.
    trained: has a key for each of its stages with weights.
    knobs: names as those of the defaults.

  Raises:
    ConfigError: a knob that is unknown or out of range. WeightsError: what they ask
      for was not trained.
  """
  found = config_lib.sample_defaults(knobs.get("sampler", ""))
  unknown = [key for key in knobs if key not in found]
  if unknown:
    raise ConfigError(f"{unknown[0]}: no such knob; knobs are {', '.join(found)}")
  for key in ("lora", "lora_weight"):
    if key in knobs:
      raise ConfigError(f"{key}: is of lamd_jax.load, which lays files over the weights")
  found.update(knobs)
  found.guidance = guidance(found, config)
  sample_checks.check_sample(found, config)
  for stage in sample_checks.stages_of(found, config):
    if stage not in trained:
      raise WeightsError(f"the stage {stage} of this run is not trained to its end")
  return found


def guidance(found: ConfigDict, config: ConfigDict) -> float:
  """What was asked for; where nothing was, the run's, which a distilled network has."""
  distilled = found.sampler == sample_checks.DISTILLED
  return found.guidance or (1.0 if distilled else config.diffusion.guidance)


def name(given: Any) -> str:
  """How a file, an array or nothing is told to checks, and named in messages."""
  if given is None:
    return ""
  return os.fspath(given) if isinstance(given, str | os.PathLike) else "(an array)"


def streams(found: ConfigDict) -> rng.Streams:
  return rng.Streams(rng.root(found.seed), jnp.zeros((), jnp.int32))


def sampler(found: ConfigDict) -> sampling.SamplerSettings:
  return sampling.SamplerSettings(
    found.sampler, found.steps, found.eta, found.spacing, found.guidance,
    found.temporal_guidance,
  )  # fmt: skip


def edit(found: ConfigDict) -> gen1_edit.EditSettings:
  return gen1_edit.EditSettings(sampler(found), found.start, found.strength)
