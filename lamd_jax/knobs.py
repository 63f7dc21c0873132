# SPDX-License-Identifier: Apache-2.0
"""The knobs of `generate` and `edit`: checked, and what chains are told of them."""

from __future__ import annotations

from collections.abc import Mapping
import os
from typing import Any

import jax.numpy as jnp
from ml_collections import ConfigDict
import numpy as np

from lamd_jax import config as config_lib
from lamd_jax import rng
from lamd_jax import sample_checks
from lamd_jax.errors import ConfigError
from lamd_jax.errors import WeightsError
from lamd_jax.systems import gen1_edit
from lamd_jax.systems import lvdm_long
from lamd_jax.systems import sampling


_ELSEWHERE = {
  "weights": "lamd_jax.load, which reads them",
  "lora": "lamd_jax.load, which lays files over the weights",
  "lora_weight": "lamd_jax.load, which lays files over the weights",
  "out": "--mode=sample; clips save themselves: clip.save(PATH)",
  "formats": "--mode=sample; clips save themselves: clip.save(PATH)",
}


def settings(
  config: ConfigDict, trained: Mapping[str, Any], knobs: Mapping[str, Any]
) -> ConfigDict:
  """Returns `config.sample_defaults` with `knobs` in their places.

  Args:
    config: of the run.
    trained: has a key for each of its stages with weights.
    knobs: names as those of the defaults.

  Raises:
    ConfigError: a knob that is unknown, of another type or out of range.
    WeightsError: what they ask for was not trained.
  """
  sampler = knobs.get("sampler", "")
  found = config_lib.sample_defaults(sampler if isinstance(sampler, str) else "")
  unknown = [key for key in knobs if key not in found]
  if unknown:
    raise ConfigError(f"{unknown[0]}: no such knob; knobs are {', '.join(found)}")
  for key in _ELSEWHERE.keys() & knobs.keys():
    raise ConfigError(f"{key}: is of {_ELSEWHERE[key]}")
  for key, value in knobs.items():
    try:
      found[key] = value.item() if isinstance(value, np.generic) else value
    except TypeError as error:
      usual = found[key]
      raise ConfigError(
        f"{key}={value!r}: is of type {type(value).__name__}, {type(usual).__name__} is"
        f" due, such as {usual!r}"
      ) from error
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


def several(key: str, given: Any, kind: Any, what: str) -> list[Any]:
  """Returns what clips take in turn: one value of a kind, or a list of them.

  Raises:
    ConfigError: another kind, or an empty list.
  """
  if isinstance(given, kind):
    return [given]
  found = list(given) if isinstance(given, list | tuple | np.ndarray) else []
  if not found or not all(isinstance(value, kind) for value in found):
    raise ConfigError(f"{key}={given!r:.80}: give {what}, or a list of at least one")
  return found


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


def long(found: ConfigDict) -> lvdm_long.LongSettings:
  """Raises ConfigError where no way of making long videos is chosen."""
  if found.long == "none":
    raise ConfigError("long='none': choose autoregressive, hierarchical or sliding")
  return lvdm_long.LongSettings(
    found.long, found.noise_level, found.null, sampler(found)
  )
