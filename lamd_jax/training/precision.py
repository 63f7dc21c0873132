# SPDX-License-Identifier: Apache-2.0
"""What the network computes in. Parameters, norms, softmax and losses are float32."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from lamd_jax.errors import ConfigError

COMPUTE = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}


def compute_dtype(name: str) -> jnp.dtype:
  """Returns the compute dtype that `config.train.compute` names.

  "auto" is bfloat16 on TPUs and on GPUs that multiply in it, and float32 on the others
  and on a CPU, where XLA's bfloat16 convolutions are no faster and its attention is
  twice as slow.
  """
  if name == "auto":
    name = "bfloat16" if _multiplies_bfloat16(jax.local_devices()[0]) else "float32"
  if name not in COMPUTE:
    raise ConfigError(
      f"train.compute={name!r} is not one of auto, {', '.join(sorted(COMPUTE))}"
    )
  return jnp.dtype(COMPUTE[name])


def _multiplies_bfloat16(device: jax.Device) -> bool:
  if device.platform != "gpu":
    return device.platform != "cpu"
  # "7.5" is a T4, as Colab has: before 8.0 XLA widens each operand to float32. AMD's
  # cards call theirs "gfx90a" and have bfloat16.
  major = device.compute_capability.partition(".")[0]
  return not major.isdigit() or int(major) >= 8
