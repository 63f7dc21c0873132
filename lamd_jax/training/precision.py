# SPDX-License-Identifier: Apache-2.0
"""What the network computes in. Parameters, norms, softmax and losses are float32."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from lamd_jax.errors import ConfigError

COMPUTE = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}


def compute_dtype(name: str) -> jnp.dtype:
  """Returns the compute dtype that `config.train.compute` names.

  "auto" is bfloat16 on GPU and TPU and float32 on a CPU, where XLA's bfloat16
  convolutions are no faster and its attention is twice as slow.
  """
  if name == "auto":
    name = "float32" if jax.default_backend() == "cpu" else "bfloat16"
  if name not in COMPUTE:
    raise ConfigError(
      f"train.compute={name!r} is not one of auto, {', '.join(sorted(COMPUTE))}"
    )
  return jnp.dtype(COMPUTE[name])
