# SPDX-License-Identifier: Apache-2.0
"""Low-rank changes of a network's attention (LoRA, Hu et al., arXiv 2106.09685).

A projection W [n,m] of an attention becomes W + A B with A [n,rank], B [rank,m]; A is
drawn and B is 0, so that training starts from the network itself. The modules know
nothing of it: changes are added to the parameters before they are used.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

Tree = Any
# Modules that are changed, in the blocks of all systems.
_ATTENTION = (
  "self_attention", "cross_attention", "spatial_attention", "temporal_attention",
  "temporal_attention_0", "temporal_attention_1",
)  # fmt: skip


def init(params: Mapping[str, Tree], rank: int, seed: int | None) -> dict[str, Tree]:
  """Returns {"a": ..., "b": ...} in the place of each projection's kernel.

  Args:
    params: of a network; modules without attention are left out of the result.
    rank: of each change.
    seed: of A, uniform as the kernel was; None gives zeros.
  """
  generator = np.random.default_rng(0 if seed is None else seed)
  return _init(params, rank, generator if seed is not None else None, inside=False)


def _init(
  params: Mapping[str, Tree],
  rank: int,
  generator: np.random.Generator | None,
  inside: bool,
) -> dict[str, Tree]:
  found: dict[str, Tree] = {}
  for name in sorted(params):
    value = params[name]
    if not isinstance(value, Mapping):
      continue
    kernel = value.get("kernel")
    if inside and kernel is not None and len(kernel.shape) == 2:
      rows, columns = kernel.shape
      bound = rows**-0.5
      a = np.zeros((rows, rank), np.float32)
      if generator is not None:
        a = generator.uniform(-bound, bound, a.shape).astype(np.float32)
      found[name] = {"a": a, "b": np.zeros((rank, columns), np.float32)}
      continue
    below = inside or name in _ATTENTION
    if part := _init(value, rank, generator, below):
      found[name] = part
  return found


def merge(
  params: Mapping[str, Tree], changes: Mapping[str, Tree], weight: float
) -> dict[str, Tree]:
  """Returns parameters whose kernels are W + weight A B; all else is as it was."""
  together = dict(params)
  for name, change in changes.items():
    value = params[name]
    if "a" in change and not isinstance(change["a"], Mapping):
      delta = jnp.matmul(change["a"], change["b"], precision="highest")
      together[name] = {**value, "kernel": value["kernel"] + weight * delta}
    else:
      together[name] = merge(value, change, weight)
  return together
