# SPDX-License-Identifier: Apache-2.0
"""Checks of `--eval.*` against the run they are asked of."""

from __future__ import annotations

from ml_collections import ConfigDict

from lamd_jax import limits
from lamd_jax import sample_checks
from lamd_jax.errors import ConfigError

# What only a named protocol reads, and the value that means off.
_OF_PROTOCOLS = {
  "changes": "", "task": "generation", "long": "hierarchical", "frames": 0,
  "weights_i3d": "", "weights_c3d": "", "weights_lpips": "", "weights_clip_image": "",
  "weights_clip_text": "", "vocabulary": "",
}  # fmt: skip


def check_eval(evaluation: ConfigDict, config: ConfigDict) -> None:
  """Raises ConfigError if `--eval.*` does not fit the run's config."""
  for key, value in limits.leaves(evaluation):
    limits.check_leaf("eval", key, value)
    if not evaluation.protocol and value != _OF_PROTOCOLS.get(key, value):
      raise ConfigError(f"--eval.{key}={value}: is of protocols; add --eval.protocol=NAME")
  if config.system == "gen1":
    sample_checks.check_structure_level("eval", evaluation, config)
  sample_checks.check_steps("eval", evaluation, config)
  sample_checks.check_distilled("eval", evaluation, config)
  if config.system == "gen1" and evaluation.sampler == sample_checks.DISTILLED:
    raise ConfigError(
      f"--eval.sampler={evaluation.sampler}: gen1's report compares scales of guidance,"
      " which a distilled network has but one of; look at --mode=sample"
    )
